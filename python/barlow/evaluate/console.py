"""Here: what an evaluation says while it runs, and its table at the end.

Not here: numbers; they come in and are only laid out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rich.console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from barlow.evaluate.features import Progress as Report


class Console:
    """A progress bar on a terminal, one plain line per finished stage otherwise; `quiet`: nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = rich.console.Console(quiet=quiet, highlight=False)

    def say(self, text: str) -> None:
        """One line of text; square brackets in it are text as well."""
        self._console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str) -> Iterator[Report]:
        """Shows a stage while the block runs; yields the callback that moves it on."""
        began, total_seen = time.monotonic(), 0
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        visible = self._console.is_terminal and not self._console.quiet
        with Progress(
            *columns, TimeRemainingColumn(), console=self._console, transient=True, disable=not visible
        ) as bar:
            task = bar.add_task(name, total=None)

            def report(done: int, total: int) -> None:
                nonlocal total_seen
                total_seen = total
                bar.update(task, completed=done, total=total)

            yield report
        self.say(f"{name}: {total_seen:,} in {time.monotonic() - began:.1f} s")

    def table(self, result: dict[str, Any], path: Path) -> None:
        """The accuracies, what is missing and why, and where the whole result is."""
        if result["knn"] is not None:
            table = Table(title="Top-1, percent")
            for column in ("", "kNN", "linear"):
                table.add_column(column, justify="right" if column else "left")
            for name, key in (("trained", None), ("untrained", "untrained"), ("raw pixels", "raw_pixels")):
                row = result if key is None else result.get(key)
                if row is not None:
                    table.add_row(name, *(f"{row[probe]['top1']:.2f}" for probe in ("knn", "linear")))
            self._console.print(table)
        else:
            self.say(f"No accuracies: {result['reason']}.")
        table = Table(title="Without labels")
        for column in ("", "effective rank", "a view finds its twin, %"):
            table.add_column(column, justify="right" if column else "left")
        for name, row in (("trained", result), ("untrained", result.get("untrained"))):
            if row is not None:
                free = row["label_free"]
                rank = f"{free['effective_rank']:.2f} of {free['num_features']}"
                table.add_row(name, rank, f"{free['instance_retrieval_top1']:.2f}")
        self._console.print(table)
        for note in result["protocol"]["deviations"]:
            self.say(f"differs from the official protocol: {note}")
        self.say(f"wrote {path}")
