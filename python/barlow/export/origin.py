"""Here: where the weights of a file came from: which run, which of its steps, and how much was still to come.

Not here: saying it (card.py), reading weights (model/).
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from barlow import durable
from barlow.config import Config
from barlow.model import weights
from barlow.train.listing import RUN, plan


@dataclass(frozen=True)
class Origin:
    """What is known of it; `step`, `steps` and `per_epoch` are None where it is not."""

    run: Config | None
    record: dict[str, Any] = field(default_factory=dict)
    """run.json; empty where there is none."""
    step: int | None = None
    """Optimizer steps behind the weights."""
    steps: int | None = None
    """Of the whole recipe: a run that `--train.steps` ends earlier has not finished it."""
    per_epoch: int | None = None

    @property
    def unfinished(self) -> bool:
        """Whether the recipe is known to have had more steps."""
        return self.step is not None and self.steps is not None and self.step < self.steps

    @property
    def position(self) -> str:
        """As "after step 8 of 48 (epoch 1 of 6)"; empty where the step is not known."""
        if self.step is None:
            return ""
        if self.run is None or not self.per_epoch:
            return f"after step {self.step:,}"
        epoch, epochs = -(-self.step // self.per_epoch), self.run.optim.epochs
        return f"after step {self.step:,} of {self.steps:,} (epoch {epoch:,} of {epochs:,})"


def of(file: Path, run: Config | None) -> Origin:
    """The origin of a file of weights, by the run folder that it is a checkpoint of, if it is one."""
    step = weights.step_of(file)
    if step is None:
        return Origin(run)
    record = told_by(file.absolute().parents[2] / RUN, durable.read_json)
    if run is None or step == 0:  # what others have trained was imported so if its steps aren't known
        return Origin(run, record)
    per_epoch = plan(dataclasses.asdict(run), record)[1]
    if per_epoch is None and isinstance(imported := record.get("imported"), dict):
        per_epoch = imported.get("steps_per_epoch")
    return Origin(run, record, step, per_epoch and per_epoch * run.optim.epochs, per_epoch)


def told_by(path: Path, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """What a file says that a card can do without; of a damaged one nothing, and a warning."""
    try:
        return read(path) if path.exists() else {}
    except (OSError, ValueError) as error:
        warnings.warn(f"the card leaves out what can't be read: {error}", stacklevel=2)
        return {}
