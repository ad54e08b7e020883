"""Here: SimCLR's loss (Chen et al., ICML 2020, arXiv 2002.05709), and what it shares with infonce.py.

Not here: memory banks, projection heads.

Every rank compares its own rows with those of all ranks: one all-gather of the embeddings forward, one sum of
their gradients backward, and never the matrix of all pairs on one rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from barlow.distributed import all_reduce, rank_in
from barlow.objectives.global_batch import Group, embeddings, full_precision
from barlow.objectives.rows import gather_rows, row_counts

Counts = Sequence[int] | None


def simclr(
    z1_ND: Tensor, z2_ND: Tensor, temperature: float = 0.1, *, group: Group = None, counts: Counts = None
) -> Tensor:
    """NT-Xent: the mean over all 2N views of -log(exp(s_ij / t) / sum_{k != i} exp(s_ik / t)), on every rank.

    s are cosines, j is the other view of i, k runs over the other 2N - 1 views of the global batch (equation
    1). `z1_ND`, `z2_ND`: this rank's embeddings, [n, D] floating point, n may differ between ranks. The
    default of 0.1 is that of google-research/simclr (run.py) for ImageNet; the paper takes 0.5 for CIFAR-10.
    That code adds the means of the two views: its loss is twice this one. Computed in float32 (float64 for
    float64); backward gives W times the gradient of the global batch at this rank's rows. `counts`: see
    `barlow_twins`. `ValueError` for a temperature that isn't positive.
    """
    return contrast(z1_ND, z2_ND, temperature, both_views=True, group=group, counts=counts)


def contrast(
    z1_ND: Tensor, z2_ND: Tensor, temperature: float, *, both_views: bool, group: Group, counts: Counts
) -> Tensor:
    """The loss of `simclr` (`both_views`) or of `infonce`; arguments, result and errors are theirs."""
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    views = embeddings(z1_ND, z2_ND)
    with full_precision(z1_ND):
        counts = row_counts(z1_ND, group=group, known=counts)
        if sum(counts) < 2:
            raise ValueError("a contrastive loss needs at least 2 samples")
        x_2ND = F.normalize(torch.stack(views), dim=2)
        # [M, 2, D] of all ranks, as one gather, to [2, M, D].
        all_2MD = gather_rows(x_2ND.transpose(0, 1).contiguous(), counts, group).transpose(0, 1)
        own_N = torch.arange(len(z1_ND), device=z1_ND.device) + sum(counts[: rank_in(group)])
        pairs = [(0, 1), (1, 0)] if both_views else [(0, 1)]
        losses = [
            _anchors(x_2ND[a], all_2MD[b], all_2MD[a] if both_views else None, own_N, temperature)
            for a, b in pairs
        ]
        total = torch.stack([loss.sum() for loss in losses]).sum()
        return all_reduce(total, group, alike=True) / (len(pairs) * sum(counts))


def _anchors(
    x_ND: Tensor, other_MD: Tensor, same_MD: Tensor | None, own_N: Tensor, temperature: float
) -> Tensor:
    """Per anchor -s / t of its positive plus log sum exp(s / t), [n]; `own_N` are the anchors' global rows.

    The sum is over the other view `other_MD` and this view `same_MD` without the anchor itself; or, without
    `same_MD`, over the other view without the positive.
    """
    similarity_NM = x_ND @ other_MD.T / temperature
    positive_N = similarity_NM.gather(1, own_N[:, None])[:, 0]
    if same_MD is None:
        contrast_NM = similarity_NM.scatter(1, own_N[:, None], -torch.inf)
    else:
        within_NM = (x_ND @ same_MD.T / temperature).scatter(1, own_N[:, None], -torch.inf)
        contrast_NM = torch.cat([similarity_NM, within_NM], 1)
    return contrast_NM.logsumexp(1) - positive_N
