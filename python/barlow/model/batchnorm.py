"""Here: batch normalisation with statistics per view over the samples of all ranks, on CPUs and GPUs.

Not here: the loss's standardisation (that is part of the objective), other normalisations.

The rows of an input are laid out view after view, V blocks of n samples. One call normalises each block by
its own mean and variance, which is what the official code does by running the network once per view; here the
convolutions see one batch and the collectives of all views travel together: one forward, one backward.
torch.nn.SyncBatchNorm offers neither views nor CPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from barlow.distributed import all_moments, all_reduce_, merge_moments, world_size

# PyTorch's CPU kernel for channels_last sums naively in float32: over 128 x 32 x 32 values of mean 3 the mean
# was off by 4e-5, which partial sums over so many values bring to 1e-6 at no measurable cost.
_CHUNK_VALUES = 8192


class ViewBatchNorm(nn.modules.batchnorm._BatchNorm):
    """What the 1d and 2d modules share. State-dict keys and defaults are those of torch.nn.BatchNorm.

    `num_views` blocks of rows are normalised apart; `num_views_of` sets it for a whole model. Running
    statistics (unbiased variance) advance as in one call per view, in order. In evaluation mode it is
    torch.nn.BatchNorm.
    """

    num_views = 1

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)

    def forward(self, input: Tensor) -> Tensor:
        """[V * n, C] or [V * n, C, H, W] to the same; n may differ between ranks."""
        self._check_input_dim(input)
        if not self.training:
            return super().forward(input)
        if input.shape[0] == 0 or input.shape[0] % self.num_views:
            raise ValueError(f"{input.shape[0]} rows are not {self.num_views} views of at least one sample")
        if world_size() == 1 and input.numel() == input.shape[1] * self.num_views:
            raise ValueError("batch norm needs more than one value per channel to train")
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(self.num_views)
        if world_size() == 1 and input.is_cuda:
            # One fused cuDNN kernel per view; on CPUs our own passes are the faster ones.
            return self._native(input)
        if not input.is_contiguous() and not _is_channels_last(input):
            input = input.contiguous()
        mean_VC, variance_VC, count = _statistics(input.detach(), self.num_views)
        self._advance(mean_VC, variance_VC, count)
        return _Normalize.apply(input, self.weight, self.bias, mean_VC, variance_VC, count, self.eps)  # pyright: ignore[reportReturnType]

    def _native(self, input: Tensor) -> Tensor:
        running = self.running_mean, self.running_var
        views = [
            F.batch_norm(view, *running, self.weight, self.bias, True, self.momentum or 0.0, self.eps)
            for view in input.chunk(self.num_views)
        ]
        return views[0] if len(views) == 1 else torch.cat(views)

    @torch.no_grad()
    def _advance(self, mean_VC: Tensor, variance_VC: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        unbiased_VC = variance_VC * (count / (count - 1).clamp(min=1))
        for mean_C, unbiased_C in zip(mean_VC, unbiased_VC, strict=True):
            self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased_C.to(self.running_var.dtype), self.momentum)


class ViewBatchNorm1d(ViewBatchNorm):
    """Per-view, synchronised batch norm of [V * n, C]."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() != 2:
            raise ValueError(f"expected [N, C], not {list(input.shape)}")


class ViewBatchNorm2d(ViewBatchNorm):
    """Per-view, synchronised batch norm of [V * n, C, H, W], contiguous or channels_last."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() != 4:
            raise ValueError(f"expected [N, C, H, W], not {list(input.shape)}")


@contextmanager
def num_views_of(model: nn.Module, num_views: int) -> Iterator[None]:
    """Inside, every ViewBatchNorm of the model expects `num_views` views; afterwards what it did before."""
    norms = [module for module in model.modules() if isinstance(module, ViewBatchNorm)]
    before = [norm.num_views for norm in norms]
    try:
        for norm in norms:
            norm.num_views = num_views
        yield
    finally:
        for norm, number in zip(norms, before, strict=True):
            norm.num_views = number


def _is_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


def _statistics(x: Tensor, num_views: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance [V, C] over all ranks, at least float32, and the values per channel []."""
    moments = [_local_moments(view) for view in x.chunk(num_views)]
    mean_VC, m2_VC = (torch.stack(parts) for parts in zip(*moments, strict=True))
    per_channel = x.numel() // (x.shape[1] * num_views)
    count, mean_VC, m2_VC = all_moments(per_channel, mean_VC, m2_VC)
    return mean_VC, m2_VC / count, count


def _local_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and M2 [C] of this rank's samples of one view."""
    pixels = x.numel() // (x.shape[0] * x.shape[1])
    rows = x.shape[0] if x.is_cuda else max(1, _CHUNK_VALUES // pixels)
    parts = x.split(rows)
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
    """(x - mean) * rstd * weight + bias per view, with the gradient of batch norm.

    Mean and variance come in as constants, but backward treats them as the functions of x that they are. The
    gradients of weight and bias are this rank's share: data parallelism adds up parameter gradients itself.
    """

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
            memory_format=torch.channels_last if _is_channels_last(x) else torch.contiguous_format
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
