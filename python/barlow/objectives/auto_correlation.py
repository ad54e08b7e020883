"""Here: Barlow Twins whose redundancy is that within each branch (section 5, appendix A).

Not here: the cross-correlation.

Arguments and results of `barlow_twins`: this rank's embeddings, [n, D] floating point, to the loss of the
global batch of N samples, a scalar in float32 (float64 for float64), the same on every rank. x and y are the
two standardised views and C = x'y / N; a dimension that is constant over the batch counts as uncorrelated
with everything. The paper gives neither hyper-parameters nor code. `ValueError` for what can't be.
"""

from __future__ import annotations

import torch
from torch import Tensor

from barlow.distributed import all_reduce
from barlow.objectives.global_batch import Group, full_precision, standardize
from barlow.objectives.matrices import both_views, off_diagonal


def auto_correlation(
    z1_ND: Tensor, z2_ND: Tensor, lambd: float = 0.0051, *, eps: float = 0.0, group: Group = None
) -> Tensor:
    """sum_i (1 - C_ii)^2 + lambd * sum_{i != j} (A_ij^2 + B_ij^2) / 2, with A = x'x / N and B = y'y / N.

    The redundancy is that within each branch, which is what the information bottleneck asks for (section 5,
    appendix A: of one twin; the mean of the two keeps the loss symmetric in the views).
    """
    views = both_views(z1_ND, z2_ND, lambd)
    with full_precision(z1_ND):
        x_2ND, count = standardize(views, eps, group)
        diagonal_D = all_reduce(x_2ND.prod(0).sum(0), group, alike=True) / count
        own_2DD = all_reduce(x_2ND.mT @ x_2ND, group, alike=True) / count
        redundancy = torch.stack([off_diagonal(own_DD).square().sum() for own_DD in own_2DD]).mean()
        return (1 - diagonal_D).square().sum() + lambd * redundancy
