"""Here: what the paper concludes from each experiment, as claims about the experiment's rows.

Not here: deciding them (claims.py), the rows (experiments.py). The words are ours, the conclusions the
paper's; where it has only a plot, a claim says what can be read off it without inventing a number.
"""

from __future__ import annotations

from collections.abc import Sequence

from barlow.reproduce.claims import Claim, Kind
from barlow.reproduce.experiments import BASELINE, Experiment, Row


def claims(experiment: Experiment, rows: Sequence[Row]) -> list[Claim]:
    """Those of the paper about these rows; what they would need other rows for is left out."""
    names = {row.name for row in rows}
    found = _CLAIMS.get(experiment.name, [])
    if experiment.name in _OF_AXIS:
        found = _OF_AXIS[experiment.name](rows)
    return [claim for claim in found if names.issuperset(claim.rows) and len(claim.rows) > 0]


def _against_baseline(source: str, *told: tuple[str, Kind, str]) -> list[Claim]:
    return [
        Claim(text=text, source=source, kind=kind, rows=(row,) if kind == "at chance" else (row, BASELINE))
        for row, kind, text in told
    ]


_BESIDE: tuple[tuple[str, str, Kind, str, str], ...] = (
    ("byol", "BYOL", "alike", "as good as", "table 1"),
    ("simsiam", "SimSiam", "alike", "as good as", "table 1"),
    ("simclr", "SimCLR", "wins", "better than", "table 1"),
    ("w-mse", "W-MSE", "wins", "better than", "section 5"),
)

_CLAIMS: dict[str, list[Claim]] = {
    "table-5": _against_baseline(
        "table 5",
        ("only-redundancy-reduction", "at chance", "redundancy reduction alone is at chance"),
        ("only-invariance", "far worse", "invariance alone is far worse"),
        ("feature-normalization", "alike", "normalizing along the features costs little"),
        ("no-projector-norm", "alike", "batch norm in the projector does not matter much"),
        ("cross-covariance", "far worse", "without any normalization it is far worse"),
        ("cross-entropy", "far worse", "cross-entropy with temperature is far worse"),
    ),
    "table-6": _against_baseline(
        "table 6",
        ("stop-gradient", "no better", "a stop-gradient does not help"),
        ("predictor", "no better", "a predictor does not help"),
        ("stop-gradient", "alike", "a stop-gradient alone changes little"),
        ("predictor", "alike", "a predictor alone changes little"),
        ("stop-gradient-predictor", "far worse", "both together are far worse"),
    ),
    "figure-3": [
        *_against_baseline(
            "figure 3",
            ("crop-only", "far worse", "with crops alone it is far worse: it depends on augmentations"),
        ),
        Claim(
            text="every augmentation that is taken away costs something",
            source="figure 3",
            kind="falls",
            rows=(BASELINE, "no-grayscale", "no-color-jitter", "crop-only"),
        ),
    ],
    "methods": [
        Claim(text=f"it is {words} {name}", source=source, kind=kind, rows=(BASELINE, row))
        for row, name, kind, words, source in _BESIDE
    ],
}


def _batches(rows: Sequence[Row]) -> list[Claim]:
    """Figure 2: best in the middle, and batches an eighth of the usual one lose a point."""
    ascending = sorted(rows, key=lambda row: row.x or 0)
    middle = ascending[len(ascending) // 2]
    small = ascending[max(0, ascending.index(rows[0]) - 3)] if rows[0] in ascending else ascending[0]
    return [
        Claim(
            text=f"it does not need large batches: {small.label} is as good as {rows[0].label}",
            source="figure 2",
            kind="alike",
            rows=(small.name, rows[0].name),
        ),
        Claim(
            text=f"the largest batch is not the best: {ascending[-1].label} is worse than {middle.label}",
            source="figure 2",
            kind="worse",
            rows=(ascending[-1].name, middle.name),
        ),
    ]


def _sizes(rows: Sequence[Row]) -> list[Claim]:
    """Figure 4 and the sentences on depth in section 4."""
    widths = sorted((row for row in rows if row.series == "width"), key=lambda row: row.x or 0)
    depths = sorted((row for row in rows if row.series == "depth"), key=lambda row: row.x or 0)
    found = []
    if len(widths) > 1:
        found = [
            Claim(
                text="accuracy rises with the width, over all widths",
                source="figure 4",
                kind="rises",
                rows=tuple(row.name for row in widths),
            ),
            Claim(
                text=f"a narrow projector is far worse: {widths[0].label} beside {widths[-1].label}",
                source="figure 4",
                kind="far worse",
                rows=(widths[0].name, widths[-1].name),
            ),
        ]
    if [row.x for row in depths] == [1, 2, 3, 4]:
        names = tuple(row.name for row in depths)
        found += [
            Claim(
                text="more layers are better, up to three", source="section 4", kind="rises", rows=names[:3]
            ),
            Claim(text="a fourth layer changes little", source="section 4", kind="alike", rows=names[:1:-1]),
        ]
    return found


def _lambdas(rows: Sequence[Row]) -> list[Claim]:
    return [
        Claim(
            text=f"lambda hardly matters: {row.label} is as good as {rows[0].label}",
            source="figure 5",
            kind="alike",
            rows=(row.name, rows[0].name),
        )
        for row in sorted(rows[1:], key=lambda row: row.x or 0)
    ]


_OF_AXIS = {"figure-2": _batches, "figure-4": _sizes, "figure-5": _lambdas}
