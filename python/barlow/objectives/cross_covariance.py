"""Here: Barlow Twins of the cross-covariance, "no normalisation" of table 5.

Not here: the projector without batch norm that goes with it; that is a model.

Arguments and results of `barlow_twins`: this rank's embeddings, [n, D] floating point, to the loss of the
global batch of N samples, a scalar in float32 (float64 for float64), the same on every rank. x and y are the
two standardised views and C = x'y / N; a dimension that is constant over the batch counts as uncorrelated
with everything. The paper gives neither hyper-parameters nor code. `ValueError` for what can't be.
"""

from __future__ import annotations

from torch import Tensor

from barlow.objectives.global_batch import Group, full_precision
from barlow.objectives.matrices import both_views, centre, count_of, equation_1, product


def cross_covariance(z1_ND: Tensor, z2_ND: Tensor, lambd: float = 0.0051, *, group: Group = None) -> Tensor:
    """Equation 1 of the covariance of the views, (z1 - mean)'(z2 - mean) / N, without deviations."""
    views = both_views(z1_ND, z2_ND, lambd)
    with full_precision(z1_ND):
        return equation_1(product(centre(views, group), count_of(views, group), group), lambd)
