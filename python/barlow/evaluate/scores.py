"""Here: eval.json as a list of scores, one for each metric of each protocol, for tables.

Not here: drawing the tables (tables.py, report/results.py).
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any

from barlow.evaluate.protocols import PROTOCOLS
from barlow.evaluate.spread import CI, names

Json = dict[str, Any]

ROWS = {"trained": None, "untrained": "untrained", "raw pixels": "raw_pixels"}
"""Name of a row -> its entry in eval.json; None: the file itself."""


@dataclass(frozen=True)
class Score:
    """One metric of one protocol, of all rows."""

    protocol: str
    metric: str
    result: Json
    """eval.json."""

    @property
    def place(self) -> tuple[str, str]:
        """(protocol, metric)."""
        return self.protocol, self.metric

    @property
    def words(self) -> str:
        """As "linear top-1"."""
        return " ".join(self.title)

    @property
    def title(self) -> tuple[str, str]:
        """The words of the protocol and those of the metric."""
        return PROTOCOLS[self.protocol].title, _words(self.metric)

    def of(self, key: str | None) -> tuple[float | None, float | None]:
        """Value in percent, and its spread: the deviation over seeds, or half a confidence interval.

        `key` is the entry of a baseline's row; None: the backbone itself.
        """
        row = self.result if key is None else self.result.get(key) or {}
        found = row.get(self.protocol) or {}
        if found.get("std") is not None:
            return found.get(self.metric), found["std"].get(self.metric)
        return found.get(self.metric), found.get(f"{self.metric}{CI}")

    def text(self, key: str | None) -> str:
        """`of` as text: "73.20", "73.20 ± 0.12", or "-" where there is none."""
        value, spread = self.of(key)
        return "-" if value is None else f"{value:.2f}{_around(spread)}"

    def gain(self) -> tuple[float | None, float | None]:
        """What training brought over the untrained network, and its spread.

        Of several seeds it is the deviation of their gains; of confidence intervals, which rest on one seed,
        that of a difference of independent numbers, which is no smaller for episodes that both share.
        """
        (value, spread), (before, spread_before) = self.of(None), self.of("untrained")
        if value is None or before is None:
            return None, None
        gains = [
            own[self.metric] - other[self.metric]
            for own, other in zip(self._seeds(None), self._seeds("untrained"), strict=False)
            if own.get(self.metric) is not None and other.get(self.metric) is not None
        ]
        if len(gains) > 1:
            return value - before, statistics.stdev(gains)
        if spread is None or spread_before is None:
            return value - before, None
        return value - before, math.hypot(spread, spread_before)

    def gain_text(self) -> str:
        """`gain` as text, with its sign."""
        value, spread = self.gain()
        return "-" if value is None else f"{value:+.2f}{_around(spread)}"

    def _seeds(self, key: str | None) -> list[Json]:
        row = self.result if key is None else self.result.get(key) or {}
        return (row.get(self.protocol) or {}).get("seeds") or []


def _around(spread: float | None) -> str:
    return "" if spread is None else f" ± {spread:.2f}"


def scores(result: Json) -> list[Score]:
    """Every metric that the backbone has a number for, in the table's order of protocols."""
    found = []
    for name, protocol in PROTOCOLS.items():
        measured = result.get(name)
        if isinstance(measured, dict):
            own = names(measured, protocol.metrics)
            found += [Score(name, metric, result) for metric in own if measured[metric] is not None]
    return found


def in_words(protocol: str, found: Json) -> str:
    """The metrics that a protocol has found, in percent, as "top-1 48.20, top-5 91.00"."""
    own = names(found, PROTOCOLS[protocol].metrics)
    return ", ".join(f"{_words(metric)} {found[metric]:.2f}" for metric in own if found[metric] is not None)


def chance(result: Json) -> str:
    """What the accuracies are to be held against, in a sentence; empty where that is unknown."""
    share = (result.get("data") or {}).get("majority_class_percent")
    return "" if share is None else f"Always naming the commonest class would give {share:g}."


def legend(found: list[Score]) -> str:
    """What "±" means beside these scores; empty where none has a spread."""
    with_spread = [score for score in found if score.of(None)[1] is not None]
    if not with_spread:
        return ""
    seeds = [len(score.result[score.protocol].get("seeds", ())) for score in with_spread]
    if max(seeds):
        gains = any(score.gain()[1] is not None for score in found)
        of_gains = "; the gain's is that of the gains seed by seed" if gains else ""
        return f"Mean ± standard deviation of {max(seeds)} seeds{of_gains}. What has none is not random."
    return "Mean ± half of the 95 % confidence interval, over episodes."


def rank_bound(free: Json) -> str:
    """What an effective rank in `label_free` is "of": the features, or the images where these are fewer."""
    features, images = free["num_features"], free.get("num_images")
    if isinstance(images, int) and images < features:
        return f"at most {images} ({images} images)"
    return str(features)


def _words(metric: str) -> str:
    if metric.startswith("recall_at_"):
        return f"recall@{metric.removeprefix('recall_at_')}"
    known = {"top1": "top-1", "top5": "top-5", "map": "mAP", "map_area": "mAP, area"}
    known |= {"map_11_point": "mAP, 11-point"}
    return known.get(metric) or metric.replace("_", " ")
