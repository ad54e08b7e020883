"""Here: reading the official code's checkpoint.pth and resnet50.pth, checked tensor by tensor.

Not here: flags, our run folder, how such files are read without running anything (model/archives.py).

A checkpoint is {"epoch", "model", "optimizer"}. The model's names begin with "module." (it was saved inside
DistributedDataParallel): backbone.* are torchvision's, projector.* those of a Sequential, bn.* the running
statistics of the loss's batch norm, which nothing reads. The optimizer numbers parameters: weights first,
then those with one dimension (the first release: in the model's order). resnet50.pth is the backbone alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from barlow import durable
from barlow.config import ModelConfig
from barlow.model.archives import read_archive
from barlow.model.foreign import infer

_DDP = "module."
_LOSS_NORM = {"bn.running_mean", "bn.running_var", "bn.num_batches_tracked"}
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Optimizer:
    """The state of the official LARS."""

    momenta: list[Tensor]
    """`mu` by the optimizer's number."""
    groups: list[int]
    """Parameters in each group: [weights, one-dimensional ones], or [all]."""
    lr: tuple[float, float]
    """Of the last step, for weights and for one-dimensional parameters."""
    weight_decay: float
    momentum: float
    eta: float


@dataclass(frozen=True)
class Checkpoint:
    """What a file of the official code holds, under the names that our network has."""

    tensors: dict[str, Tensor]
    """backbone.*, and projector.* if there is one; in the file's order."""
    model: ModelConfig
    """By the tensors' shapes. Without a projector its sizes are the default ones."""
    epoch: int | None
    """Epochs done; None for a backbone alone."""
    optimizer: Optimizer | None
    sha256: str
    num_bytes: int

    @property
    def steps_per_epoch(self) -> int | None:
        """Of the official run: its batch norms counted two passes a step. None if that makes no sense."""
        passes = int(self.tensors[f"backbone.bn1.{_COUNTER}"])
        steps, rest = divmod(passes, 2 * self.epoch) if self.epoch else (0, 1)
        return steps if steps and not rest else None


def read(path: Path) -> Checkpoint:
    """Reads either file. `OSError`; `ValueError` naming the tensor that is missing, unknown or unusable."""
    num_bytes, sha256 = durable.size_and_digest(path)
    content = read_archive(path, [(exclude_bias_and_norm, "__main__.exclude_bias_and_norm")])
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path} holds no dictionary of tensors")
    if not any(key in content for key in ("epoch", "model", "optimizer")):
        tensors = {f"backbone.{name}": tensor for name, tensor in _checked(path, content).items()}
        return Checkpoint(tensors, _model(path, tensors), None, None, sha256, num_bytes)
    if content.keys() != {"epoch", "model", "optimizer"}:
        raise ValueError(f"{path} holds {_list(content)}, not epoch, model and optimizer")
    epoch = content["epoch"]
    if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 1:
        raise ValueError(f"{path}: epoch is {epoch!r}")
    if not isinstance(content["model"], Mapping):
        raise ValueError(f"{path}: model is no dictionary of tensors")
    tensors = _without_loss_norm(path, _checked(path, _undistributed(path, content["model"])))
    model = _model(path, tensors)
    return Checkpoint(tensors, model, epoch, _optimizer(path, content["optimizer"]), sha256, num_bytes)


def exclude_bias_and_norm(parameter: Tensor) -> bool:
    """The first releases saved a reference to the script's function of this name; this takes its place."""
    return parameter.ndim == 1


def _undistributed(path: Path, tensors: Mapping[Any, Any]) -> dict[Any, Any]:
    """Without DistributedDataParallel's prefix, which all names have, or none."""
    prefixed = [name for name in tensors if str(name).startswith(_DDP)]
    if prefixed and len(prefixed) < len(tensors):
        odd = next(name for name in tensors if not str(name).startswith(_DDP))
        raise ValueError(f"{path}: {odd} has no prefix {_DDP!r}, unlike {prefixed[0]}")
    return {str(name).removeprefix(_DDP): tensor for name, tensor in tensors.items()}


