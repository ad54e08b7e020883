"""Here: what can be said about features without any label.

Not here: kNN and the probe, computing features, the spectrum itself (objectives/spectrum.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from barlow.evaluate import knn
from barlow.objectives import spectrum

_MAX_ROWS = 8192
"""Images that the spectrum is taken of: its cost grows with the square of the feature size only."""


def effective_rank(features_NF: Tensor) -> float:
    """RankMe of the features, from 1 to min(N, F); of evenly spaced rows where there are more than 8192."""
    stride = -(-len(features_NF) // _MAX_ROWS)
    return spectrum.effective_rank(spectrum.spectrum(features_NF[::stride]))


def dead_features(features_NF: Tensor) -> int:
    """How many features are the same number for every image."""
    return int((features_NF == features_NF[:1]).all(0).sum())


def instance_retrieval(first_NF: Tensor, second_NF: Tensor) -> float:
    """Percent of images whose first view is nearest, by cosine, to their own second view among N."""
    _, nearest_N1 = knn.neighbours(second_NF, first_NF, 1)
    own_N = torch.arange(len(first_NF), device=nearest_N1.device)
    return 100.0 * (nearest_N1[:, 0] == own_N).double().mean().item()
