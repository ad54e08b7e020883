"""Here: average precision of scores: VOC07's eleven points, the area under the curve, and that of a ranking.

Not here: where scores come from (svm.py, retrieval.py, detection/).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def average_precisions(scores_M: NDArray[np.floating], positive_M: NDArray[np.bool_]) -> tuple[float, float]:
    """`of_curve` of images that are `positive_M` or not; without a positive both are NaN.

    Equal scores are one step of the curve, so no order of images matters.
    """
    num_positive = int(positive_M.sum())
    if num_positive == 0:
        return float("nan"), float("nan")
    order_M = np.argsort(-scores_M, kind="stable")
    scores_M, hits_M = scores_M[order_M], np.cumsum(positive_M[order_M])
    last_S = np.flatnonzero(np.append(scores_M[1:] != scores_M[:-1], True))  # of each group of equal scores
    hits_S = hits_M[last_S]
    return of_curve(hits_S, last_S + 1, num_positive)


def of_curve(hits_S: NDArray[Any], taken_S: NDArray[np.intp], num_positive: int) -> tuple[float, float]:
    """(11-point, area) average precision in [0, 1]: after each step `hits_S` of `taken_S` are right.

    11-point (Everingham et al., IJCV 2010, section 4.2: VOC 2007): the mean, over the recalls 0, 0.1, ..., 1,
    of the best precision at that recall or more, 0 where none reaches it. Area (VOC 2010 and after, and
    VISSL): under the curve of the best precision at each recall or more.
    """
    precision_S = hits_S / taken_S
    best_S = np.maximum.accumulate(precision_S[::-1])[::-1]
    # In whole numbers: 0.3 is not 3 / 10 in binary, and the point would be missed.
    points = [best_S[10 * hits_S >= i * num_positive] for i in range(11)]
    eleven = float(np.mean([best_P[0] if len(best_P) else 0.0 for best_P in points]))
    area = float((np.diff(hits_S, prepend=0) / num_positive * best_S).sum())
    return eleven, area


def of_rankings(relevant_BN: Tensor) -> Tensor:
    """Average precision of rankings, best first: the mean precision at each relevant place; float64 [B].

    Without interpolation, as in information retrieval; NaN for a row without any relevant place.
    """
    hits_BN = relevant_BN.long().cumsum(1)
    places_N = torch.arange(1, relevant_BN.shape[1] + 1, device=relevant_BN.device)
    return (hits_BN.double() / places_N * relevant_BN).sum(1) / relevant_BN.sum(1)
