"""Here: eval.json as a list of scores, one for each metric of each protocol, for tables.

Not here: drawing the tables (tables.py, report/results.py).
"""

from __future__ import annotations

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
        return f"{PROTOCOLS[self.protocol].title} {_words(self.metric)}"

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
        if value is None:
            return "-"
        return f"{value:.2f}" if spread is None else f"{value:.2f} ± {spread:.2f}"


def scores(result: Json) -> list[Score]:
    """Every metric that the backbone has a number for, in the table's order of protocols."""
    found = []
    for name, protocol in PROTOCOLS.items():
        measured = result.get(name)
        if isinstance(measured, dict):
            own = names(measured, protocol.metrics)
            found += [Score(name, metric, result) for metric in own if measured[metric] is not None]
    return found


def legend(found: list[Score]) -> str:
    """What "±" means beside these scores; empty where none has a spread."""
    with_spread = [score for score in found if score.of(None)[1] is not None]
    if not with_spread:
        return ""
    seeds = [len(score.result[score.protocol].get("seeds", ())) for score in with_spread]
    if max(seeds):
        return f"Mean ± standard deviation of {max(seeds)} seeds; what has none is not random."
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
