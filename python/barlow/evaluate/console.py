"""Here: what an evaluation says while it runs, line by line or as a bar.

Not here: what its tables hold (tables.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

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
        took = f"{time.monotonic() - began:.1f} s"
        self.say(f"{name}: {total_seen:,} in {took}" if total_seen else f"{name}: kept, read in {took}")

    def show(self, table: Table) -> None:
        """A table."""
        self._console.print(table)
