"""Here: what the paper's other losses (table 5, sections 4 and 5) are made of: both views, their means, a
product over all ranks, equation 1 of any matrix.

Not here: Barlow Twins itself, which never keeps more than one D x D matrix (correlation.py, gram.py).

All of this is plain autograd over D x D matrices: written to be read, not for D beyond 16,384. Backward gives
this rank's rows of W times the gradient, as `barlow_twins` does. All ranks must call together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from barlow.distributed import all_reduce
from barlow.objectives.global_batch import Group, embeddings


def both_views(z1_ND: Tensor, z2_ND: Tensor, lambd: float) -> Tensor:
    """Both views [2, n, D] in the precision of the loss."""
    if lambd < 0:
        raise ValueError(f"lambd may not be negative, not {lambd}")
    return torch.stack(embeddings(z1_ND, z2_ND))


def count_of(z_2ND: Tensor, group: Group) -> Tensor:
    """N, [] in the embeddings' dtype."""
    return all_reduce(z_2ND.new_full((), z_2ND.shape[1]), group)


def centre(z_2ND: Tensor, group: Group) -> Tensor:
    """Both views less their means over the global batch, with the whole gradient."""
    return z_2ND - all_reduce(z_2ND.sum(1, keepdim=True), group) / count_of(z_2ND, group)


def product(x_2ND: Tensor, count: Tensor, group: Group) -> Tensor:
    """x'y / N over the global batch, [D, D]."""
    return all_reduce(x_2ND[0].T @ x_2ND[1], group, alike=True) / count


def equation_1(c_DD: Tensor, lambd: float) -> Tensor:
    """sum_i (1 - C_ii)^2 + lambd * sum_{i != j} C_ij^2 of any [D, D] matrix."""
    return (1 - c_DD.diagonal()).square().sum() + lambd * off_diagonal(c_DD).square().sum()


def off_diagonal(c_DD: Tensor) -> Tensor:
    """The D (D - 1) entries beside the diagonal, [D - 1, D]: the diagonal is every (D + 1)-th entry."""
    num_dims = len(c_DD)
    return c_DD.flatten()[1:].view(num_dims - 1, num_dims + 1)[:, :-1] if num_dims > 1 else c_DD[:0]
