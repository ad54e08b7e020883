"""Here: results of several seeds as one: the means, their spread, and the single values.

Not here: what is repeated.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from barlow.evaluate.accuracy import rounded

Json = dict[str, Any]

CI = "_ci95"
"""Ends the name of half the width of a metric's 95 % confidence interval within one seed."""


def over_seeds(results: Sequence[Json], metrics: Sequence[str]) -> Json:
    """Of one seed its result; of several the means, `std` (of a sample) and every single result.

    `metrics` are names or patterns, in `results` as they were computed and here rounded, means after the sum:
    that of rounded numbers may have another last digit. What is no metric is the first seed's. A metric that
    any seed has as None has no mean: it is None.
    """
    first, told = results[0], [_rounded(result, metrics) for result in results]
    if len(results) == 1:
        return told[0]
    mean, std = {}, {}
    for name in names(first, metrics):
        values = [result[name] for result in results]
        whole = all(value is not None for value in values)
        mean[name] = rounded(statistics.fmean(values)) if whole else None
        std[name] = rounded(statistics.stdev(values)) if whole else None
    return {**first, **mean, "std": std, "seeds": told}


def _rounded(result: Json, metrics: Sequence[str]) -> Json:
    return result | {name: rounded(result[name]) for name in names(result, metrics)}


def names(result: Json, metrics: Sequence[str]) -> list[str]:
    """The entries of a result that are metrics, in the result's order; an interval is none."""
    return [name for name in result if any(fnmatchcase(name, p) for p in metrics) and not name.endswith(CI)]
