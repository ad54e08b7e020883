"""The CUDA kernels under torch.nn.SyncBatchNorm, written out for CPUs, so that what calls them runs here.

    with kernels_on_cpu():      # tensors claim to be on a GPU, and torch.batch_norm_stats and the like exist

What they compute is from torch's own SyncBatchNorm (torch/nn/modules/_functions.py) and the formulas of batch
norm's gradient; tests/test_gpu.py compares with the real ones where there is a GPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor


@contextlib.contextmanager
def kernels_on_cpu() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, torch.library._scoped_library("aten", "IMPL") as library:
        for kernel in (_stats, _gather, _elemt, _elemt_out, _reduce, _backward):
            library.impl(kernel.__doc__ or "", kernel, "CPU")
        patch.setattr(torch.Tensor, "is_cuda", property(lambda self: True), raising=False)
        yield


def _rows(x: Tensor) -> Tensor:
    """[values, C]"""
    return x.transpose(0, 1).flatten(1).T.to(torch.float64 if x.dtype == torch.float64 else torch.float32)


def _like(x_C: Tensor, x: Tensor) -> Tensor:
    return x_C.view(1, -1, *[1] * (x.dim() - 2))


def _layout(x: Tensor) -> list[int]:
    """The strides that mean something."""
    return [stride for size, stride in zip(x.shape, x.stride(), strict=True) if size > 1]


def _stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """batch_norm_stats"""
    variance_C, mean_C = torch.var_mean(_rows(x), 0, correction=0)
    return mean_C, (variance_C + eps).rsqrt()


def _gather(
    x: Tensor, mean_WC: Tensor, rstd_WC: Tensor, running_mean: Tensor, running_var: Tensor,
    momentum: float, eps: float, count_W: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """batch_norm_gather_stats_with_counts"""
    assert count_W.dtype == running_mean.dtype == mean_WC.dtype
    share_W1 = (count_W / count_W.sum())[:, None]
    mean_C = (share_W1 * mean_WC).sum(0)
    second_C = (share_W1 * (rstd_WC**-2 - eps + mean_WC**2)).sum(0)
    variance_C, count = second_C - mean_C**2, count_W.sum()
    running_mean.mul_(1 - momentum).add_(momentum * mean_C)
    running_var.mul_(1 - momentum).add_(momentum * variance_C * count / (count - 1))
    return mean_C, (variance_C + eps).rsqrt()


def _elemt(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, eps: float) -> Tensor:
    """batch_norm_elemt"""
    return ((x - _like(mean, x)) * _like(rstd * weight, x) + _like(bias, x)).to(x.dtype)


def _elemt_out(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, eps: float, *, out: Tensor
) -> Tensor:
    """batch_norm_elemt.out"""
    assert _layout(out) == _layout(x), "the kernel writes as it reads"
    return out.copy_(_elemt(x, weight, bias, mean, rstd, eps))


def _reduce(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    input_g: bool,
    weight_g: bool,
    bias_g: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """batch_norm_backward_reduce"""
    assert _layout(dy) == _layout(x), "the kernel reads both alike"
    dy_RC, x_RC = _rows(dy), _rows(x)
    sum_dy_C, sum_dy_xmu_C = dy_RC.sum(0), (dy_RC * (x_RC - mean)).sum(0)
    return sum_dy_C, sum_dy_xmu_C, (sum_dy_xmu_C * rstd).to(weight.dtype), sum_dy_C.to(weight.dtype)


def _backward(
    dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, sum_dy: Tensor, sum_dy_xmu: Tensor,
    count_W: Tensor,
) -> Tensor:  # fmt: skip
    """batch_norm_backward_elemt"""
    assert count_W.dtype == torch.int32
    count = count_W.sum()
    xmu = (x - _like(mean, x)) * _like(rstd**2 * sum_dy_xmu / count, x)
    return ((dy - _like(sum_dy / count, x) - xmu) * _like(rstd * weight, x)).to(x.dtype)
