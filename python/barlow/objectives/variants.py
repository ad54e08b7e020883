"""Here: the losses that the Barlow Twins paper tries beside its own (table 5, sections 4 and 5).

Not here: Barlow Twins itself (barlow_twins.py), methods of other papers, networks (a projector without batch
norm and a predictor are models).

Every function takes this rank's embeddings of the two views, [n, D] floating point (n may differ between
ranks), and returns the loss of the global batch of N samples: a scalar, float32 (float64 for float64
embeddings), the same on every rank, also under autocast. Backward gives this rank's rows of W times the
gradient, as `barlow_twins` does. All ranks must call together. x and y are the two standardised views, each
dimension with mean 0 and (biased) variance 1 over the global batch, and C = x'y / N; a dimension that is
constant there counts as uncorrelated with everything. `ValueError` for shapes and values that can't be.

These are plain autograd over D x D matrices and keep several of them: written to be read, not for D beyond
16,384. The paper gives neither hyper-parameters nor code; where that leaves a choice, the function says so.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from barlow.distributed import all_reduce
from barlow.objectives.global_batch import Group, embeddings, full_precision, standardize


def redundancy_reduction(
    z1_ND: Tensor, z2_ND: Tensor, lambd: float = 0.0051, *, eps: float = 0.0, group: Group = None
) -> Tensor:
    """lambd * sum_{i != j} C_ij^2: "only redundancy reduction". The other half is `barlow_twins(lambd=0)`."""
    views = _embeddings(z1_ND, z2_ND, lambd)
    with full_precision(z1_ND):
        x_2ND, count = standardize(views, eps, group)
        return lambd * _off_diagonal(_product(x_2ND, count, group)).square().sum()


def feature_normalized(
    z1_ND: Tensor, z2_ND: Tensor, lambd: float = 0.0051, *, eps: float = 0.0, group: Group = None
) -> Tensor:
    """Equation 1 of the covariance of embeddings that have been normalised along the feature dimension.

    After the standardisation every sample is brought to length sqrt(D), a = x sqrt(D) / |x|, and equation 1
    is taken of a'b / N, which is not normalised again. The paper says nothing about the length. With sqrt(D)
    the trace of the matrix can reach D, and so the matrix its goal, the identity; with length 1 its entries
    could be 1/D on average, and lambd would count for next to nothing. A sample at the mean stays at 0.
    """
    views = _embeddings(z1_ND, z2_ND, lambd)
    with full_precision(z1_ND):
        x_2ND, count = standardize(views, eps, group)
        length_2N1 = torch.linalg.vector_norm(x_2ND, dim=2, keepdim=True)
        a_2ND = x_2ND * (math.sqrt(x_2ND.shape[2]) / length_2N1.where(length_2N1 > 0, 1.0))
        return _equation_1(_product(a_2ND, count, group), lambd)


def cross_covariance(z1_ND: Tensor, z2_ND: Tensor, lambd: float = 0.0051, *, group: Group = None) -> Tensor:
    """Equation 1 of the covariance of the views, (z1 - mean)'(z2 - mean) / N, without deviations."""
    views = _embeddings(z1_ND, z2_ND, lambd)
    with full_precision(z1_ND):
        return _equation_1(_product(_centre(views, group), _count(views, group), group), lambd)


def cross_entropy(
    z1_ND: Tensor,
    z2_ND: Tensor,
    lambd: float = 0.0051,
    temperature: float = 0.1,
    *,
    eps: float = 0.0,
    group: Group = None,
) -> Tensor:
    """-log sum_i exp(C_ii / t) + lambd * log sum_{i != j} exp(max(C_ij, 0) / t), t being the temperature.

    The paper does not say which temperature (nor which lambd) its number belongs to. At least 2 dimensions.
    """
    views = _embeddings(z1_ND, z2_ND, lambd)
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    if z1_ND.shape[1] < 2:
        raise ValueError("the cross-entropy needs embeddings of at least 2 dimensions")
    with full_precision(z1_ND):
        x_2ND, count = standardize(views, eps, group)
        c_DD = _product(x_2ND, count, group)
        on = torch.logsumexp(c_DD.diagonal() / temperature, 0)
        off = torch.logsumexp(_off_diagonal(c_DD).clamp(min=0).flatten() / temperature, 0)
        return lambd * off - on


def auto_correlation(
    z1_ND: Tensor, z2_ND: Tensor, lambd: float = 0.0051, *, eps: float = 0.0, group: Group = None
) -> Tensor:
    """sum_i (1 - C_ii)^2 + lambd * sum_{i != j} (A_ij^2 + B_ij^2) / 2, with A = x'x / N and B = y'y / N.

    The redundancy is that within each branch, which is what the information bottleneck asks for (section 5,
    appendix A: of one twin; the mean of the two keeps the loss symmetric in the views).
    """
    views = _embeddings(z1_ND, z2_ND, lambd)
    with full_precision(z1_ND):
        x_2ND, count = standardize(views, eps, group)
        diagonal_D = all_reduce(x_2ND.prod(0).sum(0), group, alike=True) / count
        own_2DD = all_reduce(x_2ND.mT @ x_2ND, group, alike=True) / count
        redundancy = torch.stack([_off_diagonal(own_DD).square().sum() for own_DD in own_2DD]).mean()
        return (1 - diagonal_D).square().sum() + lambd * redundancy


def _embeddings(z1_ND: Tensor, z2_ND: Tensor, lambd: float) -> Tensor:
    """Both views [2, n, D] in the precision of the loss."""
    if lambd < 0:
        raise ValueError(f"lambd may not be negative, not {lambd}")
    return torch.stack(embeddings(z1_ND, z2_ND))


def _count(z_2ND: Tensor, group: Group) -> Tensor:
    """N, [] in the embeddings' dtype."""
    return all_reduce(z_2ND.new_full((), z_2ND.shape[1]), group)


def _centre(z_2ND: Tensor, group: Group) -> Tensor:
    """Both views less their means over the global batch, with the whole gradient."""
    return z_2ND - all_reduce(z_2ND.sum(1, keepdim=True), group) / _count(z_2ND, group)


def _product(x_2ND: Tensor, count: Tensor, group: Group) -> Tensor:
    """x'y / N over the global batch, [D, D]."""
    return all_reduce(x_2ND[0].T @ x_2ND[1], group, alike=True) / count


def _equation_1(c_DD: Tensor, lambd: float) -> Tensor:
    return (1 - c_DD.diagonal()).square().sum() + lambd * _off_diagonal(c_DD).square().sum()


def _off_diagonal(c_DD: Tensor) -> Tensor:
    """The D (D - 1) entries beside the diagonal, [D - 1, D]: the diagonal is every (D + 1)-th entry."""
    num_dims = len(c_DD)
    return c_DD.flatten()[1:].view(num_dims - 1, num_dims + 1)[:, :-1] if num_dims > 1 else c_DD[:0]
