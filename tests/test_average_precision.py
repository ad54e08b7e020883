"""VOC's average precision against the definition, evaluated the slow way, and on cases with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from barlow.evaluate.detection.average_precision import (
    THRESHOLDS,
    Averaging,
    Floats,
    Found,
    Truth,
    average_precision,
    matches,
    overlaps,
    voc_scores,
)


def scene(seed: int, num_images: int = 12) -> tuple[list[Truth], list[Found]]:
    """Objects, some difficult, and detections around them: shifted, doubled, of a wrong class, of nothing."""
    rng = np.random.default_rng(seed)
    truths, found = [], []
    for _ in range(num_images):
        count = rng.integers(0, 5)
        corners: Floats = rng.integers(1, 60, (count, 2)).astype(np.float64)
        boxes: Floats = np.concatenate([corners, corners + rng.integers(5, 40, (count, 2))], 1).reshape(-1, 4)
        labels = rng.integers(1, 4, count)
        truths.append(Truth(boxes, labels, rng.random(count) < 0.2))
        copies = np.repeat(np.arange(count), rng.integers(0, 3, count))
        shifted = boxes[copies] + rng.normal(0, 3, (len(copies), 4))
        wrong = rng.random(len(copies)) < 0.15
        seen = np.where(wrong, rng.integers(1, 4, len(copies)), labels[copies])
        noise = rng.uniform(1, 60, (2, 2))
        everything = np.concatenate([shifted, np.concatenate([noise, noise + 10], 1)])
        scores = rng.random(len(everything)).round(2)  # equal scores happen
        found.append(Found(everything, np.concatenate([seen, rng.integers(1, 4, 2)]), scores))
    return truths, found


def overlap_by_pixels(a: np.ndarray, b: np.ndarray) -> float:
    """Of boxes of whole numbers, by counting the pixels."""
    grids = []
    for x0, y0, x1, y1 in (a, b):
        grid = np.zeros((120, 120), dtype=bool)
        grid[int(y0) : int(y1) + 1, int(x0) : int(x1) + 1] = True
        grids.append(grid)
    return (grids[0] & grids[1]).sum() / (grids[0] | grids[1]).sum()


def test_overlaps_are_shared_pixels() -> None:
    truths, _ = scene(1)
    boxes = np.concatenate([truth.boxes for truth in truths])[:8]
    expected = [[overlap_by_pixels(a, b) for b in boxes] for a in boxes]
    np.testing.assert_allclose(overlaps(boxes, boxes), expected, rtol=1e-12)


def slow_matches(
    truths: list[Truth], found: list[Found], label: int, threshold: float
) -> tuple[list[bool], int]:
    """One list of all detections, best first, each looked up in turn: as the development kit words it."""
    every = [
        (-score, image, row)
        for image, seen in enumerate(found)
        for row, (kind, score) in enumerate(zip(seen.labels, seen.scores, strict=True))
        if kind == label
    ]
    right, taken = [], set()
    for _, image, row in sorted(every):
        box, best, owner = found[image].boxes[row], 0.0, None
        for i, (candidate, kind) in enumerate(zip(truths[image].boxes, truths[image].labels, strict=True)):
            if kind != label:
                continue
            width = min(box[2], candidate[2]) - max(box[0], candidate[0]) + 1
            height = min(box[3], candidate[3]) - max(box[1], candidate[1]) + 1
            shared = max(width, 0) * max(height, 0)
            areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (box, candidate)]
            if shared / (sum(areas) - shared) > best:
                best, owner = shared / (sum(areas) - shared), (image, i)
        if owner is None or best <= threshold:
            right.append(False)
        elif not truths[image].difficult[owner[1]]:
            right.append(owner not in taken)
            taken.add(owner)
    return right, sum(int(((t.labels == label) & ~t.difficult).sum()) for t in truths)


def slow_average(right: list[bool], could_be: int, averaging: Averaging) -> float:
    """Straight from the definition, with a loop over every cut of the list for every recall."""
    cuts = [(sum(right[:n]) / could_be, sum(right[:n]) / n) for n in range(1, len(right) + 1)]

    def best_from(recall: float) -> float:
        return max((precision for reached, precision in cuts if reached >= recall - 1e-12), default=0.0)

    if averaging == "11 points":
        return sum(best_from(tenth / 10) for tenth in range(11)) / 11
    return sum(best_from(hit / could_be) for hit in range(1, could_be + 1)) / could_be


@pytest.mark.parametrize("averaging", ["11 points", "area"])
@pytest.mark.parametrize("seed", range(4))
def test_every_class_and_threshold_is_the_definition(seed: int, averaging: Averaging) -> None:
    truths, found = scene(seed)
    values = {}
    for threshold in THRESHOLDS:
        for label in (1, 2, 3):
            right, could_be = matches(truths, found, label, threshold)
            assert (right.tolist(), could_be) == slow_matches(truths, found, label, threshold)
            values[threshold, label] = slow_average(right.tolist(), could_be, averaging)
            assert average_precision(right, could_be, averaging) == pytest.approx(values[threshold, label])
    scores = voc_scores(truths, found, 3, averaging)
    assert scores["ap"] == pytest.approx(100 * np.mean(list(values.values())))
    assert scores["ap50"] == pytest.approx(100 * np.mean([values[0.5, label] for label in (1, 2, 3)]))
    assert scores["ap75"] == pytest.approx(100 * np.mean([values[0.75, label] for label in (1, 2, 3)]))
    assert scores["ap50_by_class"] == pytest.approx([100 * values[0.5, label] for label in (1, 2, 3)])


def test_known_answers() -> None:
    boxes: Floats = np.array([[1.0, 1.0, 10.0, 10.0], [21.0, 21.0, 30.0, 30.0]])
    truth = Truth(boxes, np.array([1, 1]), np.array([False, False]))
    none = Found(np.empty((0, 4)), np.empty(0, dtype=np.int64), np.empty(0))
    both = Found(boxes, np.array([1, 1]), np.array([0.9, 0.8]))
    assert voc_scores([truth], [both], 1)["ap"] == 100
    assert voc_scores([truth], [none], 1)["ap"] == 0
    # One right of two objects, before a false one: precision 1 up to recall 0.5, which six of the points ask.
    half = Found(np.stack([boxes[0], boxes[0] + 60]), np.array([1, 1]), np.array([0.9, 0.8]))
    assert voc_scores([truth], [half], 1)["ap50"] == pytest.approx(100 * 6 / 11)
    assert voc_scores([truth], [half], 1, "area")["ap50"] == pytest.approx(50)
    # The same object twice is right once; of a difficult one neither counts.
    twice = Found(np.stack([boxes[0], boxes[0]]), np.array([1, 1]), np.array([0.9, 0.8]))
    assert matches([truth], [twice], 1, 0.5)[0].tolist() == [True, False]
    difficult = Truth(boxes, np.array([1, 1]), np.array([True, False]))
    assert matches([difficult], [twice], 1, 0.5) == (pytest.approx(np.array([], dtype=bool)), 1)
    # A class without objects is in no mean.
    assert voc_scores([truth], [both], 2)["ap50_by_class"] == [100, None]
    with pytest.raises(ValueError, match="no class has an object"):
        voc_scores([Truth(boxes[:0], np.empty(0, dtype=np.int64), np.empty(0, dtype=bool))], [none], 2)


def test_three_tenths_are_reached_by_three_of_ten() -> None:
    right = np.array([True, False, True, False, True] + [False] * 5)
    expected = (4 * 0.0 + 1 + 1 + 2 / 3 + 3 / 5) / 11  # recalls 0 and 0.1, 0.2, 0.3; none above
    assert average_precision(right, 10, "11 points") == pytest.approx(expected)
