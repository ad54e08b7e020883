"""Here: the loss and its gradient by way of Gram matrices of the samples, sharded over samples or features.

Not here: the correlation matrix (`correlation.py`), which form to take when (`forms.py`).

N samples in all, n on this rank, D dimensions, x and y the standardised views, [N, D]. With the Gram matrices
P = xx' and Q = yy' and c_i = sum_b x_bi y_bi / N, the diagonal of C,
    loss = lambd <P, Q> / N^2 + sum_i (1 - c_i)^2 - lambd c_i^2,
    dloss/dx = 2 lambd / N^2 Q x + y (2 (c - 1) - 2 lambd c) / N,      dloss/dy the same, views exchanged.
No matrix has two sides of D.
"""

from __future__ import annotations

import torch
from torch import Tensor

from barlow.distributed import all_gather, all_reduce_, all_to_all, rank_in, world_size
from barlow.objectives.forms import Terms
from barlow.objectives.standardize import (
    Group,
    stack_views,
    standardize,
    standardize_backward,
    standardize_here,
)


def gram(
    z1_ND: Tensor,
    z2_ND: Tensor,
    lambd: float,
    eps: float,
    group: Group,
    wants_grad: bool,
    operands: torch.dtype | None = None,
    counts: list[int] | None = None,
) -> tuple[Terms, Tensor | None]:
    """Sharded over the samples: each rank gathers all standardised embeddings and computes its rows of both
    Gram matrices, hence the gradient at its rows.

    The terms of the loss and, if wanted, its gradient at this rank's rows of both views, [2, n, D].
    `operands` is what the embeddings are gathered and multiplied in, by default `operand_dtype`'s; `counts`
    are the rows of every rank, by default those that `sample_counts` learns from them.
    """
    rows, num_dims = z1_ND.shape
    counts = counts or sample_counts(rows, z1_ND.device, group)
    num_samples = sum(counts)
    x_2ND, rstd_2D, _ = standardize(stack_views(z1_ND, z2_ND), eps, group)
    all_2MD = _gather_rows(x_2ND.to(operands or operand_dtype(z1_ND, z2_ND)), max(counts), group)
    first = rank_in(group) * max(counts)
    k_2NM = _products(all_2MD[:, first : first + rows], all_2MD.mT)
    sums = [(x_2ND[0] * x_2ND[1]).sum(0), _inner(k_2NM).to(x_2ND.dtype)[None]]
    dx_2ND = None
    if wants_grad:
        dx_2ND = _redundancy_gradient(k_2NM, first, all_2MD, x_2ND, lambd, num_samples)
        sums.append((dx_2ND * x_2ND).sum(1).flatten())
    sums = all_reduce_(torch.cat(sums), group)
    c_D = sums[:num_dims] / num_samples
    terms = _terms(c_D, sums[num_dims] / num_samples**2)
    if dx_2ND is None:
        return terms, None
    slope_2D = sums[num_dims + 1 :].view(2, num_dims) / num_samples
    slope_2D += _add_diagonal_gradient(dx_2ND, x_2ND, c_D, lambd, num_samples)
    return terms, standardize_backward(dx_2ND, x_2ND, rstd_2D, slope_2D)


def gram_features(
    z1_ND: Tensor,
    z2_ND: Tensor,
    lambd: float,
    eps: float,
    group: Group,
    wants_grad: bool,
    operands: torch.dtype | None = None,
    counts: list[int] | None = None,
) -> tuple[Terms, Tensor | None]:
    """Sharded over the features: an all-to-all gives each rank all samples of its D/W features, which it
    standardises by itself; the ranks add up the Gram matrices; another all-to-all takes the gradients home.

    Arguments and result are those of `gram`. If W does not divide D, some ranks have one feature more.
    """
    rank, size = rank_in(group), world_size(group)
    rows, num_dims = z1_ND.shape
    counts = counts or sample_counts(rows, z1_ND.device, group)
    num_samples, shares = sum(counts), _shares(num_dims, size)
    out_sizes, in_sizes = [2 * rows * d for d in shares], [2 * n * shares[rank] for n in counts]
    blocks = stack_views(z1_ND, z2_ND).transpose(0, 1).split(shares, dim=2)
    flat = all_to_all(torch.cat([block.flatten() for block in blocks]), out_sizes, in_sizes, group)
    z_2Nd = flat.view(num_samples, 2, shares[rank]).transpose(0, 1)
    x_2Nd, rstd_2d = standardize_here(z_2Nd, eps)
    operand_2Nd = x_2Nd.to(operands or operand_dtype(z1_ND, z2_ND))
    c_d = (x_2Nd[0] * x_2Nd[1]).sum(0) / num_samples
    on = torch.stack([(c_d - 1).square().sum(), c_d.square().sum(), c_d.sum()])
    k_2NN, on = _sum_of_shards(_products(operand_2Nd, operand_2Nd.mT), on, group)
    squares = _inner(k_2NN) / num_samples**2
    invariance, diagonal_squares, trace = on.double().unbind()
    terms = Terms(invariance, (squares - diagonal_squares).clamp_min(0), trace)
    if not wants_grad:
        return terms, None
    dx_2Nd = _redundancy_gradient(k_2NN, 0, operand_2Nd, x_2Nd, lambd, num_samples)
    slope_2d = (dx_2Nd * x_2Nd).sum(1) / num_samples
    slope_2d += _add_diagonal_gradient(dx_2Nd, x_2Nd, c_d, lambd, num_samples)
    dz_2Nd = standardize_backward(dx_2Nd, x_2Nd, rstd_2d, slope_2d)
    flat = all_to_all(dz_2Nd.transpose(0, 1).flatten(), in_sizes, out_sizes, group)
    parts = [part.view(rows, 2, -1) for part in flat.split(out_sizes)]
    return terms, torch.cat(parts, dim=2).transpose(0, 1)


