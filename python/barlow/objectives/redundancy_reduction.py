"""Here: the second term of equation 1 alone, "only redundancy reduction" of table 5.

Not here: the first alone: that is `barlow_twins(lambd=0)`.

Arguments and results of `barlow_twins`: this rank's embeddings, [n, D] floating point, to the loss of the
global batch of N samples, a scalar in float32 (float64 for float64), the same on every rank. x and y are the
two standardised views and C = x'y / N; a dimension that is constant over the batch counts as uncorrelated
with everything. The paper gives neither hyper-parameters nor code. `ValueError` for what can't be.
"""

from __future__ import annotations

from torch import Tensor

from barlow.objectives.global_batch import Group, full_precision, standardize
from barlow.objectives.matrices import both_views, off_diagonal, product


def redundancy_reduction(
    z1_ND: Tensor, z2_ND: Tensor, lambd: float = 0.0051, *, eps: float = 0.0, group: Group = None
) -> Tensor:
    """lambd * sum_{i != j} C_ij^2: "only redundancy reduction". The other half is `barlow_twins(lambd=0)`."""
    views = both_views(z1_ND, z2_ND, lambd)
    with full_precision(z1_ND):
        x_2ND, count = standardize(views, eps, group)
        return lambd * off_diagonal(product(x_2ND, count, group)).square().sum()
