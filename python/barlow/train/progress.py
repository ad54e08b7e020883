"""Here: what a person sees while a run trains: a live panel on a terminal, plain lines anywhere else.

Not here: measuring (the loop does), what is ill (alarms.py), files.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # for which torch would be imported
    from barlow.train.alarms import Alarm

MAX_WIDTH = 100
"""Columns of the panel: beyond, the eye loses the row."""

Line = dict[str, Any]


class Display:
    """Shows steps and metrics of one run; a context manager. `quiet`: shows nothing, as on later ranks.

    `possible_rank`: the most directions that RankMe can find; `title`: of the panel.
    """

    def __init__(
        self,
        first_step: int,
        last_step: int,
        steps_per_epoch: int,
        *,
        quiet: bool = False,
        title: str = "",
        possible_rank: int | None = None,
        console: Console | None = None,
    ) -> None:
        self._first, self._last, self._steps_per_epoch = first_step, last_step, steps_per_epoch
        self._console = console or Console(quiet=quiet, highlight=False, soft_wrap=True)
        self._is_live = self._console.is_terminal and not quiet
        self._start_s = time.monotonic()
        self._title, self._possible_rank = title, possible_rank
        self._line: Line = {}
        self._alarms: Sequence[Alarm] = ()
        self._judged: tuple[float, float] | None = None
        self._saved: int | None = None
        self._limits = ""
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
        self._live = Live(
            get_renderable=self.panel, console=self._console, refresh_per_second=4, auto_refresh=True
        )

    def say(self, text: str) -> None:
        """One line of text, above the panel on a terminal."""
        self._console.print(text, markup=False)

    def advance(self, step: int) -> None:
        """`step` optimizer steps are done."""
        if self._is_live:
            self._bar.update(self._task, completed=step, epoch=self._epoch(step), eta=self._eta(step))

    def saved(self, step: int) -> None:
        """There is a checkpoint of this step; below 0: none that is new."""
        self._saved = self._saved if step < 0 else step

    def limits(self, text: str) -> None:
        """Which stage limits, in a sentence; a line of its own where there is no panel."""
        self._limits = text
        if not self._is_live:
            self.say(text)

    def show(self, line: Line, alarms: Sequence[Alarm] = ()) -> None:
        """A line of metrics and the alarms after it; what alarms say is printed when they are new."""
        before = {alarm.illness.name for alarm in self._alarms}
        self._line, self._alarms = line, alarms
        if line.get("knn_top1") is not None:
            self._judged = line["knn_top1"], line["epoch"]
        if not self._is_live:
            step = line["step"]
            numbers = "  ".join(filter(None, (loss_text(line), _correlation(line), _speed(line), _knn(line))))
            self.say(f"step {step}/{self._last}  {self._epoch(step)}  {numbers}  ETA {self._eta(step)}")
        for alarm in alarms:
            if alarm.illness.name not in before:
                self.say(str(alarm))
        for name in sorted(before - {alarm.illness.name for alarm in alarms}):
            self.say(f"over: {name}")

    def panel(self) -> RenderableType:
        """The panel as it is now."""
        rows: list[RenderableType] = [self._bar]
        rows.append(self._numbers() if self._line else Text("waiting for the first step", style="dim"))
        if self._limits:
            rows.append(Text(self._limits, style="dim", overflow="ellipsis", no_wrap=True))
        for alarm in self._alarms:
            style = "yellow" if alarm.illness.is_note else "bold red"
            rows.append(Text(f"{alarm.illness.title}: {alarm.symptom}", style=style))
        if self._line and not self._alarms:
            rows.append(Text("no alarms", style="green"))
        width = min(self._console.width, MAX_WIDTH)
        return Panel(Group(*rows), title=escape(self._title) or None, title_align="left", width=width)

    def _numbers(self) -> Table:
        line, table = self._line, Table.grid(padding=(0, 1), expand=True)
        for ratio in (4, 10, 4, 9):
            table.add_column(ratio=ratio, no_wrap=True, overflow="ellipsis")
        dimensions = f" of {self._possible_rank}" if self._possible_rank else ""
        rank = f"{_short(line.get('rank_me'))}{dimensions}"
        if line.get("dead_dimensions"):
            rank += f", {line['dead_dimensions']} dead"
        floor = f" (floor {_short(line['loss_floor'])})" if line.get("loss_floor") is not None else ""
        judged = "-" if self._judged is None else f"{self._judged[0]:.1f} % (epoch {self._judged[1]:.1f})"
        saved = "-" if self._saved is None else f"step {self._saved}"
        rows = (
            ("loss", f"{_short(line.get('loss'))}{floor}", "images/s", _rate(line)),
            ("RankMe", rank, "waiting", f"{100 * line['wait_share']:.0f} % for data"),
            ("C_ii", f"{_short(line.get('on_diagonal'))} (1 is alike)", "kNN", judged),
            ("C_ij", f"{_short(line.get('off_diagonal_rms'))} ({_chance(line)} by chance)", "saved", saved),
            (
                "gradient",
                f"{_short(line.get('grad_norm'))}, alpha-ReQ {_short(line.get('alpha_req'))}",
                "lr",
                f"{_short(line.get('lr_weights'))}, moves {_percent(line.get('update_ratio'))}",
            ),
        )
        for name, value, other_name, other_value in rows:
            table.add_row(Text(name, style="dim"), value, Text(other_name, style="dim"), other_value)
        return table

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


def loss_text(line: Line) -> str:
    """The loss beside its floor where there is one."""
    loss, floor = line.get("loss"), line.get("loss_floor")
    if loss is None:
        return "loss not finite"
    return f"loss {loss:.4g}" if floor is None else f"loss {loss:.1f} (floor {floor:.1f})"


def _correlation(line: Line) -> str:
    if line.get("on_diagonal") is None:
        return ""
    return (
        f"C_ii {line['on_diagonal']:.2f}  C_ij {_short(line.get('off_diagonal_rms'))} ({_chance(line)})"
        f"  RankMe {_short(line.get('rank_me'))}"
    )


def _speed(line: Line) -> str:
    return f"{_rate(line)} images/s  waiting for data {100 * line['wait_share']:.0f} %"


def _knn(line: Line) -> str:
    return f"kNN {line['knn_top1']:.1f} %" if line.get("knn_top1") is not None else ""


def _rate(line: Line) -> str:
    rate = line["images_per_s"]
    return f"{rate:.{0 if rate >= 10 else 1}f}"


def _chance(line: Line) -> str:
    return _short(line.get("off_diagonal_expected"))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2g} %"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def duration(seconds: float) -> str:
    """Seconds as `1:02:03`, with days in front where there are any."""
    minutes, whole_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days} d " if days else "") + f"{hours}:{minutes:02d}:{whole_s:02d}"
