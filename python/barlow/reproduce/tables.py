"""Here: an outcome as Markdown: the table beside the paper's numbers, and which of its claims hold.

Not here: what an outcome holds (outcome.py), plots.
"""

from __future__ import annotations

from typing import Any

from barlow.reproduce.claims import ALIKE, FAR

Json = dict[str, Any]

_DECIDED = (
    "Decided with 95 % confidence (Welch's interval over the seeds). Of the baseline's lead over chance, "
    f'"far worse" is a loss of more than {FAR:.0%} and "alike" a difference of less than {ALIKE:.0%}. '
    "The claims are about ImageNet: where one does not hold here, that is about this scale first of all."
)


def markdown(outcome: Json, plot: str | None = None) -> str:
    """The whole page of an experiment; `plot` is the file of its picture, beside the page."""
    parts = [
        f"# {outcome['title']}",
        f"Scale `{outcome['scale']}`: {outcome['scale_title']}. {_how_far(outcome)}",
        *([f"![{outcome['title']}]({plot})"] if plot else []),
        results(outcome),
        "Percent of held-out images, mean ± standard deviation over the seeds, which stand behind it; the "
        "paper's is its linear probe on ImageNet.",
        _baselines(outcome),
        "## What the paper concludes",
        verdicts(outcome) or "The paper says nothing about the rows that were run.",
        _DECIDED,
        "## How it was made",
        "\n".join(f"- {note}" for note in _notes(outcome)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def results(outcome: Json) -> str:
    """A row for each setting."""
    lines = ["| | linear | kNN | linear, each seed | paper, top-1 |", "|---|---|---|---|---|"]
    for row in _in_order(outcome):
        paper = f"{row['paper']:.1f}" if row["paper"] is not None else row["unknown"]
        seeds = [f"{value:.1f}" for value in row["linear"]["seeds"].values()]
        seeds += [f"seed {seed}: {why}" for seed, why in row["failed"].items()]
        lines.append(
            f"| {row['label']} | {score(row['linear'])} | {score(row['knn'])} | {', '.join(seeds) or '-'} "
            f"| {paper} |"
        )
    return "\n".join(lines)


def _in_order(outcome: Json) -> list[Json]:
    """Points of an axis along it, curve by curve; other rows as they are."""
    if not outcome["axis"]:
        return outcome["rows"]
    curves = list(dict.fromkeys(row["series"] for row in outcome["rows"]))
    return sorted(outcome["rows"], key=lambda row: (curves.index(row["series"]), row["x"]))


def score(summary: Json) -> str:
    """A mean and its spread, as far as there are any."""
    if summary["mean"] is None:
        return "-"
    spread = f" ± {summary['std']:.1f}" if summary["std"] is not None else ""
    return f"{summary['mean']:.1f}{spread}"


def verdicts(outcome: Json) -> str:
    """A row for each claim, or nothing."""
    if not outcome["claims"]:
        return ""
    lines = ["| the paper | from | by the linear probe | by kNN | numbers of the linear probe |",
             "|---|---|---|---|---|"]  # fmt: skip
    for claim in outcome["claims"]:
        linear, knn = claim["linear"], claim["knn"]
        lines.append(
            f"| {claim['claim']} | {claim['source']} | **{linear['state']}** | {knn['state']} "
            f"| {linear['why']} |"
        )
    return "\n".join(lines)


def _how_far(outcome: Json) -> str:
    seeds = f"{outcome['seeds']} seed{'s' if outcome['seeds'] > 1 else ''} of each row"
    if outcome["cells_done"] == outcome["cells"]:
        return f"Complete: {seeds}."
    return (
        f"**{outcome['cells_done']} of {outcome['cells']} cells are done ({seeds} were asked for); "
        "the same command goes on.**"
    )


def _baselines(outcome: Json) -> str:
    lines = [
        f"- {words}: linear {score(outcome[name]['linear'])}, kNN {score(outcome[name]['knn'])}"
        for name, words in (("untrained", "the same network, untrained"), ("raw_pixels", "raw pixels"))
        if outcome[name]
    ]
    return "\n".join([*lines, f"- chance: {outcome['chance']:g}"])


def _notes(outcome: Json) -> list[str]:
    counts = outcome["images"]
    return [
        *outcome["notes"],
        f"{counts['train']:,} images to train on, {counts['bank']:,} for the probes, {counts['test']:,} to "
        "be classified",
        *outcome["deviations"],
        f"{outcome['minutes']:g} minutes in all cells together, on {', '.join(outcome['devices']) or '-'}, "
        f"torch {', '.join(outcome['torch']) or '-'}",
    ]
