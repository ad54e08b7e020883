"""Here: what a checkpoint holds, and the way from tensors to a verified folder and back.

Not here: when to save and in which thread (`saving.py`), how bytes reach the disk (`durable.py`), what the
config or the data must match.

A checkpoint is `step-00000123/` with `model.safetensors` (the twins' state, and what the objective keeps as
`objective.*`), `optim.safetensors` (one tensor for each optimizer state and trained parameter, named
`state.parameter`) and `state.json` (what the loop counts).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from barlow import durable

CHECKPOINTS = "checkpoints"
"""The folder of a run that holds them."""
PATTERN = "step-*"
FILES = ("model.safetensors", "optim.safetensors", "state.json")
OfStep = Callable[[int], bool]
"""Says something of the checkpoint of a step."""

_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip
"""As safetensors calls them."""


def save_checkpoint(
    directory: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    keep: int,
) -> Path:
    """`write_checkpoint` of the model's and the optimizer's tensors, for who has the time to wait for it."""
    of_model, of_optimizer = (
        {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        for tensors in state_tensors(model, optimizer)
    )
    return write_checkpoint(directory, step, of_model, of_optimizer, state, keep)


def state_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What `model.safetensors` and `optim.safetensors` hold: the live tensors, no copies."""
    of_optimizer = {
        f"{key}.{name}": tensor
        for name, parameter in _trained(model)
        for key, tensor in optimizer.state[parameter].items()
    }
    return model.state_dict(), of_optimizer


def write_checkpoint(
    directory: Path,
    step: int,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: dict[str, Any],
    keep: int,
    spare: OfStep = lambda step: False,
    passing: OfStep = lambda step: False,
) -> Path:
    """Writes `directory/step-…`, then prunes the folder.

    Tensors are on the CPU in any layout (`state_tensors` names them), `state` must be JSON. `OSError` names
    what could not be written.
    """
    path = directory / f"step-{step:08d}"
    described = (json.dumps({"format": 1, "step": step, **state}, indent=2) + "\n").encode()
    contents = (_safetensors(model), _safetensors(optimizer), described)
    durable.write_folder(path, dict(zip(FILES, contents, strict=True)))
    prune(directory, keep, spare, passing)
    return path


def prune(
    directory: Path, keep: int, spare: OfStep = lambda step: False, passing: OfStep = lambda step: False
) -> None:
    """Removes all but the `keep` newest checkpoints that verify and those of whose step `spare` says yes.

    Those of whose step `passing` says yes don't count, and go once a newer one verifies.
    """

    def of_path(says: OfStep) -> Callable[[Path], bool]:
        return lambda path: says(_step_of(path) or 0)

    durable.prune(directory, keep, PATTERN, FILES, of_path(spare), of_path(passing))


def _safetensors(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """A safetensors file in parts, its tensors uncopied where they lie in rows.

    The library's `save` copies all of them, the first release that we support twice, and no Python runs
    meanwhile, which training would feel; its `save_file` would leave it to us to read the bytes again for the
    manifest's digests. The layout is simple: a length, a JSON header, the data one tensor after the other.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, Any] = {}
    offset = 0
    for name, tensor in ordered:
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8
    yield len(text).to_bytes(8, "little") + text
    for _, tensor in ordered:
        if tensor.numel():
            yield tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


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
    steps = [_step_of(path) for path in directory.glob(PATTERN)]
    return max((step for step in steps if step is not None), default=None)


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
        counts = all(tensor.ndim == 0 for tensor in by_name.values())  # AdamW's steps, a number for each
        like = (
            {name: torch.empty((), device=p.device) for name, p in parameters.items()}
            if counts
            else parameters
        )
        _same_shapes(path, by_name, like)
        for name, tensor in by_name.items():
            # The parameter's own strides, so that sums over the buffer run in the same order as before.
            restored = torch.empty_like(like[name], dtype=tensor.dtype).copy_(tensor)
            optimizer.state[parameters[name]][key] = restored.detach()


def _step_of(path: Path) -> int | None:
    number = path.name.removeprefix("step-")
    return int(number) if len(number) == 8 and number.isdigit() else None


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def _same_shapes(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for names, what in ((expected.keys() - found, "lacks"), (found.keys() - expected, "holds an unknown")):
        if names:
            raise ValueError(f"{path} {what} {min(names)} ({len(names)} such tensors)")
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            raise ValueError(f"{path}: {name} is {list(found[name].shape)}, not {list(tensor.shape)}")
