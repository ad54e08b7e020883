"""Here: what can be said about features without any label.

Not here: kNN and the probe, computing features, the spectrum itself (objectives/spectrum.py).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from barlow.data import Index, views
from barlow.evaluate import accuracy, knn
from barlow.evaluate.job import Job, Json, Row
from barlow.objectives import spectrum

_MAX_ROWS = 8192
"""Images that the spectrum is taken of: its cost grows with the square of the feature size only."""
_TWINS = 1000
"""Images of which one view is to find the other."""


def measure(job: Job, row: Row) -> Json:
    """Of the test images, or of all where nothing has a label; of pixels nothing that needs two views."""
    if isinstance(job.parts, Index):
        index = job.parts
        (view,) = views.evaluation(size=row.size, resize=row.resize)
        features_NF = job.extract(row, index, view, f"{row.name}: features")
    else:
        index, features_NF = job.parts.test, job.features(row, "test")
    told = {
        "effective_rank": round(effective_rank(features_NF), 2),
        "num_features": features_NF.shape[1],
        "dead_features": dead_features(features_NF),
        "num_images": len(features_NF),
    }
    if row.backbone is not None:
        told["instance_retrieval_top1"] = accuracy.rounded(_twins_found(job, row, index))
    return told


def _twins_found(job: Job, row: Row, index: Index) -> float:
    """`instance_retrieval` by the training views of up to 1000 evenly spaced images."""
    if len(index) > _TWINS:
        index = index.subset((np.arange(_TWINS) * len(index) // _TWINS).astype(np.uint32))
    first, second = views.training(job.config.data)
    return instance_retrieval(
        job.extract(row, index, first, f"{row.name}: first views"),
        job.extract(row, index, second, f"{row.name}: second views"),
    )


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
