"""Here: the subcommand `reproduce`.

Not here: experiments, scales, running them (reproduce/).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import tyro

from barlow.commands.arguments import MAX_THREADS, check
from barlow.commands.stopping import goes_on

_MAX_SEEDS = 1000


def reproduce(
    experiment: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="EXPERIMENT")] = "",
    data: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="DATA")] = None,
    *,
    out: Path = Path("reproduction"),
    scale: Annotated[str, tyro.conf.arg(metavar="NAME", help_behavior_hint="(required)")] = "",
    seeds: int = 0,
    held_out: Path | None = None,
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ROW ...")] = (),
    jobs: int = 1,
    nproc: int = 0,
    minutes: float = 0.0,
    keep_weights: bool = False,
    list: bool = False,
    dry_run: bool = False,
) -> None:
    """Repeats an experiment of the paper as a grid of runs.

    `barlow reproduce --list` names the experiments and scales. What comes out is a table, a plot, and which
    of the paper's claims hold. Every row is trained and evaluated with every seed. OUT/EXPERIMENT.md, .svg
    and .json have the results so far beside the paper's. Whatever ended it, the same command goes on; several
    of them, on several machines, share the cells of one OUT. Exit code 0: all is done, or as much as
    --minutes allowed.

    Args:
        experiment: table-5, table-6, figure-2, figure-3, figure-4, figure-5 or methods.
        data: Images with labels; DATA/train and DATA/held-out, if there are such.
        out: Folder of the grid: new, or one to go on with. Experiments with equal cells share them there.
        scale: How large: paper (ImageNet), cifar10 (one GPU), cifar10-cpu, cifar10-five-minutes or
            cifar10-minute (CPU cores).
        seeds: Runs of each row, each with a seed of its own; 0: as many as the scale says.
        held_out: Images to test on; by default as in `barlow eval`.
        only: Rows to run, beside the first one, with which they are compared.
        jobs: Cells at a time; on a CPU each gets its share of the cores.
        nproc: Training processes of each cell; 0 is one for each GPU, or one.
        minutes: Stop after so long, with a checkpoint; 0: at the end.
        keep_weights: Keep the last checkpoint of every cell.
        list: Print all experiments and scales, and do nothing else.
        dry_run: Print the rows, what each changes and how many runs it makes; write nothing.
    """
    from barlow.reproduce import SCALES, Request, Stopped, describe, listing
    from barlow.reproduce import reproduce as run

    check("--seeds", seeds, 0, _MAX_SEEDS)
    check("--jobs", jobs, 1, MAX_THREADS)
    check("--nproc", nproc, 0, MAX_THREADS)
    if not 0 <= minutes < float("inf"):
        raise ValueError(f"--minutes must be 0 or more, not {minutes}")
    if list:
        print(listing())
        return
    if not experiment or (data is None and not dry_run):
        raise ValueError("EXPERIMENT and DATA are needed; `barlow reproduce --list` shows the experiments")
    if not scale:
        raise ValueError(f"--scale is needed, one of {', '.join(SCALES)}")
    request = Request(
        experiment=experiment,
        data=data or Path(),
        out=out,
        scale=scale,
        held_out=held_out,
        seeds=seeds,
        only=only,
        jobs=jobs,
        nproc=nproc,
        minutes=minutes,
        keep_weights=keep_weights,
    )
    if dry_run:
        print(describe(request))
        return
    try:
        with goes_on(alone=False):
            found = run(request)
    except Stopped as stop:
        print(f"barlow: {stop}; the same command goes on", file=sys.stderr)
        raise SystemExit(128 + stop.number) from None
    _close(found, out, limited=minutes > 0)


def _close(found: dict[str, object], out: Path, *, limited: bool) -> None:
    """Last words, and the exit code."""
    print((out / f"{found['experiment']}.md").read_text(encoding="utf-8"))
    done, cells = found["cells_done"], found["cells"]
    if done != cells:
        print(f"barlow: {done} of {cells} cells are done; the same command goes on", file=sys.stderr)
        if not limited:
            raise SystemExit(1)
