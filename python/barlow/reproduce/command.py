"""Here: `barlow reproduce` from its words to its files: plan, grid, table, plot, verdicts.

Not here: the command line's syntax (commands/reproduction.py), each of those steps.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from barlow import durable
from barlow.reproduce import cell, grid, images, outcome, plan, plots, progress, tables
from barlow.reproduce.experiments import EXPERIMENTS, Experiment, Row
from barlow.reproduce.plan import Cell
from barlow.reproduce.scales import SCALES, Scale
from barlow.train.lock import alone
from barlow.validation import validate

_LAYING_OUT_S = 300.0
"""Longer than laying out the images of ImageNet takes."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks for."""

    experiment: str
    data: Path
    out: Path
    scale: str
    held_out: Path | None = None
    seeds: int = 0
    """0: the scale's own number."""
    only: Sequence[str] = ()
    jobs: int = 1
    nproc: int = 0
    minutes: float = 0.0
    """0: no limit."""
    keep_weights: bool = False


def listing() -> str:
    """All experiments and scales, a line each."""
    titles = {
        "experiments": {name: experiment.title for name, experiment in EXPERIMENTS.items()},
        "scales": {name: scale.title for name, scale in SCALES.items()},
    }
    width = max(len(name) for named in titles.values() for name in named)
    lines = []
    for kind, named in titles.items():
        lines += [f"{kind}:", *(f"  {name:{width}}  {title}" for name, title in named.items())]
    return "\n".join(lines)


def settings(request: Request) -> tuple[Experiment, Scale, list[Row]]:
    """What the names of a request mean; `ValueError` for one that means nothing."""
    for kind, name, known in (
        ("experiment", request.experiment, EXPERIMENTS),
        ("scale", request.scale, SCALES),
    ):
        if name not in known:
            raise ValueError(f"there is no {kind} {name!r}, only {', '.join(known)}")
    experiment, scale = EXPERIMENTS[request.experiment], SCALES[request.scale]
    return experiment, scale, plan.rows(experiment, scale, request.only)


def describe(request: Request) -> str:
    """The cells of a request as text, and what each row changes; touches nothing."""
    from barlow.ablations import flags

    experiment, scale, rows = settings(request)
    seeds = request.seeds or scale.seeds
    lines = [f"{experiment.title}, scale {request.scale}: {scale.title}"]
    width = max(len(row.name) for row in rows)
    for row in rows:
        paper = (row.unknown or experiment.unknown) if row.paper is None else f"{row.paper:.1f}"
        lines.append(
            f"  {row.name:{width}}  {flags(row.change(), scale.make()) or '(the recipe)'}  [paper: {paper}]"
        )
    made = plan.cells(rows, scale, seeds)
    distinct = len({str(each.config) for each in made})
    lines.append(f"{len(rows)} rows x {seeds} seeds, {distinct} runs of {_length(scale)}")
    lines += [f"note: {note}" for note in (*scale.notes, *experiment.notes(scale))]
    return "\n".join(lines)


def _length(scale: Scale) -> str:
    epochs = scale.make().optim.epochs
    images_of = f"{scale.train_images:,} images" if scale.train_images else "all images"
    return f"{epochs} epoch{'s' * (epochs > 1)} over {images_of}"


def reproduce(request: Request) -> dict[str, Any]:
    """Runs what is left of a grid and writes its results; returns them as they are in the JSON file.

    `OUT/EXPERIMENT.json`, `.md` and `.svg` are written anew whenever a cell is done. `ValueError` before
    anything is trained for whatever cannot work; `grid.Stopped` after a signal.
    """
    experiment, scale, rows = settings(request)
    seeds = request.seeds or scale.seeds
    cells = plan.cells(rows, scale, seeds)
    request.out.mkdir(parents=True, exist_ok=True)
    # Two grids in one folder write the same index files, one after the other.
    with alone(request.out / images.FOLDER, wait_s=_LAYING_OUT_S):
        laid = images.lay_out(request.data, request.held_out, scale, request.out)
    for each in cells:
        _check(each, laid.counts["train"])
    works = _works(cells, laid, request)
    found: dict[str, Any] = {}

    def write() -> None:
        nonlocal found
        shown = plan.cells(_shown(experiment, scale, rows, laid, request), scale, seeds)
        found = outcome.gather(experiment, request.scale, scale, shown, laid, request.out)
        _write(found, request.out)

    write()
    with progress.Display(request.experiment, request.jobs) as display, _pruned(works, request.keep_weights):
        ready = sum(work.done for work in works)
        display.say(f"{experiment.title}: {len(works)} cells, {ready} of them done, in {request.out}")

        def tell(all_works: Sequence[grid.Work], ended: grid.Work | None) -> None:
            if ended is not None:
                write()
            display.tell(all_works, ended)

        until_s = time.monotonic() + 60 * request.minutes if request.minutes else float("inf")
        try:
            grid.run(works, jobs=request.jobs, until_s=until_s, tell=tell)
        finally:
            write()
    return found


def _shown(
    experiment: Experiment, scale: Scale, rows: Sequence[Row], laid: images.Images, request: Request
) -> list[Row]:
    """The rows asked for, and those that an earlier command has run."""
    asked = {row.name for row in rows}
    every = plan.cells(experiment.rows(scale), scale, request.seeds or scale.seeds)
    done = {each.row.name for each in every if cell.result(each.folder(request.out, laid.digest))}
    return [row for row in experiment.rows(scale) if row.name in asked | done]


def _check(each: Cell, num_images: int) -> None:
    try:
        validate(each.config, num_samples=num_images, world_size=1)
    except ValueError as error:
        raise ValueError(f"row {each.row.name}: {error}") from None


def _works(cells: Sequence[Cell], laid: images.Images, request: Request) -> list[grid.Work]:
    """One for each folder: equal cells are done once."""
    works: dict[Path, grid.Work] = {}
    for each in cells:
        folder = each.folder(request.out, laid.digest)
        task = cell.Task(
            config=each.config,
            train=laid.train.absolute(),
            bank=laid.bank.absolute(),
            test=laid.test.absolute(),
            baselines=each.is_baseline,
            nproc=request.nproc,
            keep_weights=request.keep_weights,
        )
        name = f"{each.row.name} seed {each.seed}"
        works.setdefault(folder, grid.Work(name=name, row=each.row.name, folder=folder, task=task))
    return list(works.values())


@contextmanager
def _pruned(works: Sequence[grid.Work], keep: bool) -> Iterator[None]:
    """A cell that died between its result and the end left its checkpoints."""
    for work in works:
        if work.done and not keep:
            cell.prune(work.folder)
    yield


def _write(found: dict[str, Any], out: Path) -> None:
    name = found["experiment"]
    durable.write_file(out / f"{name}.json", json.dumps(found, indent=2, allow_nan=False) + "\n")
    durable.write_file(out / f"{name}.svg", plots.svg(found))
    durable.write_file(out / f"{name}.md", tables.markdown(found, f"{name}.svg"))
