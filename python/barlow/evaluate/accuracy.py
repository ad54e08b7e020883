"""Here: top-k accuracy of class scores, with one fixed answer to ties.

Not here: where the scores come from (knn.py, linear.py).
"""

from __future__ import annotations

import torch
from torch import Tensor


def hits(scores_MC: Tensor, labels_M: Tensor, k: int) -> Tensor:
    """Whether each label is among the `k` highest scores of its row; bool [M].

    Equal scores are ranked by class number, lowest first, so the answer never depends on a sort.
    A label whose score is not finite is a miss: -inf is how kNN says "no vote", and a diverged
    probe must not score by accident.
    """
    own_M1 = scores_MC.gather(1, labels_M[:, None])
    classes_C = torch.arange(scores_MC.shape[1], device=scores_MC.device)
    ahead_MC = (scores_MC > own_M1) | ((scores_MC == own_M1) & (classes_C < labels_M[:, None]))
    return (ahead_MC.sum(1) < k) & own_M1[:, 0].isfinite()


def percent(hits_M: Tensor) -> float:
    """The share of hits in percent."""
    return 100.0 * hits_M.double().mean().item()


def rounded(value: float | None) -> float | None:
    """Percent as they are reported: to two digits."""
    return None if value is None else round(value, 2)
