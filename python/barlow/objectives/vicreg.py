"""Here: VICReg (Bardes, Ponce, LeCun, ICLR 2022, arXiv 2105.04906): invariance, variance, covariance.

Not here: the expander (build it as a projector), several expanders of different branches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from barlow.distributed import all_moments, all_reduce, world_size
from barlow.objectives.global_batch import Group, batch_mean, embeddings, full_precision


def vicreg(
    z1_ND: Tensor,
    z2_ND: Tensor,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    *,
    eps: float = 1e-4,
    group: Group = None,
) -> Tensor:
    """invariance * MSE(z1, z2) + variance * (v1 + v2) / 2 + covariance * (c1 + c2), a scalar on every rank.

    v is the mean over dimensions of max(0, 1 - sqrt(Var + eps)) and c the sum of the squared covariances of
    different dimensions divided by D, both of one view over the samples of all ranks, with the unbiased
    variance and covariance (divided by N - 1). `z1_ND`, `z2_ND`: this rank's embeddings, [n, D] floating
    point, n may differ between ranks; `ValueError` for a single sample in all and for eps <= 0.

    Weights, `eps` and scaling are those of facebookresearch/vicreg (main_vicreg.py), the weights also the
    paper's, whose equations don't divide the squared distance by D and add the two variance terms. Computed
    in float32 (float64 for float64); backward gives W times the gradient of the global batch at this rank's
    rows, without a collective.
    """
    views = embeddings(z1_ND, z2_ND)
    if not eps > 0:
        raise ValueError(f"eps must be positive, not {eps}: the deviation of a constant has no gradient")
    if len(z1_ND) < 2 and world_size(group) == 1:
        raise ValueError("the variance needs at least 2 samples")
    with full_precision(z1_ND):
        loss = invariance * batch_mean((views[0] - views[1]).square().mean(1), group)
        for z_ND in views:
            hinge, squares = _spread(z_ND, eps, group)
            loss = loss + variance / 2 * hinge + covariance * squares
    return loss


def _spread(z_ND: Tensor, eps: float, group: Group) -> tuple[Tensor, Tensor]:
    """The variance term and the covariance term of one view."""
    count, x_ND = _centre(z_ND, group)
    cov_DD = all_reduce(x_ND.T @ x_ND, group, alike=True) / (count - 1)
    hinge = (1 - (cov_DD.diagonal() + eps).sqrt()).relu().mean()
    off_diagonal_DD = cov_DD.diagonal_scatter(torch.zeros_like(z_ND[0]))
    return hinge, off_diagonal_DD.square().sum() / z_ND.shape[1]


def _centre(z_ND: Tensor, group: Group) -> tuple[Tensor | int, Tensor]:
    """The number of samples of all ranks, and this rank's less the mean of all."""
    if world_size(group) == 1:
        return len(z_ND), z_ND - z_ND.mean(0)  # with all its derivatives, also the second
    with torch.no_grad():
        # As a constant: the gradient at x is a combination of columns of x, whose means are 0, so that the
        # gradient by way of the mean is 0. It can't be derived again: the collectives allow for one backward.
        count, mean_D, _ = all_moments(len(z_ND), z_ND.mean(0), torch.zeros_like(z_ND[0]), group)
    return count, z_ND - mean_D