def operand_dtype(z1_ND: Tensor, z2_ND: Tensor) -> torch.dtype:
    """What the standardised embeddings are multiplied in; sums are float32 or float64 in any case.

    Half precision stays that on GPUs, whose matrix units take it many times faster than float32.
    """
    dtype = z1_ND.dtype if z1_ND.dtype == z2_ND.dtype else torch.float32
    if dtype == torch.float64:
        return dtype
    # torch before 2.8 can't multiply halves into float32, and a Gram matrix must not be rounded to half.
    can = z1_ND.is_cuda and "dtype" in torch.ops.aten.bmm.overloads()
    return dtype if can and dtype in (torch.bfloat16, torch.float16) else torch.float32


def sample_counts(rows: int, device: torch.device, group: Group) -> list[int]:
    """The number of rows on every rank. With several, the host waits for the device here, once."""
    if world_size(group) == 1:
        return [rows]
    return all_gather(torch.tensor(rows, device=device), group).tolist()


def _shares(num_dims: int, size: int) -> list[int]:
    return [num_dims // size + (rank < num_dims % size) for rank in range(size)]


def _gather_rows(x_2ND: Tensor, most: int, group: Group) -> Tensor:
    """The rows of all ranks, [2, W most, D]: those of a rank that has fewer than `most` end in zeros."""
    rows_N2D = x_2ND.transpose(0, 1)
    if len(rows_N2D) < most:
        rows_N2D = torch.cat([rows_N2D, rows_N2D.new_zeros(most - len(rows_N2D), *rows_N2D.shape[1:])])
    return all_gather(rows_N2D, group).flatten(0, 1).transpose(0, 1)


def _products(a_2XY: Tensor, b_2YZ: Tensor) -> Tensor:
    """The product of each view, summed and returned in at least float32."""
    if a_2XY.dtype not in (torch.bfloat16, torch.float16):
        return torch.bmm(a_2XY, b_2YZ)
    if a_2XY.is_cuda:
        return torch.bmm(a_2XY, b_2YZ, out_dtype=torch.float32)
    return torch.bmm(a_2XY.float(), b_2YZ.float())


def _inner(k_2NM: Tensor) -> Tensor:
    """<P, Q> of the rows at hand, in float64."""
    return torch.linalg.vecdot(k_2NM[0], k_2NM[1]).double().sum()


def _sum_of_shards(k_2NN: Tensor, more: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """Both Gram matrices and some more numbers summed over the ranks, in one all-reduce of half the size.

    The matrices are symmetric: the upper triangle of one and the lower of the other say it all.
    """
    if world_size(group) == 1:
        return k_2NN, more
    num = k_2NN.shape[1]
    square_NN = k_2NN[0].triu() + k_2NN[1].tril(-1)
    packed = all_reduce_(torch.cat([square_NN.flatten(), k_2NN[1].diagonal(), more]), group)
    square_NN, diagonal_N, more = packed.split([num**2, num, len(more)])
    square_NN = square_NN.view(num, num)
    upper_NN, lower_NN = square_NN.triu(), square_NN.tril(-1)
    k_2NN = torch.stack([upper_NN + square_NN.triu(1).T, lower_NN + lower_NN.T + diagonal_N.diag()])
    return k_2NN, more


def _terms(c_D: Tensor, squares: Tensor) -> Terms:
    c_D = c_D.double()
    # With fewer dimensions than samples both sums can be alike, and rounding bring the difference below 0.
    redundancy = (squares.double() - c_D.square().sum()).clamp_min(0)
    return Terms((c_D - 1).square().sum(), redundancy, c_D.sum())


def _redundancy_gradient(
    k_2NM: Tensor, first: int, operand_2MD: Tensor, x_2ND: Tensor, lambd: float, num_samples: int
) -> Tensor:
    """The gradient of lambd <P, Q> / N^2 at these rows, from row `first` of the operands on; k is used up."""
    weight = 2 * lambd / num_samples**2
    if operand_2MD.dtype == k_2NM.dtype:
        k_2NM *= weight
        return _products(k_2NM.flip(0), operand_2MD)
    # Half precision. The samples of x sum to 0, so a constant added to all of P or Q changes nothing. This
    # one takes away the mean of what is off the diagonal, -D / (N - 1), which may be far larger than what
    # varies there and would drown it in its rounding. So would the diagonal, about D: it goes the exact way.
    # What is left is divided by D, since float16 ends at 65504.
    rows, num_dims = x_2ND.shape[1:]
    k_2NM += num_dims / max(1, num_samples - 1)
    diagonal_2N = k_2NM[:, :, first : first + rows].diagonal(dim1=1, dim2=2)
    own_2N = diagonal_2N * weight
    diagonal_2N.zero_()
    k_2NM = (k_2NM / num_dims).to(operand_2MD.dtype)
    dx_2ND = _products(k_2NM.flip(0), operand_2MD).mul_(weight * num_dims)
    return dx_2ND.addcmul_(x_2ND, own_2N.flip(0)[:, :, None])


def _add_diagonal_gradient(
    dx_2ND: Tensor, x_2ND: Tensor, c_D: Tensor, lambd: float, num_samples: int
) -> Tensor:
    """Adds the gradient of sum_i (1 - c_i)^2 - lambd c_i^2; returns the mean of it times x over all."""
    slope_D = (2 * (c_D - 1) - 2 * lambd * c_D) / num_samples
    dx_2ND[0].addcmul_(x_2ND[1], slope_D)
    dx_2ND[1].addcmul_(x_2ND[0], slope_D)
    return slope_D * c_D
