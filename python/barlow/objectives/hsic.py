"""Here: HSIC_SSL (Tsai et al., "A note on connecting Barlow Twins with negative-sample-free contrastive
learning", 2021, arXiv 2104.13712): Barlow Twins with a target of -1 off the diagonal.

Not here: the cross-correlation matrix; neither it nor its gradient is formed beyond what `barlow_twins` does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from barlow.objectives.barlow_twins import barlow_twins
from barlow.objectives.global_batch import Group, batch_mean, embeddings, full_precision, standardize


def hsic(
    z1_ND: Tensor, z2_ND: Tensor, lambd: float | None = None, *, eps: float = 0.0, group: Group = None
) -> Tensor:
    """sum_i (1 - C_ii)^2 + lambd * sum_{i != j} (1 + C_ij)^2 with the C of `barlow_twins`, on every rank.

    `z1_ND`, `z2_ND`: this rank's embeddings of the two views, [n, D] floating point, n may differ between
    ranks. `lambd` is 1/D by default (yaohungt/Barlow-Twins-HSIC, README: 0.0078125 for D = 128). That code
    takes the unbiased deviation, so its C is (N - 1) / N of this one. Precision, `eps`, gradient (W times
    that of the global batch), constant dimensions and errors are those of `barlow_twins`.
    """
    # Converted once: gradients of half precision would be rounded in each of the two terms.
    z1_ND, z2_ND = embeddings(z1_ND, z2_ND)
    num_dims = z1_ND.shape[1]
    lambd = 1 / num_dims if lambd is None else lambd
    loss = barlow_twins(z1_ND, z2_ND, lambd, eps=eps, group=group)
    # (1 + c)^2 = c^2 + 2c + 1, and the sum of all of C is the mean over samples of the product of row sums.
    with full_precision(z1_ND):
        x_2ND, _ = standardize(torch.stack([z1_ND, z2_ND]), eps, group)
        x1_ND, x2_ND = x_2ND
        off_diagonal = batch_mean(x1_ND.sum(1) * x2_ND.sum(1) - (x1_ND * x2_ND).sum(1), group)
        return loss + lambd * (2 * off_diagonal + num_dims * (num_dims - 1))
