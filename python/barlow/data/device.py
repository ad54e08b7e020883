"""Here: the device stage without DALI: uint8 views become normalised floats on the device.

Not here: augmentation (done before), autocast, anything that knows a model.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from barlow import _native

Device = torch.device | str


def to_float(
    views: Sequence[Tensor],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    device: Device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """Each uint8 view [N, 3, H, W] as `normalise` gives it, the copies of all views queued first."""
    moved = [view.to(device, non_blocking=True) for view in views]
    return [normalise(view, mean, std, device=device, dtype=dtype) for view in moved]


def normalise(
    view: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    device: Device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """`(view / 255 - mean) / std` for uint8 [N, 3, H, W] -> `dtype`, channels last, on `device`.

    Computed in float32 as one multiply-add and rounded once. From pinned memory the copy is
    asynchronous, and letting go of `view` meanwhile is safe: torch's pinned allocator hands a block out
    again only after the copies that were queued from it.
    """
    if view.dtype != torch.uint8 or view.ndim != 4 or view.shape[1] != len(mean) or len(mean) != len(std):
        raise ValueError(
            f"view must be uint8 [N, {len(mean)}, H, W], not {view.dtype} {list(view.shape)}; "
            f"mean and std have {len(mean)} and {len(std)} values"
        )
    if torch.device(device).type == "cpu" and view.device.type == "cpu" and len(mean) == 3:
        return _on_cpu(view.contiguous(), tuple(mean), tuple(std)).to(dtype)
    # Bytes travel and change their layout as bytes: a quarter of what floats would move.
    x = view.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last).float()
    scale, shift = _scale_and_shift(tuple(mean), tuple(std), x.device)
    return torch.addcmul(shift, x, scale, out=x).to(dtype)


def _on_cpu(view: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """In one pass, image by image while it is in the cache: torch's three passes over a batch cost as much
    as decoding it."""
    n, channels, height, width = view.shape
    out = _pool().take((n, height, width, 4 * channels)).view(np.float32)
    scale, shift = _scale_and_shift(mean, std, torch.device("cpu"))
    red, green, blue = scale.flatten().tolist()
    r, g, b = shift.flatten().tolist()
    _native.to_floats(view.numpy(), (red, green, blue), (r, g, b), torch.get_num_threads(), out)
    return torch.from_numpy(out).permute(0, 3, 1, 2)


@functools.lru_cache
def _pool() -> _native.Pool:
    """Memory of earlier floats that nobody refers to any more: fresh pages cost more than the arithmetic.

    Two batches of a dozen views each: one is made while the other is still held."""
    return _native.Pool(24)


@functools.lru_cache
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """float32 [1, C, 1, 1], so that x * scale + shift = (x / 255 - mean) / std; cached: copying may wait."""
    mean_C, std_C = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
    scale, shift = 1 / (255 * std_C), -mean_C / std_C
    return scale.float().to(device).view(1, -1, 1, 1), shift.float().to(device).view(1, -1, 1, 1)
