"""Here: batch norm per view on GPUs, eagerly, by the kernels that torch.nn.SyncBatchNorm is made of.

Not here: CPUs and compilers (normalization.py), modules (batchnorm.py).

What counts on a GPU is how often the activations pass through memory, and then how many kernels are
launched: a ResNet-50 has 53 of these layers, and a launch costs the host about 5 microseconds. F.batch_norm
on each view and torch.cat of the results is two passes more in either direction, and its running statistics,
written out, a dozen launches more. Here forward is a read for the statistics and a read and a write to
normalise, into the halves of one output; backward is two reads for the sums, then two reads and a write, and
one copy that joins the views' gradients, as no kernel of torch's writes them into place.
Statistics are those of all ranks: one all-gather forward, one all-reduce backward for all views together.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from barlow.distributed import all_gather, all_reduce_, world_size


class Moments(NamedTuple):
    """Statistics over all ranks, one entry for each view; no gradient."""

    means: list[Tensor]
    """[C], at least float32."""
    rstds: list[Tensor]
    """1 / sqrt(biased variance + eps), [C]."""
    count_W: Tensor
    """Values per channel and view on each rank, int32."""


@torch.no_grad()
def moments(
    x: Tensor, num_views: int, eps: float, running: tuple[Tensor, Tensor] | None, momentum: float
) -> Moments:
    """Of x [V * n, C, ...], V blocks of n rows, contiguous or channels_last.

    `running` mean and (unbiased) variance advance by every view, one after the other, in the kernel that adds
    up the ranks; None: nothing advances. All ranks must call it together.
    """
    per_channel = x.numel() // (x.shape[1] * num_views)
    local = [torch.batch_norm_stats(view, eps) for view in x.chunk(num_views)]
    means, rstds = [mean for mean, _ in local], [rstd for _, rstd in local]
    count_W = x.new_full((1,), per_channel, dtype=torch.int32)
    if world_size() == 1 and running is None:
        return Moments(means, rstds, count_W)
    if world_size() == 1:
        gathered = [mean[None] for mean in means], [rstd[None] for rstd in rstds]
        float_count_W = means[0].new_full((1,), per_channel)
    else:
        packed_W = all_gather(torch.cat([*means, *rstds, means[0].new_full((1,), per_channel)]))
        columns = packed_W[:, :-1].chunk(2 * num_views, dim=1)
        gathered = list(columns[:num_views]), list(columns[num_views:])
        float_count_W = packed_W[:, -1].contiguous()
        count_W = float_count_W.to(torch.int32)
    # The kernel takes its number types from the running statistics: it is never without.
    mean_C, variance_C = running or means[0].new_zeros(2, x.shape[1]).unbind()
    merged = [
        torch.batch_norm_gather_stats_with_counts(
            x, mean_WC, rstd_WC, mean_C, variance_C, momentum, eps, float_count_W
        )
        for mean_WC, rstd_WC in zip(*gathered, strict=True)
    ]
    return Moments([mean for mean, _ in merged], [rstd for _, rstd in merged], count_W)


def normalize_on_gpu(x: Tensor, weight_C: Tensor, bias_C: Tensor, of: Moments, eps: float) -> Tensor:
    """(x - mean) * rstd * weight + bias per view, with the gradient of batch norm.

    `of` is what `moments` gave for x. The gradients of weight and bias are this rank's share.
    """
    return _Normalize.apply(x, weight_C, bias_C, of.count_W, eps, *of.means, *of.rstds)  # pyright: ignore[reportReturnType]


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_C: Tensor, bias_C: Tensor, count_W: Tensor, eps: float, *stats: Tensor
    ) -> Tensor:
        num_views = len(stats) // 2
        out = torch.empty_like(x)
        views = zip(
            x.chunk(num_views), out.chunk(num_views), stats[:num_views], stats[num_views:], strict=True
        )
        for x_v, out_v, mean_C, rstd_C in views:
            torch.batch_norm_elemt(x_v, weight_C, bias_C, mean_C, rstd_C, eps, out=out_v)
        ctx.save_for_backward(x, weight_C, count_W, *stats)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight_C, count_W, *stats = ctx.saved_tensors
        num_views = len(stats) // 2
        dense = torch.channels_last if x.dim() == 4 and _is_channels_last(x) else torch.contiguous_format
        dy = dy.contiguous(memory_format=dense)
        views = list(
            zip(dy.chunk(num_views), x.chunk(num_views), stats[:num_views], stats[num_views:], strict=True)
        )
        sums = [
            torch.batch_norm_backward_reduce(dy_v, x_v, mean_C, rstd_C, weight_C, True, True, True)
            for dy_v, x_v, mean_C, rstd_C in views
        ]
        dweight_C, dbias_C = (_total([s[i] for s in sums]) for i in (2, 3))
        dx = None
        if ctx.needs_input_grad[0]:
            sums_C = [s[0] for s in sums], [s[1] for s in sums]
            if world_size() > 1:
                parts = all_reduce_(torch.cat([*sums_C[0], *sums_C[1]])).chunk(2 * num_views)
                sums_C = list(parts[:num_views]), list(parts[num_views:])
            dx = torch.cat(
                [
                    torch.batch_norm_backward_elemt(*view, weight_C, dy_C, dy_xmu_C, count_W)
                    for view, dy_C, dy_xmu_C in zip(views, *sums_C, strict=True)
                ]
            )
        return dx, dweight_C, dbias_C, *[None] * (2 + len(stats))


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


def _total(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
