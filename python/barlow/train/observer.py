"""Here: what becomes of a line of metrics on the first rank: kNN added, alarms examined, told everywhere.

Not here: measuring (health.py), the illnesses (alarms.py), files (metrics.py), the terminal (progress.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from barlow.config import Config
from barlow.data import Index
from barlow.train.alarms import Facts, examine
from barlow.train.metrics import Metrics
from barlow.train.progress import Display

Judge = Callable[[nn.Module, Callable[[], bool]], float | None]
"""A backbone -> percent of held-out images that its neighbours classify rightly; None if it can't be said, or
if an image never comes and the function says that nobody waits any more."""
MakeJudge = Callable[[Index, Config, torch.device], Judge | None]
"""Given from above (`barlow.evaluate.online`), which this room may not import; None without labels."""


class Observer:
    """Tells metrics and display of a line, with kNN and alarms in it."""

    def __init__(
        self,
        metrics: Metrics,
        display: Display,
        config: Config,
        judge: Judge | None,
        gives_up: Callable[[], bool],
    ) -> None:
        self._metrics, self._display, self._judge, self._gives_up = metrics, display, judge, gives_up
        self._facts = Facts.of(config)

    def tell(self, line: dict[str, Any], backbone: nn.Module | None) -> None:
        """A line of `health.line`, and the backbone if it is due to be judged."""
        if backbone is not None and self._judge is not None:
            top1 = self._judge(backbone, self._gives_up)
            line |= {} if top1 is None else {"knn_top1": top1}
        alarms = examine([*self._metrics.lines, line], self._facts)
        if alarms:
            line["alarms"] = [alarm.illness.name for alarm in alarms]
        self._metrics.write(line)
        self._display.show(line, alarms)
