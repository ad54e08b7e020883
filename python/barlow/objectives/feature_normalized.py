"""Here: Barlow Twins with a normalisation along the features (table 5).

Not here: its cross-entropy and covariance variants.

Arguments and results of `barlow_twins`: this rank's embeddings, [n, D] floating point, to the loss of the
global batch of N samples, a scalar in float32 (float64 for float64), the same on every rank. x and y are the
two standardised views and C = x'y / N; a dimension that is constant over the batch counts as uncorrelated
with everything. The paper gives neither hyper-parameters nor code. `ValueError` for what can't be.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from barlow.objectives.global_batch import Group, full_precision, standardize
from barlow.objectives.matrices import both_views, equation_1, product


def feature_normalized(
    z1_ND: Tensor, z2_ND: Tensor, lambd: float = 0.0051, *, eps: float = 0.0, group: Group = None
) -> Tensor:
    """Equation 1 of the covariance of embeddings that have been normalised along the feature dimension.

    After the standardisation every sample is brought to length sqrt(D), a = x sqrt(D) / |x|, and equation 1
    is taken of a'b / N, which is not normalised again. The paper says nothing about the length. With sqrt(D)
    the trace of the matrix can reach D, and so the matrix its goal, the identity; with length 1 its entries
    could be 1/D on average, and lambd would count for next to nothing. A sample at the mean stays at 0.
    """
    views = both_views(z1_ND, z2_ND, lambd)
    with full_precision(z1_ND):
        x_2ND, count = standardize(views, eps, group)
        length_2N1 = torch.linalg.vector_norm(x_2ND, dim=2, keepdim=True)
        a_2ND = x_2ND * (math.sqrt(x_2ND.shape[2]) / length_2N1.where(length_2N1 > 0, 1.0))
        return equation_1(product(a_2ND, count, group), lambd)
