"""Here: which few training images keep their labels: a published list of files, or a stratified draw.

Not here: training on them (classifier.py), which images test (partition.py).
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from barlow.data import Index
from barlow.evaluate.names import ids_of, ticket
from barlow.evaluate.partition import Partition


def listed(parts: Partition, path: Path) -> Partition:
    """The partition with the training images that a list names, one a line; the test images stay.

    A line is a member's whole name, or its last component, as in SimCLR's `imagenet_subsets/1percent.txt`
    (google-research/simclr; the paper's splits). Empty lines are passed over. `ValueError` with file and line
    for one that names no training image, several ones, or one that was named before; `OSError`.
    """
    ids = ids_of_list(parts.train, path)
    if not ids:
        raise ValueError(f"{path} names no image")
    return _of(parts, ids, f"the labels of {len(ids)} images, listed by {path}, are used")


def ids_of_list(index: Index, path: Path) -> list[int]:
    """Positions in the index of what the lines of `path` name, in their order; `ValueError` as `listed`."""
    lines = enumerate(path.read_text("utf-8", "surrogateescape").splitlines(), 1)
    return ids_of(index, [(f"{path}, line {n}", line.strip()) for n, line in lines if line.strip()])


def stratified(parts: Partition, share: float, seed: int) -> Partition:
    """The partition with `share` (0 to 1) of the training images, every class in its proportion.

    floor(share * N) images in all, as SimCLR's lists have, and at least one of each class; the test images
    stay. The draw is a function of `seed` and the images' names: neither order nor storage matters.
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of labelled images must lie in (0, 1], not {share}")
    counts_C = quotas(torch.bincount(parts.train_labels_N, minlength=len(parts.class_names)), share)
    ids: list[int] = []
    for label, count in enumerate(counts_C.tolist()):
        of_class = (parts.train_labels_N == label).nonzero()[:, 0].tolist()
        ids += sorted(of_class, key=lambda i: (ticket(parts.train, i, f"{seed} "), i))[:count]
    how = f"the labels of {len(ids)} images, {share:.4g} of each class drawn by seed {seed}, are used"
    return _of(parts, sorted(ids), how)


def quotas(counts_C: Tensor, share: float) -> Tensor:
    """How many of each class's `counts_C` images (int64) are drawn: the whole parts of the class's share, and
    one more for those with the largest fractions (of equal ones the first) until floor(share * N) are."""
    exact_C = counts_C.double() * share
    # 0.1 * 30 is 3.0000000000000004, and 0.07 * 100 is 7.000000000000001: the whole number is meant.
    floor_C = (exact_C + 1e-9).floor()
    missing = math.floor(counts_C.sum().item() * share + 1e-9) - int(floor_C.sum())
    order_C = (exact_C - floor_C).argsort(descending=True, stable=True)
    floor_C[order_C[:missing]] += 1
    return floor_C.long().clamp(min=1).minimum(counts_C)


def _of(parts: Partition, ids: list[int], how: str) -> Partition:
    train = parts.train.subset(np.array(ids, dtype=np.uint32))
    labels_N = parts.train_labels_N[torch.tensor(ids)]
    return dataclasses.replace(parts, train=train, train_labels_N=labels_N, how=f"{parts.how}; {how}")
