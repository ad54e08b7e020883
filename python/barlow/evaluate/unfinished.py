"""Here: what is done of an evaluation, on the disk, so that one that was interrupted goes on.

Not here: training, tests, what the numbers mean.

OUT.partial/ holds settings.json, NAME.json for each part that is done, and of the one under way the folder
`training` (durable.py) with weights, momentum and what else is known after so many steps or epochs. Whoever
trains draws what is random by the number of the step, so what goes on ends in the bits of what was never
stopped.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from barlow import durable
from barlow.distributed import broadcast_value, rank_in
from barlow.evaluate.resuming import differences
from barlow.model import weights

Json = dict[str, Any]
_SETTINGS, _TRAINING = "settings.json", "training"
_PROGRESS, _WEIGHTS, _MOMENTUM = "progress.json", "weights.safetensors", "momentum.safetensors"
EVERY_S = 300.0
"""Between two saves: what a kill costs at most, beside a save of some hundred MB."""


class Unfinished:
    """The folder beside the result `out`. All ranks call the same; the first one writes, all of them read.

    `settings`: all that decides about the numbers, as JSON. `ValueError` if there is a beginning by other
    ones; nothing is changed then. What took less than `worth_s` to compute is not kept. A disk that is full,
    or another process of the same evaluation that ends and removes the folder, costs a warning and no number.
    """

    def __init__(self, out: Path, settings: Json, *, every_s: float = EVERY_S, worth_s: float = 0.0) -> None:
        self.folder = out.with_name(f"{out.name}.partial")
        self._every_s, self._worth_s, self._saved = every_s, worth_s, time.monotonic()
        self._settings: Json = json.loads(json.dumps(settings))
        told = ""
        if rank_in() == 0 and (self.folder / _SETTINGS).exists():
            durable.remove_leftovers(self.folder)
            told = differences(durable.read_json(self.folder / _SETTINGS), self._settings)
        if told := broadcast_value(told):
            raise ValueError(f"{self.folder} was begun otherwise: {told}; remove it, or choose another --out")

    def result(self, name: str) -> Json | None:
        """What the part of this name gave, if it is done."""
        path = self.folder / f"{name}.json"
        return broadcast_value(durable.read_json(path) if rank_in() == 0 and path.exists() else None)

    def keep_result(self, name: str, result: Json, *, took_s: float = 0.0) -> None:
        """From now on the part of this name is done."""
        if rank_in() == 0 and took_s >= self._worth_s:
            with _best_effort():
                self._begin()
                durable.write_file(self.folder / f"{name}.json", json.dumps(result, indent=2) + "\n")

    def due(self) -> bool:
        """Whether the save before was long ago, by the first rank's clock: the same on all of them."""
        return broadcast_value(rank_in() == 0 and time.monotonic() - self._saved >= self._every_s)

    def load(self, name: str, module: nn.Module, optimizer: torch.optim.Optimizer | None) -> Json | None:
        """Puts a beginning of this part into both and gives what was saved with it; None: there is none."""
        folder = self.folder / _TRAINING
        progress: Json | None = broadcast_value(_progress(folder, name) if rank_in() == 0 else None)
        if progress is None or optimizer is None:  # None: a rank that trains nothing
            return progress
        weights.load_strictly(module, weights.read(folder / _WEIGHTS)[0], folder / _WEIGHTS)
        momentum = weights.read(folder / _MOMENTUM)[0]
        for parameter_name, parameter in module.named_parameters():
            if optimizer is not None and parameter_name in momentum:
                optimizer.state[parameter]["momentum_buffer"] = momentum[parameter_name].to(parameter.device)
        return progress

    def save(
        self,
        name: str,
        module: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        progress: Json,
        *,
        last: bool = False,
    ) -> None:
        """Keeps both with `progress`, if it is the `last` time or the one before was long ago."""
        if (
            rank_in() > 0
            or optimizer is None
            or (time.monotonic() - self._saved < self._every_s and not last)
        ):
            return
        momentum = {
            parameter_name: optimizer.state[parameter]["momentum_buffer"]
            for parameter_name, parameter in module.named_parameters()
            if optimizer.state[parameter].get("momentum_buffer") is not None
        }
        files = {
            _PROGRESS: (json.dumps({"name": name, "progress": progress}) + "\n").encode(),
            _WEIGHTS: weights.encode(module.state_dict()),
            _MOMENTUM: weights.encode(momentum),
        }
        with _best_effort():
            self._begin()
            durable.write_folder(self.folder / _TRAINING, files)
        self._saved = time.monotonic()

    def _begin(self) -> None:
        if not (self.folder / _SETTINGS).exists():
            durable.write_file(self.folder / _SETTINGS, json.dumps(self._settings, indent=2) + "\n")

    def remove(self) -> None:
        """When the result is in its place."""
        if rank_in() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)  # nobody takes it for anything any more


@dataclass(frozen=True)
class Part:
    """One part of what is unfinished, by its name: what whoever trains it wants to know."""

    unfinished: Unfinished
    name: str

    def load(self, module: nn.Module, optimizer: torch.optim.Optimizer | None) -> Json | None:
        """`Unfinished.load` of this part."""
        return self.unfinished.load(self.name, module, optimizer)

    def due(self) -> bool:
        """`Unfinished.due`: worth asking where a save needs the other ranks' share."""
        return self.unfinished.due()

    def save(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        progress: Json,
        *,
        last: bool = False,
    ) -> None:
        """`Unfinished.save` of this part."""
        self.unfinished.save(self.name, module, optimizer, progress, last=last)


@contextlib.contextmanager
def _best_effort() -> Iterator[None]:
    """What can't be kept is told: hours of work don't end for that."""
    try:
        yield
    except OSError as error:
        warnings.warn(f"what is done is not kept: {error}", stacklevel=4)


def _progress(folder: Path, name: str) -> Json | None:
    """Of a beginning of this part; damage is told, and then there is none."""
    if not folder.is_dir():
        return None
    try:
        durable.verify_folder(folder, (_PROGRESS, _WEIGHTS, _MOMENTUM))
        found = durable.read_json(folder / _PROGRESS)
        return dict(found["progress"]) if found["name"] == name else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"what was under way begins anew: {error}", stacklevel=3)
        return None
