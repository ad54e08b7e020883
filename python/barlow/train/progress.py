"""Here: what a person sees while a run trains: a live panel on a terminal, plain lines anywhere else.

Not here: measuring (the loop does), files.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text


class Display:
    """Shows steps and metrics of one run; a context manager. `quiet`: shows nothing, as on later ranks."""

    def __init__(self, first_step: int, last_step: int, steps_per_epoch: int, *, quiet: bool = False) -> None:
        self._first, self._last, self._steps_per_epoch = first_step, last_step, steps_per_epoch
        self._console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self._is_live = self._console.is_terminal and not quiet
        self._start_s = time.monotonic()
        self._numbers = Text("waiting for the first step", style="dim")
        self._bar = Progress(
            BarColumn(bar_width=None),
            TextColumn("step {task.completed}/{task.total}"),
            TextColumn("{task.fields[epoch]}"),
            TextColumn("ETA {task.fields[eta]}"),
            console=self._console,
            expand=True,
        )
        self._task = self._bar.add_task(
            "", total=last_step, completed=first_step, epoch=self._epoch(first_step), eta="-"
        )
        self._live = Live(Group(self._bar, self._numbers), console=self._console, refresh_per_second=4)

    def say(self, text: str) -> None:
        """One line of text, above the panel on a terminal."""
        self._console.print(text, markup=False)

    def advance(self, step: int) -> None:
        """`step` optimizer steps are done."""
        if self._is_live:
            self._bar.update(self._task, completed=step, epoch=self._epoch(step), eta=self._eta(step))

    def show(self, line: dict[str, Any]) -> None:
        """A line of metrics."""
        rate = line["images_per_s"]
        floor = line.get("loss_floor")
        loss = f"{line['loss']:.4g}" if floor is None else f"{line['loss']:.1f} (floor {floor:.1f})"
        numbers = (
            f"loss {loss}  {rate:.{0 if rate >= 10 else 1}f} images/s  "
            f"waiting for data {100 * line['wait_share']:.0f} %"
        )
        if self._is_live:
            self._numbers.plain = numbers
        else:
            step = line["step"]
            self.say(f"step {step}/{self._last}  {self._epoch(step)}  {numbers}  ETA {self._eta(step)}")

    def __enter__(self) -> Display:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_live:
            self._live.stop()

    def _epoch(self, step: int) -> str:
        epochs = self._last / self._steps_per_epoch
        decimals = 1 if epochs >= 1 else 2
        return f"epoch {step / self._steps_per_epoch:.{decimals}f}/{round(epochs, decimals):g}"

    def _eta(self, step: int) -> str:
        done = step - self._first
        if done <= 0:
            return "-"
        return duration((time.monotonic() - self._start_s) / done * (self._last - step))


def duration(seconds: float) -> str:
    """Seconds as `1:02:03`, with days in front where there are any."""
    minutes, whole_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days} d " if days else "") + f"{hours}:{minutes:02d}:{whole_s:02d}"
