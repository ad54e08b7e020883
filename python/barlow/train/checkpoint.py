"""Here: what a checkpoint holds, and the way from a running model to a verified folder and back.

Not here: when to save, how bytes reach the disk (`durable.py`), what the config or the data must match.

A checkpoint is `step-00000123/` with `model.safetensors` (the twins' state, and what the objective keeps as
`objective.*`), `optim.safetensors` (one tensor for each optimizer state and trained parameter, named
`state.parameter`) and `state.json` (what the loop counts).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from barlow import durable

CHECKPOINTS = "checkpoints"
"""The folder of a run that holds them."""
PATTERN = "step-*"
FILES = ("model.safetensors", "optim.safetensors", "state.json")


def save_checkpoint(
    directory: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    keep: int,
) -> Path:
    """Writes `directory/step-…`, then removes all but the `keep` newest that verify. `state` must be JSON."""
    path = directory / f"step-{step:08d}"
    contents = (
        save(_portable(model.state_dict())),
        save(_portable(_optimizer_tensors(model, optimizer))),
        (json.dumps({"format": 1, "step": step, **state}, indent=2) + "\n").encode(),
    )
    durable.write_folder(path, dict(zip(FILES, contents, strict=True)))
    durable.prune(directory, keep, PATTERN, FILES)
    return path


def find_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint that verifies, with a warning for each damaged one; None if there never was one.

    Raises `ValueError` if there are some and none verifies: to start anew is the user's choice.
    """
    path = durable.newest_valid(directory, PATTERN, FILES)
    if path is None and newest_step(directory) is not None:
        raise ValueError(f"every checkpoint in {directory} is damaged; move that folder away to start anew")
    return path


def newest_step(directory: Path) -> int | None:
    """The step of the newest checkpoint by name, verified or not; None if there is none."""
    steps = [int(p.name[5:]) for p in directory.glob("step-????????") if p.name[5:].isdigit()]
    return max(steps, default=None)


def read_state(path: Path) -> dict[str, Any]:
    """The checkpoint's `state.json`. The folder must have been verified."""
    return json.loads((path / "state.json").read_text())


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Restores the model's and the optimizer's tensors bit for bit; `ValueError` if names or shapes differ.

    The folder must have been verified. Tensors keep the device and the memory layout they have in the model.
    """
    tensors = load_file(path / "model.safetensors")
    own = model.state_dict()
    _same_shapes(path, tensors, own)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
    parameters = dict(_trained(model))
    states: dict[str, dict[str, Tensor]] = {}
    for full_name, tensor in load_file(path / "optim.safetensors").items():
        key, _, name = full_name.partition(".")
        states.setdefault(key, {})[name] = tensor
    for key, by_name in states.items():
        _same_shapes(path, by_name, parameters)
        for name, tensor in by_name.items():
            # The parameter's own strides, so that sums over the buffer run in the same order as before.
            restored = torch.empty_like(parameters[name], dtype=tensor.dtype).copy_(tensor)
            optimizer.state[parameters[name]][key] = restored.detach()


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{key}.{name}": tensor
        for name, parameter in _trained(model)
        for key, tensor in optimizer.state[parameter].items()
    }


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def _portable(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """safetensors knows one memory layout and shared storage not at all."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _same_shapes(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for names, what in ((expected.keys() - found, "lacks"), (found.keys() - expected, "holds an unknown")):
        if names:
            raise ValueError(f"{path} {what} {min(names)} ({len(names)} such tensors)")
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            raise ValueError(f"{path}: {name} is {list(found[name].shape)}, not {list(tensor.shape)}")
