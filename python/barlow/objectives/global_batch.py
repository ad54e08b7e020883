"""Here: what several objectives ask of the embeddings of all ranks: validation, precision, means, views with
mean 0 and variance 1, with gradients.

Not here: rows moved between ranks (that is rows.py), any loss.

Gradients follow the convention of `barlow.distributed.all_reduce`: on each rank W times its share.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from barlow.distributed import all_reduce, all_reduce_
from barlow.objectives.standardize import standardize as plain_standardize

Group = dist.ProcessGroup | None


def embeddings(*z_ND: Tensor) -> tuple[Tensor, ...]:
    """The tensors in float32, or in float64 if all of them are; `ValueError` unless all are [N, D] floats."""
    shapes = [list(z.shape) for z in z_ND]
    if z_ND[0].dim() != 2 or 0 in shapes[0] or any(shape != shapes[0] for shape in shapes):
        shown = " and ".join(str(shape) for shape in shapes)
        raise ValueError(f"embeddings must be [N, D] tensors of one shape, N, D > 0, not {shown}")
    dtypes = {z.dtype for z in z_ND}
    if not all(dtype.is_floating_point for dtype in dtypes):
        raise ValueError(f"embeddings must be floating point, not {' and '.join(sorted(map(str, dtypes)))}")
    dtype = torch.float64 if dtypes == {torch.float64} else torch.float32
    return tuple(z.to(dtype) for z in z_ND)


def full_precision(z_ND: Tensor) -> torch.autocast:
    """A context without autocast on the device of the embeddings."""
    return torch.autocast(z_ND.device.type, enabled=False)


def batch_mean(x_N: Tensor, group: Group = None) -> Tensor:
    """The mean [] of one number per sample over the samples of all ranks, which may have different many."""
    packed = torch.stack([x_N.sum(), x_N.new_full((), len(x_N))])
    total, count = all_reduce(packed, group, alike=True)
    return total / count


def batch_cosine(x_ND: Tensor, y_ND: Tensor, group: Group = None) -> Tensor:
    """The mean [] over all samples of the cosine of a row of x and that of y; a row of zeros counts as 0."""
    return batch_mean((F.normalize(x_ND, dim=1) * F.normalize(y_ND, dim=1)).sum(1), group)


def standardize(z_VND: Tensor, eps: float = 0.0, group: Group = None) -> tuple[Tensor, Tensor]:
    """V views with mean 0 and (biased) variance 1 over the samples of all ranks [V, n, D], and how many [].

    `eps` is added to the variances. With 0, a dimension that is constant up to rounding becomes 0 and gets no
    gradient. This is batch norm without scale and offset, with its gradient: forward and backward take one
    collective each.
    """
    if eps < 0:
        raise ValueError(f"eps may not be negative, not {eps}")
    return _Standardize.apply(z_VND, eps, group)  # pyright: ignore[reportReturnType]


class _Standardize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z_VND: Tensor, eps: float, group: Group) -> tuple[Tensor, Tensor]:
        # A copy, since the function uses it up.
        x_VND, rstd_VD, count = plain_standardize(z_VND.clone(), eps, group)
        ctx.save_for_backward(x_VND, rstd_VD, count)
        ctx.group = group
        ctx.mark_non_differentiable(count)
        return x_VND, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx_VND: Tensor, _: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_VND, rstd_VD, count = ctx.saved_tensors
        sums_2VD = torch.stack([dx_VND.sum(1), (dx_VND * x_VND).sum(1)])
        mean_VD, slope_VD = all_reduce_(sums_2VD, ctx.group) / count
        return (dx_VND - mean_VD[:, None] - x_VND * slope_VD[:, None]) * rstd_VD[:, None], None, None
