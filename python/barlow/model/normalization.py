"""Here: the arithmetic of batch norm per view: statistics over all ranks, the affine map, its gradient.

Not here: modules, running statistics, evaluation mode (batchnorm.py), the eager form on GPUs (gpu_norm.py).

There are two forms of the same function. The eager one takes PyTorch's own kernels: a few passes over memory
on a CPU. The traced one, for torch.compile on any device, is the plain formula in operations without side
effects, which a compiler fuses with what stands around it. (TorchInductor 2.15 also makes wrong gradients of
the eager one's writes into slices.) Either way the statistics of all views travel in one all-gather and the
sums that the gradient needs in one all-reduce; Dynamo turns both into functional collectives.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from barlow.distributed import all_moments, all_reduce_, merge_moments

# PyTorch's CPU kernel for channels_last sums naively in float32: over 128 x 32 x 32 values of mean 3 the mean
# was off by 4e-5, which partial sums over so many values bring to 1e-6 at no measurable cost.
_CHUNK_VALUES = 8192


def statistics(x: Tensor, num_views: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance [V, C] over all ranks, at least float32, and the values per channel [].

    `x` is [V * n, C, ...]: V blocks of n rows. No gradient. All ranks must call it together.
    """
    x = x.detach()
    per_channel = x.numel() // (x.shape[1] * num_views)
    if torch.compiler.is_compiling():
        x_VnC = _by_view(x, num_views).to(_statistics_dtype(x))
        variance_VC, mean_VC = torch.var_mean(x_VnC, _summed(x_VnC), correction=0)
        m2_VC = variance_VC * per_channel
    else:
        moments = [_local_moments(view) for view in x.chunk(num_views)]
        mean_VC, m2_VC = (torch.stack(parts) for parts in zip(*moments, strict=True))
    count, mean_VC, m2_VC = all_moments(per_channel, mean_VC, m2_VC)
    return mean_VC, m2_VC / count, count


