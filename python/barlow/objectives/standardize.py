"""Here: both views at mean 0 and variance 1 over the samples, and the way back of a gradient through that.

Not here: any loss; batch norm of the network (`model/batchnorm.py`).

The views lie interleaved in memory, [n, 2, D], and are handled as [2, n, D]. So the rows of all ranks,
gathered in one go, are a matrix of each view that BLAS takes as it lies, without a copy.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from barlow.distributed import all_moments

Group = dist.ProcessGroup | None

# A deviation of so many roundings of the mean is noise of the arithmetic, not signal.
_CONSTANT_ULPS = 8


def stack_views(z1_ND: Tensor, z2_ND: Tensor) -> Tensor:
    """Both views [2, n, D], interleaved in memory, in the dtype they share; float32 if they differ."""
    dtype = z1_ND.dtype if z1_ND.dtype == z2_ND.dtype else torch.float32
    return torch.stack([z1_ND.to(dtype), z2_ND.to(dtype)], dim=1).transpose(0, 1)


def standardize(z_2ND: Tensor, eps: float, group: Group) -> tuple[Tensor, Tensor, Tensor]:
    """Over the samples of all ranks: x [2, n, D], 1/deviation [2, D], and their number [].

    In float32, or float64 for float64; `z_2ND` is used up. `eps` is added to the (biased) variances. With
    `eps=0` a dimension that is constant over the samples, to rounding, becomes 0 and its 1/deviation too.
    """
    x_2ND, local_mean_2D, m2_2D = _centre(z_2ND)
    count, mean_2D, m2_2D = all_moments(x_2ND.shape[1], local_mean_2D, m2_2D, group)
    x_2ND += (local_mean_2D - mean_2D)[:, None]
    return *_scale(x_2ND, mean_2D, m2_2D / count, eps), count


def standardize_here(z_2ND: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`standardize` where this process has every sample: x [2, N, D] and 1/deviation [2, D]."""
    x_2ND, mean_2D, m2_2D = _centre(z_2ND)
    return _scale(x_2ND, mean_2D, m2_2D / x_2ND.shape[1], eps)


def standardize_backward(dx_2ND: Tensor, x_2ND: Tensor, rstd_2D: Tensor, slope_2D: Tensor) -> Tensor:
    """The gradient at the embeddings from that at the standardised views, as in batch norm; in place.

    `slope_2D` is the mean of dx x over all samples. Batch norm would also subtract the mean of dx. Here each
    dx is a combination of columns of x, whose means are 0, so there is nothing to subtract.
    """
    return dx_2ND.addcmul_(x_2ND, slope_2D[:, None], value=-1).mul_(rstd_2D[:, None])


def _centre(z_2ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The embeddings less their mean over this rank's rows, that mean, and the sums of squares left."""
    x_2ND = z_2ND.to(torch.float64 if z_2ND.dtype == torch.float64 else torch.float32)
    mean_2D = x_2ND.mean(1)
    x_2ND -= mean_2D[:, None]
    return x_2ND, mean_2D, x_2ND.square().sum(1)


def _scale(x_2ND: Tensor, mean_2D: Tensor, variance_2D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    rstd_2D = (variance_2D + eps).rsqrt()
    # Where squares overflow (from about 1e19 in float32) nothing is known: 0 would make it a constant.
    rstd_2D = rstd_2D.masked_fill(variance_2D.isinf(), torch.nan)
    if eps == 0:
        noise_2D = _CONSTANT_ULPS * torch.finfo(x_2ND.dtype).eps * mean_2D.abs()
        rstd_2D = rstd_2D.masked_fill(variance_2D <= noise_2D.square(), 0.0)
    return x_2ND.mul_(rstd_2D[:, None]), rstd_2D
