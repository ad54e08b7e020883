"""Here: what a person sees while a grid runs: a line for each cell that has ended, and the time to the end.

Not here: the cells' own words, which are in their logs.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from barlow.reproduce import cell
from barlow.reproduce.grid import Work

_EVERY_S = 60.0
"""Between two lines about the cells under way, where there is no terminal."""
_TAIL_BYTES = 1 << 16


class Display:
    """A context manager; `tell` is what `grid.run` calls."""

    def __init__(self, title: str, jobs: int, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._jobs, self._told_s = jobs, time.monotonic()
        columns = (
            TextColumn(title),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task(title, total=None, note="")

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, words: str) -> None:
        """A line that stays."""
        self._console.print(words, markup=False)

    def tell(self, works: Sequence[Work], ended: Work | None) -> None:
        """Says what has ended; and at times how far the others are."""
        done = sum(work.done for work in works)
        left = f"ETA {clock(remaining_s(works, self._jobs))}"
        if ended is not None and not ended.elsewhere:
            self.say(f"{done}/{len(works)}  {ended.name}: {_outcome(ended)}  {left}")
        running = [f"{work.name} {100 * share(work):.0f} %" for work in works if work.process is not None]
        note = f"{', '.join(running)}  {left}"
        self._bar.update(self._task, completed=done, total=len(works), note=note)
        if not self._console.is_terminal and running and time.monotonic() - self._told_s >= _EVERY_S:
            self._told_s = time.monotonic()
            self.say(f"{done}/{len(works)}  at work: {note}")


def _outcome(work: Work) -> str:
    found = cell.result(work.folder)
    if found is None:
        return work.error or "stopped; what it did is saved"
    if "failed" in found:
        return f"failed: {found['failed']}"
    return f"linear {found['linear']:.1f}  kNN {found['knn']:.1f}  ({clock(work.seconds)})"


def share(work: Work) -> float:
    """How much of a cell's training is done, from 0 to 1, as its last line of metrics says."""
    config = work.task.config
    found = _last_line(work.folder / cell.RUN / "metrics.jsonl")
    if found is None:
        return 0.0
    if config.train.steps:
        return min(1.0, found["step"] / config.train.steps)
    return min(1.0, found["epoch"] / config.optim.epochs)


def _last_line(path: Path) -> dict[str, float] | None:
    with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        whole = file.read().rpartition(b"\n")[0]  # a line being written has no end yet
        return json.loads(whole.rpartition(b"\n")[2])
    return None


def remaining_s(works: Sequence[Work], jobs: int) -> float | None:
    """Seconds to the end; None while nothing says how long a cell takes.

    A cell is taken to last as long as one of its row that was done here, or else as all of those did on
    average; of the ones under way, their time so far is taken off.
    """
    known = {work.row: work.seconds for work in works if work.seconds}
    if not known:
        return None
    usual = sum(known.values()) / len(known)
    now = time.monotonic()
    total = 0.0
    for work in works:
        if not work.done:
            spent = now - work.began_s if work.process is not None else 0.0
            total += max(0.0, known.get(work.row, usual) - spent)
    return total / jobs


def clock(seconds: float | None) -> str:
    """Hours, minutes, seconds; or a question mark."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
