"""Here: the loss and its gradient by way of the correlation matrix C, one buffer of D x D.

Not here: the Gram matrices (`gram.py`), which form to take when (`forms.py`).

Each rank adds its rows' share of C; the sum is the only large thing that the ranks exchange.
"""

from __future__ import annotations

import torch
from torch import Tensor

from barlow.distributed import all_reduce_
from barlow.objectives.forms import Terms
from barlow.objectives.standardize import Group, stack_views, standardize, standardize_backward


def correlation(
    z1_ND: Tensor, z2_ND: Tensor, lambd: float, eps: float, group: Group, wants_grad: bool
) -> tuple[Terms, Tensor | None]:
    """The terms of the loss and, if wanted, its gradient at this rank's rows of both views, [2, n, D]."""
    x_2ND, rstd_2D, count = standardize(stack_views(z1_ND, z2_ND), eps, group)
    c_DD = correlate(x_2ND, count, group)
    diagonal_D = c_DD.diagonal().clone()
    c_DD.diagonal().zero_()
    # Row by row: one float32 sum over D^2 squares would lose digits, and c * c would be a second buffer.
    redundancy = torch.linalg.vector_norm(c_DD, dim=1).double().square().sum()
    d_D = diagonal_D.double()
    terms = Terms((d_D - 1).square().sum(), redundancy, d_D.sum())
    if not wants_grad:
        return terms, None
    slope_DD = c_DD.mul_(2 * lambd)
    slope_DD.diagonal().copy_(2 * (diagonal_D - 1))
    slope_DD /= count
    dx_2ND = torch.stack([x_2ND[1] @ slope_DD.T, x_2ND[0] @ slope_DD])
    slope_2D = all_reduce_((dx_2ND * x_2ND).sum(1), group) / count
    return terms, standardize_backward(dx_2ND, x_2ND, rstd_2D, slope_2D)


def correlate(x_2ND: Tensor, count: Tensor, group: Group) -> Tensor:
    """C of standardised views, [D, D]."""
    return all_reduce_(x_2ND[0].T @ x_2ND[1], group).div_(count)
