"""Here: VOC's average precision of detections: which ones count, precision and recall, both ways to average.

Not here: finding objects, reading annotations.

Source: the PASCAL VOC development kit (Everingham et al., IJCV 2010, section 4.2; VOC 2007 takes 11 points,
later years the area). The averages over thresholds are COCO's idea, and what the paper's table 4 reports for
VOC (detectron2, evaluation/pascal_voc_evaluation.py): AP over 0.5, 0.55, ..., 0.95, AP50, AP75.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from barlow.evaluate.precision_recall import of_curve

Averaging = Literal["11 points", "area"]
THRESHOLDS = tuple(i / 100 for i in range(50, 100, 5))
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """What is to be found in one image."""

    boxes: Floats
    """[N, 4]: x0, y0, x1, y1, the first and the last pixel of the object."""
    labels: NDArray[np.int64]
    """[N], from 1."""
    difficult: NDArray[np.bool_]
    """[N]: neither has to be found nor counts when it is."""


@dataclass(frozen=True)
class Found:
    """What was found in one image; rows as in `Truth`, in any order."""

    boxes: Floats
    labels: NDArray[np.int64]
    scores: Floats


def voc_scores(
    truths: Sequence[Truth], found: Sequence[Found], num_classes: int, averaging: Averaging = "11 points"
) -> dict[str, float | list[float | None]]:
    """`ap` (mean over the ten thresholds), `ap50` and `ap75` in percent, means over classes 1 to C.

    `ap50_by_class` has None for a class without an object to be found, which no mean counts; `ValueError` if
    that is every class.
    """
    by_threshold = []
    for threshold in THRESHOLDS:
        values = [
            average_precision(*matches(truths, found, label, threshold), averaging)
            for label in range(1, num_classes + 1)
        ]
        by_threshold.append(values)
    means = [_mean(values) for values in by_threshold]
    return {
        "ap": float(np.mean(means)),
        "ap50": means[THRESHOLDS.index(0.5)],
        "ap75": means[THRESHOLDS.index(0.75)],
        "ap50_by_class": [None if v is None else 100 * v for v in by_threshold[THRESHOLDS.index(0.5)]],
    }


def _mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    if not known:
        raise ValueError("no class has an object to be found")
    return 100 * float(np.mean(known))


def matches(
    truths: Sequence[Truth], found: Sequence[Found], label: int, threshold: float
) -> tuple[NDArray[np.bool_], int]:
    """Of the counted detections of a class, best score first, whether each is right; and how many could be.

    A detection belongs to the object of its class and image that it overlaps most. It is right if that is by
    more than `threshold` and no better one has found the object; one of a difficult object is not counted.
    Equal scores keep the order of images and rows.
    """
    scores, right, counted = [np.empty(0)], [], []
    for truth, seen in zip(truths, found, strict=True):
        mine = np.flatnonzero(seen.labels == label)
        mine = mine[np.argsort(-seen.scores[mine], kind="stable")]
        of_class = truth.labels == label
        hit, count = _within_image(
            truth.boxes[of_class], truth.difficult[of_class], seen.boxes[mine], threshold
        )
        scores.append(seen.scores[mine])
        right += hit
        counted += count
    order = np.argsort(-np.concatenate(scores), kind="stable")
    keep = order[np.array(counted, dtype=bool)[order]]
    could_be = sum(int(((t.labels == label) & ~t.difficult).sum()) for t in truths)
    return np.array(right, dtype=bool)[keep], could_be


def _within_image(
    boxes: Floats, difficult: NDArray[np.bool_], detections: Floats, threshold: float
) -> tuple[list[bool], list[bool]]:
    """(right, counted) of each detection of one image and class, best first."""
    taken: set[int] = set()
    right, counted = [], []
    overlap = overlaps(detections, boxes)
    for row in overlap:
        best = int(row.argmax()) if len(row) else -1
        belongs = best >= 0 and row[best] > threshold
        counted.append(not (belongs and difficult[best]))
        right.append(belongs and not difficult[best] and best not in taken)
        if right[-1]:
            taken.add(best)
    return right, counted


def overlaps(a: Floats, b: Floats) -> Floats:
    """Intersection over union [len(a), len(b)] of boxes whose last pixels are inside, as VOC counts them."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = (high - low + 1).clip(min=0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2] + 1).prod(1) for boxes in (a, b)]
    return inside / (areas[0][:, None] + areas[1][None, :] - inside)


def average_precision(right: NDArray[np.bool_], could_be: int, averaging: Averaging) -> float | None:
    """The average of precision over recall, 0 to 1, of detections by falling score; None if `could_be` is 0.

    As `precision_recall.of_curve` has it. detectron2 compares recalls with multiples of 0.1 in floating
    point, where 3 * 0.1 is above 0.3, so that three of ten do not reach it: where objects are few, its 11
    points can be lower by a few hundredths.
    """
    if could_be == 0:
        return None
    eleven, area = of_curve(np.cumsum(right), np.arange(1, len(right) + 1), could_be)
    return eleven if averaging == "11 points" else area