def _checked(path: Path, tensors: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The same, if every entry is a dense tensor of finite float32, or a counter, one number."""
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"{path}: {name!r} is no tensor")
        _check_tensor(path, name, tensor)
    return dict(tensors)


def _check_tensor(path: Path, name: str, tensor: Tensor) -> None:
    expected = torch.int64 if name.endswith(_COUNTER) else torch.float32
    if tensor.dtype != expected or tensor.layout != torch.strided:
        raise ValueError(f"{path}: {name} is {tensor.dtype}, {tensor.layout}; it should be dense {expected}")
    # Before anything is computed: a view that repeats one number may claim any size, one without data too.
    if tensor.is_meta or tensor.nbytes > tensor.untyped_storage().nbytes():
        raise ValueError(f"{path}: {name} {list(tensor.shape)} is larger than its data")
    if expected == torch.int64 and tensor.ndim:
        raise ValueError(f"{path}: {name} is {list(tensor.shape)}, not one number")
    if not tensor.isfinite().all():
        raise ValueError(f"{path}: {name} has values that are not finite")


def _without_loss_norm(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    missing = _LOSS_NORM - tensors.keys()
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}")
    return {name: tensor for name, tensor in tensors.items() if name not in _LOSS_NORM}


def _model(path: Path, tensors: Mapping[str, Tensor]) -> ModelConfig:
    """The network that the shapes describe; whether every tensor fits it is seen when they are loaded."""
    backbone = {
        name.removeprefix("backbone."): tensor
        for name, tensor in tensors.items()
        if name.startswith("backbone.")
    }
    if f"bn1.{_COUNTER}" not in backbone:
        raise ValueError(f"{path} lacks backbone.bn1.{_COUNTER}")
    model = infer(backbone, path)
    layers = {
        int(parts[1]): len(tensor)
        for name, tensor in tensors.items()
        if tensor.ndim == 2 and len(parts := name.split(".")) == 3
        if parts[0] == "projector" and parts[1].isdecimal() and parts[2] == "weight"
    }
    if not layers:
        return model
    return ModelConfig(
        backbone=model.backbone,
        stem=model.stem,
        width=model.width,
        projector=tuple(layers[place] for place in sorted(layers)),
    )


def _optimizer(path: Path, raw: Any) -> Optimizer:
    """The optimizer's part of a checkpoint. `ValueError` for anything but the official LARS after a step."""
    if not isinstance(raw, Mapping) or not isinstance(raw.get("state"), Mapping):
        raise ValueError(f"{path}: optimizer is not the official LARS's state")
    try:
        groups, state = raw["param_groups"], raw["state"]
        numbers = [list(group["params"]) for group in groups]
        settings = [
            {name: float(group[name]) for name in ("lr", "weight_decay", "momentum", "eta")}
            for group in groups
        ]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: optimizer is not the official LARS's state ({error!r})") from error
    count = sum(map(len, numbers))
    if len(groups) not in (1, 2) or [n for group in numbers for n in group] != list(range(count)):
        raise ValueError(
            f"{path}: optimizer has not the official groups: weights, one-dimensional parameters"
        )
    first, last = settings[0], settings[-1]
    if any(first[name] != last[name] for name in ("weight_decay", "momentum", "eta")):
        raise ValueError(f"{path}: optimizer has groups with different settings")
    if not all(math.isfinite(value) for group in settings for value in group.values()):
        raise ValueError(f"{path}: optimizer has settings that are not finite")
    if state.keys() != set(range(count)):
        raise ValueError(f"{path}: optimizer has the state of {len(state)} parameters of {count}")
    momenta = []
    for number in range(count):
        entry = state[number]
        if not isinstance(entry, Mapping) or entry.keys() != {"mu"} or not isinstance(entry["mu"], Tensor):
            raise ValueError(f"{path}: optimizer.state.{number} is not a tensor mu and nothing else")
        _check_tensor(path, f"optimizer.state.{number}.mu", entry["mu"])
        momenta.append(entry["mu"])
    return Optimizer(
        momenta=momenta,
        groups=[len(group) for group in numbers],
        lr=(first["lr"], last["lr"]),
        weight_decay=first["weight_decay"],
        momentum=first["momentum"],
        eta=first["eta"],
    )


def _list(content: Mapping[Any, Any]) -> str:
    names = sorted(map(str, content))
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