def normalize(
    x: Tensor,
    weight_C: Tensor,
    bias_C: Tensor,
    mean_VC: Tensor,
    variance_VC: Tensor,
    count: Tensor,
    eps: float,
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias per view, with the gradient of batch norm.

    `x` is [V * n, C, ...], contiguous or channels_last; mean, variance and count are what `statistics` gave
    for it. They come in as constants, but backward treats them as the functions of x that they are. The
    gradients of weight and bias are this rank's share: data parallelism adds up parameter gradients itself.
    """
    if torch.compiler.is_compiling():
        x_VnC = _by_view(x, len(mean_VC))
        y_VnC = _TracedNormalize.apply(x_VnC, weight_C, bias_C, mean_VC, variance_VC, count, eps)
        # Not in the function: what comes after may work in place, which autograd refuses on its views.
        return y_VnC.flatten(0, 1)  # pyright: ignore[reportOptionalMemberAccess, reportReturnType]
    return _Normalize.apply(x, weight_C, bias_C, mean_VC, variance_VC, count, eps)  # pyright: ignore[reportReturnType]


def is_channels_last(x: Tensor) -> bool:
    """Whether x is [N, C, H, W] with the channels of a pixel side by side."""
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


def _local_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and M2 [C] of this rank's samples of one view."""
    pixels = x.numel() // (x.shape[0] * x.shape[1])
    parts = x.split(max(1, _CHUNK_VALUES // pixels))
    # These stand-ins only tell the kernel to return full precision for half-precision input.
    running = torch.zeros(2, x.shape[1], dtype=_statistics_dtype(x), device=x.device)
    moments = [torch.ops.aten.batch_norm_update_stats(part, running[0], running[1], 0.0) for part in parts]
    if len(parts) == 1:
        mean_C, variance_C = moments[0]
        return mean_C, variance_C * (x.shape[0] * pixels)
    mean_RC, variance_RC = (torch.stack(values) for values in zip(*moments, strict=True))
    counts = [float(part.shape[0] * pixels) for part in parts]
    count_R = torch.tensor(counts, dtype=mean_RC.dtype, device=x.device)
    _, mean_C, m2_C = merge_moments(count_R, mean_RC, variance_RC * count_R[:, None])
    return mean_C, m2_C


def _statistics_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


class _Normalize(torch.autograd.Function):
    """The eager form."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_C: Tensor, bias_C: Tensor, mean_VC: Tensor, variance_VC: Tensor,
        count: Tensor, eps: float,
    ) -> Tensor:  # fmt: skip
        num_views = len(mean_VC)
        out = torch.empty_like(x)
        blocks = zip(x.chunk(num_views), out.chunk(num_views), mean_VC, variance_VC, strict=True)
        for x_v, out_v, mean_C, variance_C in blocks:
            _affine(x_v, mean_C, variance_C, weight_C, bias_C, eps, out_v)
        ctx.save_for_backward(x, weight_C, mean_VC, variance_VC, count)
        ctx.eps = eps
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight_C, mean_VC, variance_VC, count = ctx.saved_tensors
        dy = dy.contiguous(
            memory_format=torch.channels_last if is_channels_last(x) else torch.contiguous_format
        )
        # Per view and channel: the sums of dy * xhat and of dy.
        num_views = len(mean_VC)
        blocks = zip(dy.chunk(num_views), x.chunk(num_views), mean_VC, variance_VC, strict=True)
        sums = [
            torch.ops.aten.native_batch_norm_backward(
                dy_v, x_v, weight_C, mean_C, variance_C, None, None, False, ctx.eps, [False, True, True]
            )[1:]
            for dy_v, x_v, mean_C, variance_C in blocks
        ]
        sums_2VC = torch.stack([torch.stack(parts) for parts in zip(*sums, strict=True)])
        dweight_C, dbias_C = sums_2VC.sum(1)
        dx = None
        if ctx.needs_input_grad[0]:
            means_2VC = all_reduce_(sums_2VC) / count
            dx = _input_gradient(dy, x, weight_C, mean_VC, (variance_VC + ctx.eps).rsqrt(), means_2VC)
        return dx, dweight_C, dbias_C, None, None, None, None


def _input_gradient(
    dy: Tensor, x: Tensor, weight_C: Tensor, mean_VC: Tensor, rstd_VC: Tensor, means_2VC: Tensor
) -> Tensor:
    """weight * rstd * (dy - mean(dy) - xhat * mean(dy * xhat)), as a * dy + b * x + c in two passes."""
    num_views = len(mean_VC)
    slope_VC, mean_dy_VC = means_2VC
    a_VC = weight_C * rstd_VC
    # For half-precision x only b is rounded to it, the factor of the small term, and c makes up for its mean.
    b_VC = (-a_VC * rstd_VC * slope_VC).to(x.dtype)
    c_VC = -a_VC * mean_dy_VC - b_VC * mean_VC
    zero_C, one_C = torch.zeros_like(mean_VC[0]), torch.ones_like(mean_VC[0])
    dx = torch.empty_like(x)
    blocks = zip(dy.chunk(num_views), x.chunk(num_views), dx.chunk(num_views), a_VC, b_VC, c_VC, strict=True)
    for dy_v, x_v, dx_v, a_C, b_C, c_C in blocks:
        _affine(dy_v, zero_C, one_C, a_C, c_C, 0.0, dx_v)
        dx_v.addcmul_(x_v, b_C.view(-1, *[1] * (x.dim() - 2)))
    return dx


def _affine(
    x: Tensor, mean_C: Tensor, variance_C: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float, out: Tensor
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias in one pass of the evaluation kernel."""
    saved = mean_C.new_empty(0), mean_C.new_empty(0)
    torch.native_batch_norm(x, weight_C, bias_C, mean_C, variance_C, False, 0.0, eps, out=(out, *saved))
    return out


class _TracedNormalize(torch.autograd.Function):
    """The form for compilers: nothing is written in place, and every view is done by the same operations."""

    @staticmethod
    def forward(
        ctx: Any, x_VnC: Tensor, weight_C: Tensor, bias_C: Tensor, mean_VC: Tensor, variance_VC: Tensor,
        count: Tensor, eps: float,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x_VnC, weight_C, mean_VC, variance_VC, count)
        ctx.eps = eps
        scale_VC = weight_C * (variance_VC + eps).rsqrt()
        y_VnC = (x_VnC - _over(mean_VC, x_VnC)) * _over(scale_VC, x_VnC)
        return (y_VnC + _over(bias_C.expand_as(mean_VC), x_VnC)).to(x_VnC.dtype)

    @staticmethod
    def backward(ctx: Any, dy_VnC: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_VnC, weight_C, mean_VC, variance_VC, count = ctx.saved_tensors
        rstd_VC = (variance_VC + ctx.eps).rsqrt()
        xhat_VnC = (x_VnC - _over(mean_VC, x_VnC)) * _over(rstd_VC, x_VnC)
        dy_VnC = dy_VnC.to(xhat_VnC.dtype)
        dims = _summed(x_VnC)
        sums_2VC = torch.stack([(dy_VnC * xhat_VnC).sum(dims), dy_VnC.sum(dims)])
        dweight_C, dbias_C = sums_2VC.sum(1)
        dx_VnC = None
        if ctx.needs_input_grad[0]:
            slope_VC, mean_dy_VC = all_reduce_(sums_2VC.clone()) / count
            dx_VnC = dy_VnC - _over(mean_dy_VC, x_VnC) - xhat_VnC * _over(slope_VC, x_VnC)
            dx_VnC = (dx_VnC * _over(weight_C * rstd_VC, x_VnC)).to(x_VnC.dtype)
        return dx_VnC, dweight_C, dbias_C, None, None, None, None


def _by_view(x: Tensor, num_views: int) -> Tensor:
    """[V * n, C, ...] as [V, n, C, ...]."""
    return x.unflatten(0, (num_views, -1))


def _over(x_VC: Tensor, like_VnC: Tensor) -> Tensor:
    """[V, C] as [V, 1, C, 1...], to go with [V, n, C, ...]."""
    return x_VC.view(*x_VC.shape[:1], 1, -1, *[1] * (like_VnC.dim() - 3))


def _summed(x_VnC: Tensor) -> list[int]:
    """The dimensions to sum over for one value per view and channel."""
    return [1, *range(3, x_VnC.dim())]
