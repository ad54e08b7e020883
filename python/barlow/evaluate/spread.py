"""Here: results of several seeds as one: the means, their spread, and the single values.

Not here: what is repeated.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]


def over_seeds(results: Sequence[Json], metrics: Sequence[str]) -> Json:
    """Of one seed its result as it is; of several the means, `std` (of a sample) and every single result.

    What is no metric is the first seed's. A metric that any seed lacks has no mean: it is None.
    """
    first = results[0]
    if len(results) == 1:
        return first
    mean, std = {}, {}
    for name in metrics:
        values = [result.get(name) for result in results]
        if name in first:
            known = [float(value) for value in values if value is not None]
            whole = len(known) == len(values)
            mean[name] = round(statistics.fmean(known), 2) if whole else None
            std[name] = round(statistics.stdev(known), 2) if whole else None
    return {**first, **mean, "std": std, "seeds": list(results)}
