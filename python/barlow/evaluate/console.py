"""Here: what an evaluation says while it runs, line by line or as a bar.

Not here: what its tables hold (tables.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich.console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from barlow.evaluate.features import Progress as Report

_EVERY_S = 30.0
"""Between two lines about a stage that lasts, where no bar moves."""
_LOG_WIDTH = 120
"""Columns of a table where no terminal limits them."""


class Console:
    """A progress bar on a terminal and a line for each finished stage; `quiet`: nothing.

    Elsewhere also a line when a part begins, half-minutely ones while a stage lasts, and one when a part has
    ended: a log that stands still would look like a process that hangs.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = rich.console.Console(quiet=quiet, highlight=False)
        self._shows_bars = self._console.is_terminal and not quiet
        if not self._console.is_terminal:
            self._console.width = max(self._console.width, _LOG_WIDTH)

    def say(self, text: str) -> None:
        """One line of text; square brackets in it are text as well."""
        self._console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def part(self, name: str) -> Iterator[Callable[[str], None]]:
        """Where no bar moves, a line when the block begins and one when it ends.

        Yields a function that takes what the second line is to say.
        """
        began, found = time.monotonic(), ""

        def note(text: str) -> None:
            nonlocal found
            found = text

        if not self._shows_bars:
            self.say(f"{name}: begins")
        yield note
        if not self._shows_bars:
            self.say(f"{name}: {found}{', ' if found else ''}in {time.monotonic() - began:.1f} s")

    @contextmanager
    def stage(self, name: str) -> Iterator[Report]:
        """Shows a stage while the block runs; yields the callback that moves it on."""
        began, total_seen = time.monotonic(), 0
        said = began
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        with Progress(
            *columns,
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._shows_bars,
        ) as bar:
            task = bar.add_task(name, total=None)

            def report(done: int, total: int) -> None:
                nonlocal total_seen, said
                total_seen = total
                bar.update(task, completed=done, total=total)
                if not self._shows_bars and time.monotonic() - said >= _EVERY_S:
                    said = time.monotonic()
                    self.say(f"{name}: {done:,} of {total:,} so far")

            yield report
        took = f"{time.monotonic() - began:.1f} s"
        self.say(f"{name}: {total_seen:,} in {took}" if total_seen else f"{name}: kept, read in {took}")

    def show(self, table: Table) -> None:
        """A table."""
        self._console.print(table)
