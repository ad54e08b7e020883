"""Here: what can be said about features without any label.

Not here: kNN and the probe, computing features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from barlow.evaluate import knn

_MAX_ROWS = 8192
"""Images that the spectrum is taken of: its cost grows with the square of the feature size only."""


def effective_rank(features_NF: Tensor) -> float:
    """exp of the entropy of the normalised singular values; between 1 and min(N, F).

    Source: RankMe (Garrido et al., ICML 2023), equation 1, on centred features, so that a common offset
    is not counted as a direction. Evenly spaced rows where there are more than 8192.
    """
    stride = -(-len(features_NF) // _MAX_ROWS)
    centred_NF = features_NF[::stride].double()
    centred_NF = centred_NF - centred_NF.mean(0)
    # Singular values through the [F, F] or [N, N] Gram matrix, whichever is smaller.
    wide = centred_NF.shape[1] > centred_NF.shape[0]
    gram = centred_NF @ centred_NF.T if wide else centred_NF.T @ centred_NF
    singular = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    total = singular.sum()
    if total == 0:
        return 1.0
    shares = singular / total
    return torch.special.entr(shares).sum().exp().item()


def dead_features(features_NF: Tensor) -> int:
    """How many features are the same number for every image."""
    return int((features_NF == features_NF[:1]).all(0).sum())


def instance_retrieval(first_NF: Tensor, second_NF: Tensor) -> float:
    """Percent of images whose first view is nearest, by cosine, to their own second view among N."""
    _, nearest_N1 = knn.neighbours(second_NF, first_NF, 1)
    own_N = torch.arange(len(first_NF), device=nearest_N1.device)
    return 100.0 * (nearest_N1[:, 0] == own_N).double().mean().item()
