"""Here: what a few runs with different seeds say about a mean, and about the difference of two means.

Not here: claims about experiments (claims.py). Runs with one setting are taken for independent draws from a
normal distribution, whose variance differs from setting to setting (Welch 1947).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev, variance

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """Where a quantity lies with the confidence that was asked for."""

    middle: float
    low: float
    high: float

    def shifted(self, by: float) -> Interval:
        """Of the quantity plus `by`."""
        return Interval(self.middle + by, self.low + by, self.high + by)


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Of a sample; the deviation (n - 1) is None where there is a single value."""
    return fmean(values), stdev(values) if len(values) > 1 else None


def mean(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """Of what the values are drawn from; None for fewer than two values, which show no spread."""
    if len(values) < 2:
        return None
    half = _t(len(values) - 1, confidence) * math.sqrt(variance(values) / len(values))
    return Interval(fmean(values), fmean(values) - half, fmean(values) + half)


def difference(
    ours: Sequence[float], others: Sequence[float], confidence: float = CONFIDENCE
) -> Interval | None:
    """Of the two means (Welch's interval); None if either sample has fewer than two values."""
    if min(len(ours), len(others)) < 2:
        return None
    parts = [variance(sample) / len(sample) for sample in (ours, others)]
    middle, total = fmean(ours) - fmean(others), sum(parts)
    if total == 0:
        return Interval(middle, middle, middle)
    sizes = (len(ours), len(others))
    freedom = total**2 / sum(part**2 / (n - 1) for part, n in zip(parts, sizes, strict=True))
    half = _t(freedom, confidence) * math.sqrt(total)
    return Interval(middle, middle - half, middle + half)


def _t(freedom: float, confidence: float) -> float:
    """The quantile of Student's t between whose two signs lies `confidence` of the probability."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (angle, high) if 2 * _mass(freedom, angle) < confidence else (low, angle)
    return math.sqrt(freedom) * math.tan(low)


def _mass(freedom: float, angle: float) -> float:
    """Probability of 0 < t < sqrt(freedom) tan(angle), by Simpson's rule in the angle, where it is smooth."""
    steps = 200
    weights = [1, *(4 if i % 2 else 2 for i in range(1, steps)), 1]
    values = (math.cos(angle * i / steps) ** (freedom - 1) for i in range(steps + 1))
    area = sum(w * v for w, v in zip(weights, values, strict=True)) * angle / steps / 3
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    return scale * area
