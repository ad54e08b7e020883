"""Here: the subcommand `runs`: its table, on a terminal and elsewhere.

Not here: reading run folders (train/listing.py).
"""

from __future__ import annotations

import dataclasses
import json as json_format
import sys
import time
from pathlib import Path
from typing import Annotated

import tyro

from barlow.train.listing import Run, runs

_COLOURS = {
    "running": "cyan",
    "finished": "green",
    "stopped": "yellow",
    "failed": "red",
    "damaged": "red",
    "empty": "dim",
}
_HEADS = ("run", "state", "progress", "loss (floor)", "diagonal", "off it", "best kNN", "seen")
_NARROW = ("diagonal", "off it")
"""Columns that a terminal of less than 100 columns does without."""


def list_runs(
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")], *, json: bool = False
) -> None:
    """Lists the runs in a folder, and how each one is.

    Its state and progress, its health as last measured, its best kNN top-1 in percent. Looks into DIR and one
    folder further. A run is running, stopped (by a signal, or killed), finished,
    failed, damaged (its files contradict themselves) or empty (it has not taken a step).

    Args:
        folder: Folder of run folders, or one run.
        json: Print a JSON list of objects instead of a table.
    """
    found = runs(folder)
    if json:
        print(json_format.dumps([dataclasses.asdict(run) for run in found], indent=2))
    elif not found:
        print(f"no runs in {folder}")
    elif sys.stdout.isatty():
        _coloured(found)
    else:
        _plain(found)


def _cells(run: Run, now_s: float) -> tuple[str, ...]:
    health = run.health
    loss, floor = health.get("loss"), health.get("loss_floor")
    share = f" {100 * run.step // run.steps} %" if run.steps else ""
    return (
        run.name,
        _state(run),
        f"{run.step:,}/{run.steps:,}{share}" if run.steps is not None else f"{run.step:,}",
        ("-" if loss is None else f"{loss:.4g}") + ("" if floor is None else f" ({floor:.4g})"),
        _fixed(health.get("on_diagonal"), 3),
        _fixed(health.get("off_diagonal_rms"), 3),
        _fixed(run.best_knn, 1),
        "-" if run.seen_s is None else f"{age(now_s - run.seen_s)} ago",
    )


def _state(run: Run) -> str:
    if run.state == "stopped" and run.why.startswith("SIG"):
        return f"stopped by {run.why}"
    return "killed" if (run.state, run.why) == ("stopped", "killed") else run.state


def _remarks(run: Run) -> list[str]:
    """What does not fit into a column."""
    said = [f"{run.state}: {run.why}"] if run.state in ("failed", "damaged") and run.why else []
    return said + [f"alarm: {alarm}" for alarm in run.alarms]


def _fixed(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def age(seconds: float) -> str:
    """Seconds in their largest fitting unit, such as `3 min` or `2 d`."""
    for unit, length_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length_s:
            return f"{seconds // length_s:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def _plain(found: list[Run]) -> None:
    now_s = time.time()
    rows = [_HEADS, *(_cells(run, now_s) for run in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for run in found:
        for remark in _remarks(run):
            print(f"{run.name}: {remark}")


def _coloured(found: list[Run]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, now_s = Console(highlight=False), time.time()
    table = Table(box=None, pad_edge=False, header_style="bold")
    kept = [i for i, head in enumerate(_HEADS) if console.width >= 100 or head not in _NARROW]
    for head in (_HEADS[i] for i in kept):
        table.add_column(head, justify="left" if head in ("run", "state") else "right", overflow="fold")
    for run in found:
        cells = [Text(cell) for cell in _cells(run, now_s)]
        cells[1].stylize(_COLOURS[run.state])
        table.add_row(*(cells[i] for i in kept))
    console.print(table)
    for run in found:
        for remark in _remarks(run):
            console.print(Text.assemble((run.name, "bold"), f": {remark}"))
