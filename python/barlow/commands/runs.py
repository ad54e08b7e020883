"""Here: the subcommands about runs that exist: report, import.

Not here: the work, training, evaluating (evaluation.py).
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import tyro

from barlow.commands.arguments import MAX_PROCESSES, Run, Runs, check


def report(runs: Runs, *, out: Path | None = None) -> None:
    """Draws a run, or several side by side, as one HTML file.

    The file needs no network and no other file (docs/report.md).

    Args:
        runs: Run folders.
        out: File to write; by default RUN/report.html, of several runs report.html in the working directory.
    """
    from barlow.report import write

    print(write(runs, out, progress=lambda title: print(f"drawing: {title}", file=sys.stderr, flush=True)))


def import_run(
    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")],
    run: Run,
    *,
    data: Path | None = None,
    flags: str = "",
    processes: int = 32,
) -> None:
    """Makes a run folder of a checkpoint of the official code.

    Says what each flag of that code became. RUN can then be evaluated, exported and reported on; a full
    checkpoint.pth imported with --data can also be trained further: `barlow train DATA --run RUN`. Nothing in
    the file is executed.

    Args:
        source: checkpoint.pth, or the weights of a backbone such as resnet50.pth.
        run: New folder.
        data: Images to go on training with.
        flags: Command line of the official run: --flags="--epochs 300", or the first line of its stats.txt.
        processes: GPUs of the official run, which its rates of biases and its weight decay depend on: 32 in
            the paper, 16 in the official README.
    """
    from barlow.official import import_run

    check("--processes", processes, 1, MAX_PROCESSES)
    made = import_run(source, run, data=data, flags=flags, processes=processes)
    width = max(len(official) for official, _ in made.rows)
    for official, ours in made.rows:
        print(f"{official:{width}}  {ours}")
    print(f"wrote {run}")
    if made.cannot_train:
        print(f"for eval, export and report only: {made.cannot_train}")
    else:
        print(f"to go on: barlow train {shlex.quote(str(data))} --run {shlex.quote(str(run))}")
