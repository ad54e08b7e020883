"""Here: what a claim of the paper is, and whether the runs at hand bear it out: it holds, it does not, or the
spread of the seeds leaves it open.

Not here: the claims themselves (findings.py), the statistics of a few runs (spread.py).

Accuracies of another data set lie elsewhere, so "far" and "alike" are measured by what the baseline has above
chance there. Both measures agree with what the paper says in words about its own numbers (findings.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from barlow.reproduce import spread
from barlow.reproduce.spread import Interval

FAR, ALIKE = 0.10, 0.05
"""Shares of the baseline's lead over chance: "far worse" loses more than FAR, "alike" differs by less than
ALIKE."""

State = Literal["holds", "does not hold", "not decided"]
Kind = Literal["worse", "far worse", "alike", "no better", "at chance", "rises", "falls", "wins"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence about rows. What `kind` says of `rows`:

    worse, far worse, alike, no better: the first row beside the second one. at chance: the one row. rises,
    falls: from each row to the next. wins: the first row beside each of the others (by any amount).
    """

    text: str
    source: str
    kind: Kind
    rows: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """What has become of a claim, and by which numbers."""

    state: State
    why: str


@dataclass(frozen=True)
class Scores:
    """Accuracies in percent of an experiment: by row, one of each seed."""

    by_row: Mapping[str, Sequence[float]]
    baseline: str
    chance: float

    @property
    def lead(self) -> float | None:
        """Of the baseline over chance, in points; None without a run of it."""
        values = self.by_row.get(self.baseline)
        return spread.mean_and_std(values)[0] - self.chance if values else None


def judge(claim: Claim, scores: Scores) -> Verdict:
    """Decides with 95 % confidence; a claim about several pairs is refuted with that confidence in all."""
    lead = scores.lead
    few = [row for row in claim.rows if len(scores.by_row.get(row, ())) < 2]
    if few:
        return Verdict("not decided", f"two seeds or more are needed of {', '.join(few)}")
    if lead is None or lead <= 0:
        return Verdict("not decided", "the baseline is not above chance, so nothing can be compared with it")
    return _JUDGES[claim.kind](claim, scores, lead)


def _worse(claim: Claim, scores: Scores, lead: float) -> Verdict:
    return _below(_pair(scores, claim.rows[0], claim.rows[1]), 0.0, "less than 0")


def _far_worse(claim: Claim, scores: Scores, lead: float) -> Verdict:
    return _below(_pair(scores, claim.rows[0], claim.rows[1]), -FAR * lead, f"less than {-FAR * lead:+.1f}")


def _no_better(claim: Claim, scores: Scores, lead: float) -> Verdict:
    return _below(_pair(scores, claim.rows[0], claim.rows[1]), ALIKE * lead, f"less than {ALIKE * lead:+.1f}")


def _at_chance(claim: Claim, scores: Scores, lead: float) -> Verdict:
    above = spread.mean(scores.by_row[claim.rows[0]])
    assert above is not None
    return _below(above.shifted(-scores.chance), ALIKE * lead, f"less than {ALIKE * lead:+.1f} above chance")


def _below(found: Interval, limit: float, needs: str) -> Verdict:
    state: State = "not decided"
    if found.high < limit:
        state = "holds"
    elif found.low >= limit:
        state = "does not hold"
    return Verdict(state, f"{_shown(found)}, needs {needs}")


def _alike(claim: Claim, scores: Scores, lead: float) -> Verdict:
    found, limit = _pair(scores, claim.rows[0], claim.rows[1]), ALIKE * lead
    state: State = "not decided"
    if -limit < found.low and found.high < limit:
        state = "holds"
    elif found.high <= -limit or found.low >= limit:
        state = "does not hold"
    return Verdict(state, f"{_shown(found)}, needs {-limit:+.1f} to {limit:+.1f}")


def _rises(claim: Claim, scores: Scores, lead: float) -> Verdict:
    return _all_above([(b, a) for a, b in zip(claim.rows, claim.rows[1:], strict=False)], scores)


def _falls(claim: Claim, scores: Scores, lead: float) -> Verdict:
    return _all_above(list(zip(claim.rows, claim.rows[1:], strict=False)), scores)


def _wins(claim: Claim, scores: Scores, lead: float) -> Verdict:
    return _all_above([(claim.rows[0], other) for other in claim.rows[1:]], scores)


def _all_above(pairs: Sequence[tuple[str, str]], scores: Scores) -> Verdict:
    """Whether the first of every pair is above the second.

    Each pair has to show it by itself. Against it, one pair is enough, but of many pairs one is easily the
    other way round by chance: there the doubt of 5 % is shared among them (Bonferroni).
    """
    stricter = 1 - (1 - spread.CONFIDENCE) / len(pairs)
    shown: list[str] = []
    state: State = "holds"
    for upper, lower in pairs:
        found = _pair(scores, upper, lower)
        against = _pair(scores, upper, lower, stricter)
        if against.high <= 0:
            state = "does not hold"
        elif found.low <= 0 and state == "holds":
            state = "not decided"
        shown.append(f"{upper} over {lower} {_shown(found)}")
    return Verdict(state, "; ".join(shown))


def _pair(scores: Scores, row: str, other: str, confidence: float = spread.CONFIDENCE) -> Interval:
    found = spread.difference(scores.by_row[row], scores.by_row[other], confidence)
    assert found is not None, "judge() has seen to two seeds of each"
    return found


def _shown(found: Interval) -> str:
    return f"{found.middle:+.1f} ({found.low:+.1f} to {found.high:+.1f})"


_JUDGES: dict[Kind, Callable[[Claim, Scores, float], Verdict]] = {
    "worse": _worse,
    "far worse": _far_worse,
    "alike": _alike,
    "no better": _no_better,
    "at chance": _at_chance,
    "rises": _rises,
    "falls": _falls,
    "wins": _wins,
}
