"""Here: the Barlow Twins loss (Zbontar et al., ICML 2021, equations 1 and 2), its floor, the matrix C.

Not here: the projector, other objectives, per-rank or joint normalisation of the views.

N samples in all (n on this rank), D dimensions, x and y the standardised views:
    C = x'y / N,   loss = sum_i (1 - C_ii)^2 + lambd * sum_{i != j} C_ij^2.
Means and (biased) variances are those of each view over the N samples of all ranks, so the loss and its
gradient do not depend on how many ranks there are or which samples each of them holds.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from barlow.distributed import all_moments, all_reduce_, world_size

Group = dist.ProcessGroup | None

# A deviation of so many roundings of the mean is noise of the arithmetic, not signal.
_CONSTANT_ULPS = 8


def barlow_twins(
    z1_ND: Tensor, z2_ND: Tensor, lambd: float = 0.0051, *, eps: float = 0.0, group: Group = None
) -> Tensor:
    """The loss of the global batch, a scalar that is the same on every rank.

    `z1_ND` and `z2_ND` are this rank's embeddings of the two views, [n, D] floating point; n may differ
    between ranks. Computed in float32 (float64 for float64 embeddings), also under autocast.
    `eps` is added to the variances: 0 is equation 2, 1e-5 the official code. With 0, a dimension that is
    constant over the batch counts as uncorrelated with everything: C_ii = 0, and it gets no gradient.

    Backward gives this rank's rows of W times the gradient of the loss, W being the size of the group: the
    mean over ranks that DistributedDataParallel takes then gives every parameter the gradient of one process
    with the whole batch. All ranks must call it together. `ValueError` for shapes and values that can't be.
    """
    _check(z1_ND, z2_ND, eps)
    if lambd < 0:
        raise ValueError(f"lambd may not be negative, not {lambd}")
    wants_grad = torch.is_grad_enabled() and (z1_ND.requires_grad or z2_ND.requires_grad)
    with torch.autocast(z1_ND.device.type, enabled=False):
        return _BarlowTwins.apply(z1_ND, z2_ND, lambd, eps, group, wants_grad)  # pyright: ignore[reportReturnType]


def cross_correlation(z1_ND: Tensor, z2_ND: Tensor, *, eps: float = 0.0, group: Group = None) -> Tensor:
    """C of equation 2 over the global batch, [D, D] float32 (float64 for float64 embeddings), no gradient."""
    _check(z1_ND, z2_ND, eps)
    with torch.no_grad(), torch.autocast(z1_ND.device.type, enabled=False):
        x_2ND, _, count = _standardize(z1_ND, z2_ND, eps, group)
        return _correlate(x_2ND, count, group)


def loss_floor(num_samples: int, num_dims: int, lambd: float) -> float:
    """The least loss that any embeddings of `num_samples` in `num_dims` dimensions can have.

    C has rank at most N - 1, so its squared norm is at least (trace C)^2 / (N - 1): with more dimensions than
    samples the off-diagonal can't vanish. With K = D^2 / (N - 1) - D > 0 the least loss is
    D lambd K / (D + lambd K), at the uniform diagonal D / (D + lambd K). Holds for lambd < 1; beyond that
    the bound is not proven and 0 is returned.
    """
    if num_samples < 2 or num_dims < 1 or lambd < 0:
        raise ValueError(f"no loss of {num_samples} samples, {num_dims} dimensions and lambd {lambd}")
    surplus = num_dims**2 / (num_samples - 1) - num_dims
    if surplus <= 0 or lambd >= 1:
        return 0.0
    return num_dims * lambd * surplus / (num_dims + lambd * surplus)


def _check(z1_ND: Tensor, z2_ND: Tensor, eps: float) -> None:
    if z1_ND.dim() != 2 or z1_ND.shape != z2_ND.shape or 0 in z1_ND.shape:
        shapes = f"{list(z1_ND.shape)} and {list(z2_ND.shape)}"
        raise ValueError(f"embeddings must be two [N, D] tensors of one shape, N, D > 0, not {shapes}")
    if not z1_ND.is_floating_point() or not z2_ND.is_floating_point():
        raise ValueError(f"embeddings must be floating point, not {z1_ND.dtype} and {z2_ND.dtype}")
    if eps < 0:
        raise ValueError(f"eps may not be negative, not {eps}")


class _BarlowTwins(torch.autograd.Function):
    """Loss and gradient in one go: C never outlives the forward pass, and backward needs no collective."""

    @staticmethod
    def forward(
        ctx: Any, z1_ND: Tensor, z2_ND: Tensor, lambd: float, eps: float, group: Group, wants_grad: bool
    ) -> Tensor:
        x_2ND, rstd_2D, count = _standardize(z1_ND, z2_ND, eps, group)
        loss, dx_2ND = _correlation_form(x_2ND, count, lambd, group, wants_grad)
        if dx_2ND is not None:
            ctx.save_for_backward(_standardize_backward(dx_2ND, x_2ND, rstd_2D, count, group))
        ctx.dtypes = z1_ND.dtype, z2_ND.dtype
        ctx.factor = world_size(group)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (dz_2ND,) = ctx.saved_tensors
        # A gradient scaler's factor arrives in grad_loss: it must be in before the cast to half precision.
        dz1_ND, dz2_ND = (grad_loss * ctx.factor * dz_2ND).unbind()
        return dz1_ND.to(ctx.dtypes[0]), dz2_ND.to(ctx.dtypes[1]), None, None, None, None


def _standardize(z1_ND: Tensor, z2_ND: Tensor, eps: float, group: Group) -> tuple[Tensor, Tensor, Tensor]:
    """Both views with mean 0 and variance 1 over the global batch [2, n, D], 1/deviation [2, D], and N []."""
    both_64 = z1_ND.dtype == z2_ND.dtype == torch.float64
    dtype = torch.float64 if both_64 else torch.float32
    x_2ND = torch.stack([z1_ND.to(dtype), z2_ND.to(dtype)])
    local_mean_2D = x_2ND.mean(1)
    x_2ND -= local_mean_2D[:, None]
    count, mean_2D, m2_2D = all_moments(x_2ND.shape[1], local_mean_2D, x_2ND.square().sum(1), group)
    x_2ND += (local_mean_2D - mean_2D)[:, None]
    variance_2D = m2_2D / count
    rstd_2D = (variance_2D + eps).rsqrt()
    if eps == 0:
        noise_2D = _CONSTANT_ULPS * torch.finfo(dtype).eps * mean_2D.abs()
        rstd_2D = rstd_2D.masked_fill(variance_2D <= noise_2D.square(), 0.0)
    return x_2ND.mul_(rstd_2D[:, None]), rstd_2D, count


def _standardize_backward(
    dx_2ND: Tensor, x_2ND: Tensor, rstd_2D: Tensor, count: Tensor, group: Group
) -> Tensor:
    """The gradient at the embeddings from that at the standardised views, as in batch norm.

    Batch norm would also subtract dx's mean over the samples. Here each dx is a combination of columns of x,
    whose means are 0, so there is nothing to subtract.
    """
    slope_2D = all_reduce_((dx_2ND * x_2ND).sum(1), group) / count
    dx_2ND -= x_2ND * slope_2D[:, None]
    return dx_2ND.mul_(rstd_2D[:, None])


def _correlate(x_2ND: Tensor, count: Tensor, group: Group) -> Tensor:
    return all_reduce_(x_2ND[0].T @ x_2ND[1], group).div_(count)


def _correlation_form(
    x_2ND: Tensor, count: Tensor, lambd: float, group: Group, wants_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """The loss and its gradient at this rank's rows of x, by way of C: one buffer of D x D."""
    c_DD = _correlate(x_2ND, count, group)
    diagonal_D = c_DD.diagonal().clone()
    c_DD.diagonal().zero_()
    # Row by row: one float32 sum over D^2 squares would lose digits, and c * c would be a second buffer.
    off_diagonal = torch.linalg.vector_norm(c_DD, dim=1).square().sum()
    loss = (diagonal_D - 1).square().sum() + lambd * off_diagonal
    if not wants_grad:
        return loss, None
    slope_DD = c_DD.mul_(2 * lambd)
    slope_DD.diagonal().copy_(2 * (diagonal_D - 1))
    slope_DD /= count
    dx_2ND = torch.empty_like(x_2ND)
    torch.mm(x_2ND[1], slope_DD.T, out=dx_2ND[0])
    torch.mm(x_2ND[0], slope_DD, out=dx_2ND[1])
    return loss, dx_2ND
