"""Here: the cross-entropy with temperature of table 5.

Not here: InfoNCE (infonce.py), whose softmax runs over samples.

Arguments and results of `barlow_twins`: this rank's embeddings, [n, D] floating point, to the loss of the
global batch of N samples, a scalar in float32 (float64 for float64), the same on every rank. x and y are the
two standardised views and C = x'y / N; a dimension that is constant over the batch counts as uncorrelated
with everything. The paper gives neither hyper-parameters nor code. `ValueError` for what can't be.
"""

from __future__ import annotations

import torch
from torch import Tensor

from barlow.objectives.global_batch import Group, full_precision, standardize
from barlow.objectives.matrices import both_views, off_diagonal, product


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
    views = both_views(z1_ND, z2_ND, lambd)
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    if z1_ND.shape[1] < 2:
        raise ValueError("the cross-entropy needs embeddings of at least 2 dimensions")
    with full_precision(z1_ND):
        x_2ND, count = standardize(views, eps, group)
        c_DD = product(x_2ND, count, group)
        on = torch.logsumexp(c_DD.diagonal() / temperature, 0)
        off = torch.logsumexp(off_diagonal(c_DD).clamp(min=0).flatten() / temperature, 0)
        return lambd * off - on
