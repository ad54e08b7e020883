"""Here: what is done of `barlow detect`, on the disk, so that one that was interrupted goes on.

Not here: training, tests, what the numbers mean.

OUT.partial/ holds settings.json, seed-N.json for each detector that is trained and tested, and the folder
`training` (durable.py) with the weights, the momentum and the losses of the one under way. A step's draws are
a function of its number (training.py), so what goes on ends in the bits of what was never stopped.
"""

from __future__ import annotations

import json
import shutil
import time
import warnings
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
_PROGRESS, _WEIGHTS, _MOMENTUM = "progress.json", "detector.safetensors", "momentum.safetensors"
EVERY_S = 300.0
"""Between two saves: what a kill costs at most, beside a save of some hundred MB."""


class Unfinished:
    """The folder beside the result `out`. All ranks call the same; the first one writes, all of them read.

    `settings`: all that decides about the numbers, as JSON. `ValueError` if there is a beginning by other
    ones; nothing is changed then.
    """

    def __init__(self, out: Path, settings: Json, *, every_s: float = EVERY_S) -> None:
        self.folder = out.with_name(f"{out.name}.partial")
        self._every_s, self._saved = every_s, time.monotonic()
        settings = json.loads(json.dumps(settings))
        told = ""
        if rank_in() == 0:
            durable.remove_leftovers(self.folder)
            if not (self.folder / _SETTINGS).exists():
                durable.write_file(self.folder / _SETTINGS, json.dumps(settings, indent=2) + "\n")
            told = differences(durable.read_json(self.folder / _SETTINGS), settings)
        if told := broadcast_value(told):
            raise ValueError(f"{self.folder} was begun otherwise: {told}; remove it, or choose another --out")

    def result(self, seed: int) -> Json | None:
        """What the detector of this seed reached, if it is done."""
        path = self.folder / f"seed-{seed}.json"
        return broadcast_value(durable.read_json(path) if rank_in() == 0 and path.exists() else None)

    def keep_result(self, seed: int, result: Json) -> None:
        """From now on the detector of this seed is done."""
        if rank_in() == 0:
            durable.write_file(self.folder / f"seed-{seed}.json", json.dumps(result, indent=2) + "\n")

    def load(self, seed: int, detector: nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
        """Puts a beginning of this seed into both and gives the losses of its steps; none: there is none."""
        folder = self.folder / _TRAINING
        losses: list[float] = broadcast_value(_losses(folder, seed) if rank_in() == 0 else [])
        if losses:
            weights.load_strictly(detector, weights.read(folder / _WEIGHTS)[0], folder / _WEIGHTS)
            momentum = weights.read(folder / _MOMENTUM)[0]
            for name, parameter in detector.named_parameters():
                if name in momentum:
                    optimizer.state[parameter]["momentum_buffer"] = momentum[name].to(parameter.device)
        return losses

    def save(
        self,
        seed: int,
        detector: nn.Module,
        optimizer: torch.optim.Optimizer,
        losses: list[float],
        *,
        last: bool,
    ) -> None:
        """Keeps the state after so many steps, if it is the `last` step or the last save is long ago."""
        if rank_in() > 0 or (time.monotonic() - self._saved < self._every_s and not last):
            return
        momentum = {
            name: optimizer.state[parameter]["momentum_buffer"]
            for name, parameter in detector.named_parameters()
            if optimizer.state[parameter].get("momentum_buffer") is not None
        }
        files = {
            _PROGRESS: (json.dumps({"seed": seed, "losses": losses}) + "\n").encode(),
            _WEIGHTS: weights.encode(detector.state_dict()),
            _MOMENTUM: weights.encode(momentum),
        }
        durable.write_folder(self.folder / _TRAINING, files)
        self._saved = time.monotonic()

    def remove(self) -> None:
        """When the result is in its place."""
        if rank_in() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)  # nobody takes it for anything any more


def _losses(folder: Path, seed: int) -> list[float]:
    """Of a beginning of this seed; damage is told, and then there is none."""
    if not folder.is_dir():
        return []
    try:
        durable.verify_folder(folder, (_PROGRESS, _WEIGHTS, _MOMENTUM))
        found = durable.read_json(folder / _PROGRESS)
        return [float(loss) for loss in found["losses"]] if found["seed"] == seed else []
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"the detector under way begins anew: {error}", stacklevel=3)
        return []
