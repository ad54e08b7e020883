"""Here: what a run leaves behind when a step is not finite: the step in a folder, to be made again.

Not here: noticing it (guard.py), making it again (replay.py), how bytes reach the disk.

A black box is a checkpoint of the moment before the step (checkpoint.py says what is in one) whose
`state.json` has more: which batch it was, what came out, and where it was first not finite.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import platform
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from barlow import __version__, durable
from barlow import config as configs
from barlow.data import Index, Order
from barlow.distributed import World, barrier, gather_values
from barlow.train.checkpoint import FILES, read_state, save_checkpoint
from barlow.train.guard import NotFinite
from barlow.train.learner import Learner
from barlow.train.trace import Place, Trace, trace

FOLDER = "black-box"
"""The folder of a run that holds them."""
_KEPT = 3
_LINES = 20

Json = dict[str, Any]


def record(
    found: NotFinite, run: Path, learner: Learner, index: Index, world: World, lines: Iterable[Json]
) -> FloatingPointError:
    """Makes the step again under observation, writes the box, and returns the error that ends the run.

    Every rank calls it: that step is the same one on all. `lines` are the latest metrics.
    """
    seen = trace(learner, found.step, found.views_u8)
    digests = gather_values(digest(found.views_u8))
    path = run / FOLDER / f"step-{found.step:08d}"
    text = f"{found}" if seen.first is None else f"{found}; first not finite is {seen.first}"
    if world.rank == 0:
        try:
            state = _state(found, seen, learner, index, world, digests, lines)
            save_checkpoint(path.parent, found.step, learner.network, learner.optimizer, state, _KEPT)
        except OSError as error:  # a full disk must not hide why the run has ended
            warnings.warn(f"the black box could not be written: {error}", stacklevel=2)
    barrier()  # the launcher would end the rank that writes when the first of the others is gone
    return FloatingPointError(f"{text}. The black box: `barlow replay {path} {index.source}` makes it again")


def _state(
    found: NotFinite,
    seen: Trace,
    learner: Learner,
    index: Index,
    world: World,
    digests: list[str],
    lines: Iterable[Json],
) -> Json:
    config = learner.config
    epoch, step = position(found.step, learner.plan.steps_per_epoch)
    order = Order(len(index), config.optim.batch_size, seed=config.train.seed)
    return {
        "loader": {"epoch": epoch, "step": step},
        "ids": order.batch(epoch, step).tolist(),
        "views_sha256": digests,
        "scaler": learner.scaler.state_dict(),
        "config": json.loads(configs.to_json(config)),
        "seed": config.train.seed,
        "world_size": world.size,
        "device": world.device.type,
        "threads": torch.get_num_threads(),
        "form": learner.form,
        "autocast": str(learner.autocast_dtype).removeprefix("torch."),
        "data": str(index.source),
        "index_digest": index.digest(),
        "rates": learner.rates(found.step),
        "found_loss": number(found.loss),
        "trace": to_json(seen),
        "metrics": list(lines)[-_LINES:],
        "versions": {
            "barlow": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def read(path: Path) -> Json:
    """The `state.json` of a box that verifies; `ValueError` (`durable.Damaged`) for anything else."""
    if not path.is_dir():
        raise ValueError(f"{path} is not a black box: there is no such folder")
    durable.verify_folder(path, FILES)
    state = read_state(path)
    if missing := {"trace", "ids", "views_sha256", "config"} - state.keys():
        raise ValueError(f"{path} is not a black box: its state.json lacks {min(missing)}")
    return state


def position(step: int, steps_per_epoch: int) -> tuple[int, int]:
    """Epoch and step within it, from 0, of the batch that optimizer step `step`, from 1, is made of."""
    return divmod(step - 1, steps_per_epoch)


def digest(views_u8: Sequence[Tensor]) -> str:
    """sha256 of the views' bytes, one after the other."""
    hasher = hashlib.sha256()
    for view in views_u8:
        hasher.update(view.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def number(value: float) -> float | str:
    """A float as JSON has it; what JSON has not as text."""
    return value if math.isfinite(value) else str(value)


def to_json(seen: Trace) -> Json:
    """A trace with every number exact."""
    return {
        "loss": number(seen.loss),
        "first": None if seen.first is None else dataclasses.asdict(seen.first),
        **{
            name: {key: number(value) for key, value in getattr(seen, name).items()}
            for name in ("layers", "gradients", "weights")
        },
    }


def from_json(raw: Json) -> Trace:
    """What `to_json` gave."""
    tables = {
        name: {key: float(value) for key, value in raw[name].items()}
        for name in ("layers", "gradients", "weights")
    }
    first = None if raw["first"] is None else Place(**raw["first"])
    return Trace(float(raw["loss"]), first, **tables)
