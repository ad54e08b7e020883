"""`barlow reproduce` on paper: rows at every scale, plans, statistics, verdicts, tables and plots."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from barlow import durable
from barlow.ablations import ABLATIONS
from barlow.config import imagenet
from barlow.data import open_index
from barlow.reproduce import (
    EXPERIMENTS,
    SCALES,
    cell,
    claims,
    findings,
    images,
    outcome,
    plan,
    plots,
    spread,
    tables,
)
from barlow.reproduce.claims import Claim, Kind, Scores
from barlow.reproduce.scales import Scale
from barlow.validation import validate
from commands import barlow_here, make_images

PAIRS = [(name, scale) for name in EXPERIMENTS for scale in SCALES]


@pytest.mark.parametrize(("experiment", "scale_name"), PAIRS)
def test_every_row_can_run_at_every_scale(experiment: str, scale_name: str) -> None:
    scale = SCALES[scale_name]
    rows = plan.rows(EXPERIMENTS[experiment], scale)
    assert len({row.name for row in rows}) == len(rows) >= 4
    made = plan.cells(rows, scale, 2)
    for each in made:
        validate(each.config, num_samples=scale.train_images or 50_000, world_size=1)
    # The first row is the scale's own recipe; no two others are the same runs, but for the depth of figure 4.
    same = [each.row.name for each in made if each.is_baseline and each.seed == 0]
    assert same[0] == rows[0].name
    assert same[1:] == (["depth-3"] if experiment == "figure-4" else [])
    configs = {str(each.config) for each in made}
    assert len(configs) == len(made) - (2 if experiment == "figure-4" else 0)


def test_at_the_papers_scale_rows_are_the_papers() -> None:
    scale = SCALES["paper"]
    recipe = dataclasses.replace(imagenet(), optim=dataclasses.replace(imagenet().optim, epochs=300))
    assert scale.make() == recipe
    for experiment in ("table-5", "table-6", "figure-2", "figure-3", "figure-4", "figure-5"):
        for row in EXPERIMENTS[experiment].rows(scale):
            known = ABLATIONS[row.name]
            assert row.change().applied(recipe) == known.applied(recipe), row.name
            assert (f"{row.paper}" if row.paper else "-") == known.result, row.name


def test_batches_of_a_smaller_scale_have_the_authors_ratios() -> None:
    scale = SCALES["cifar10"]
    rates = {row.x: row.change().applied(scale.make()).optim for row in EXPERIMENTS["figure-2"].rows(scale)}
    # 1024 stands for 2048, so the recipe's 256 for 512, whose rate of 0.3 the authors halve to 0.7 at 128.
    assert rates[256].lr_weights == 0.3
    assert rates[1024].lr_weights == pytest.approx(0.3 * 0.2 / 0.3)
    assert rates[64].lr_weights == pytest.approx(0.3 * 0.7 / 0.3)
    assert rates[64].lr_biases / rates[256].lr_biases == pytest.approx(0.7 / 0.3)


def test_an_incomplete_grid_is_balanced_and_equal_cells_are_one(tmp_path: Path) -> None:
    scale = SCALES["cifar10-minute"]
    made = plan.cells(plan.rows(EXPERIMENTS["figure-4"], scale), scale, 3)
    assert [each.seed for each in made] == [0] * 9 + [1] * 9 + [2] * 9
    folders = {(each.row.name, each.seed): each.folder(tmp_path, "x") for each in made}
    assert folders["depth-3", 1] == folders["width-512", 1]
    assert len(set(folders.values())) == 24
    table = plan.cells(plan.rows(EXPERIMENTS["table-5"], scale), scale, 1)
    assert table[0].folder(tmp_path, "x") == folders["width-512", 0]
    assert table[0].folder(tmp_path, "other images") != folders["width-512", 0]


def test_deviations_are_told_though_the_first_cell_has_failed(tmp_path: Path) -> None:
    scale, experiment = SCALES["cifar10-minute"], EXPERIMENTS["table-5"]
    made = plan.cells(plan.rows(experiment, scale), scale, 1)
    shown = images.Images(tmp_path, tmp_path, tmp_path, {}, 10, "x")
    numbers = dict.fromkeys(("loss", "on_diagonal", "rank_me", "train_s", "knn", "linear"), 50.0)
    good = {**numbers, "weights_sha256": "", "protocol": {"deviations": ["kNN: neighbours 5 instead of 20"]}}
    for each, found in zip(made, ({"failed": "loss is not finite"}, good), strict=False):
        durable.write_file(each.folder(tmp_path, "x") / cell.RESULT, json.dumps(found))
    told = outcome.gather(experiment, "cifar10-minute", scale, made, shown, tmp_path)
    assert told["cells_done"] == 2
    assert told["deviations"] == ["kNN: neighbours 5 instead of 20"]


def test_only_names_rows_and_the_first_one_stays() -> None:
    experiment, scale = EXPERIMENTS["table-5"], SCALES["paper"]
    assert [row.name for row in plan.rows(experiment, scale, ["cross-entropy"])] == [
        "baseline",
        "cross-entropy",
    ]
    with pytest.raises(ValueError, match="no row 'nonsense' at this scale, only baseline"):
        plan.rows(experiment, scale, ["nonsense"])


def test_fewer_images_are_an_even_part_of_more(tmp_path: Path) -> None:
    index = open_index(make_images(tmp_path / "data"))
    few, more = images.spread(index, 10), images.spread(index, 20)
    assert np.bincount(few.labels).tolist() == [5, 5]
    names = [{part.name(i) for i in range(len(part))} for part in (few, more, images.spread(index, 0))]
    assert names[0] < names[1] < names[2]
    assert len(names[2]) == len(index) == 48


# Student's t between whose signs lies 95 %: any printed table has these.
@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.706), (2, 4.303), (4, 2.776), (30, 2.042), (1000, 1.962)]
)
def test_quantiles_are_those_of_printed_tables(freedom: int, quantile: float) -> None:
    assert spread._t(freedom, 0.95) == pytest.approx(quantile, abs=6e-4)


def test_intervals_are_those_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for sizes in ((2, 2), (3, 5), (8, 4)):
        a, b = (rng.normal(50, scale, n).tolist() for scale, n in zip((1, 4), sizes, strict=True))
        ours, theirs = (
            spread.difference(a, b),
            stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95),
        )
        assert ours is not None
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-6)
    assert spread.difference([1.0], [1.0, 2.0]) is None


def judged(kind: Kind, **rows: list[float]) -> str:
    """The verdict on rows beside a baseline of 50 where chance is 10: 4 points are far, 2 alike."""
    by_row = {"base": [49.9, 50.0, 50.1], **rows}
    names = tuple(rows) if kind in ("at chance", "rises", "falls") else (*rows, "base")
    claim = Claim(text="", source="", kind=kind, rows=names)
    return claims.judge(claim, Scores(by_row, "base", 10.0)).state


CASES: list[tuple[Kind, str, list[list[float]]]] = [
    ("worse", "holds", [[49.0, 49.1, 48.9]]),
    ("worse", "does not hold", [[51.0, 51.1, 50.9]]),
    ("worse", "not decided", [[47.0, 51.0, 50.0]]),
    ("worse", "not decided", [[40.0]]),  # one seed shows no spread
    ("far worse", "holds", [[45.0, 45.1, 44.9]]),
    ("far worse", "does not hold", [[47.0, 47.1, 46.9]]),  # worse, but not far
    ("far worse", "not decided", [[44.0, 47.0, 46.0]]),
    ("alike", "holds", [[49.0, 49.1, 48.9]]),
    ("alike", "does not hold", [[47.0, 47.1, 46.9]]),
    ("alike", "does not hold", [[53.0, 53.1, 52.9]]),
    ("alike", "not decided", [[48.0, 51.0, 50.0]]),
    ("no better", "holds", [[40.0, 40.1, 39.9]]),
    ("no better", "does not hold", [[53.0, 53.1, 52.9]]),
    ("at chance", "holds", [[10.3, 9.9, 10.2]]),
    ("at chance", "does not hold", [[13.0, 13.1, 12.9]]),
    ("at chance", "not decided", [[10.0, 14.0, 11.0]]),
    ("rises", "holds", [[20.0, 20.1, 19.9], [21.0, 21.1, 20.9], [30.0, 30.1, 29.9]]),
    ("rises", "does not hold", [[20.0, 20.1, 19.9], [30.0, 30.1, 29.9], [21.0, 21.1, 20.9]]),
    ("rises", "not decided", [[20.0, 20.1, 19.9], [30.0, 30.1, 29.9], [30.0, 30.2, 29.9]]),
    ("falls", "holds", [[30.0, 30.1, 29.9], [21.0, 21.1, 20.9]]),
    ("falls", "does not hold", [[20.0, 20.1, 19.9], [21.0, 21.1, 20.9]]),
    ("wins", "holds", [[55.0, 55.1, 54.9]]),
    ("wins", "does not hold", [[45.0, 45.1, 44.9]]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "state", "rows"), CASES)
def test_a_verdict_takes_the_spread_into_account(kind: Kind, state: str, rows: list[list[float]]) -> None:
    assert judged(kind, **{f"row{i}": values for i, values in enumerate(rows)}) == state


def test_of_many_steps_one_that_falls_by_chance_refutes_nothing() -> None:
    rise = {f"w{i}": [20.0 + i, 20.1 + i, 19.9 + i] for i in range(6)}
    # Alone, this step down refutes that it rises; beside five others it takes more to.
    assert judged("falls", w5=rise["w5"], w6=[24.7, 24.8, 24.6]) == "holds"
    assert judged("rises", w5=rise["w5"], w6=[24.7, 24.8, 24.6]) == "does not hold"
    assert judged("rises", **{**rise, "w6": [24.7, 24.8, 24.6]}) == "not decided"
    assert judged("rises", **{**rise, "w6": [24.0, 24.1, 23.9]}) == "does not hold"


def test_nothing_is_said_where_the_baseline_has_learnt_nothing() -> None:
    claim = Claim(text="", source="", kind="far worse", rows=("a", "base"))
    verdict = claims.judge(claim, Scores({"a": [5.0, 5.1], "base": [10.0, 9.8]}, "base", 10.0))
    assert verdict.state == "not decided"


@pytest.mark.parametrize("experiment", ["table-5", "table-6", "figure-2", "methods"])
def test_the_papers_claims_hold_for_the_papers_own_numbers(experiment: str) -> None:
    """With seeds a tenth of a point apart: so "far" and "alike" are measured as its words mean them."""
    rows = EXPERIMENTS[experiment].rows(SCALES["paper"])
    values = {
        row.name: [row.paper - 0.1, row.paper, row.paper + 0.1] for row in rows if row.paper is not None
    }
    told = findings.claims(EXPERIMENTS[experiment], rows)
    assert len(told) >= 2
    for claim in told:
        assert claims.judge(claim, Scores(values, rows[0].name, 0.1)).state == "holds", claim.text


def made_up(experiment: str, scale: Scale = SCALES["cifar10-minute"]) -> dict[str, Any]:
    """An outcome as outcome.gather makes it, with numbers that are easy to find again."""

    def summary(value: float) -> dict[str, Any]:
        seeds = {"0": value - 1, "1": value, "2": value + 1}
        return {"seeds": seeds, "mean": value, "std": 1.0}

    rows = [
        {
            "name": row.name, "label": row.label, "x": row.x, "series": row.series, "paper": row.paper,
            "unknown": "only in the plot", "failed": {}, "linear": summary(40.0 + i),
            "knn": summary(30.0 + i),
        }
        for i, row in enumerate(EXPERIMENTS[experiment].rows(scale))
    ]  # fmt: skip
    return {
        "experiment": experiment, "title": EXPERIMENTS[experiment].title,
        "axis": EXPERIMENTS[experiment].axis, "scale": "made-up", "scale_title": "Made up",
        "notes": ["a note"],
        "cells": 27, "cells_done": 26, "seeds": 3,
        "images": {"train": 1000, "bank": 20, "test": 10}, "chance": 10.0, "rows": rows,
        "untrained": {"linear": summary(25.0), "knn": summary(20.0)}, "raw_pixels": None, "minutes": 3.5,
        "claims": [{"claim": "it rises", "source": "figure 4", "rows": [],
                    "linear": {"state": "holds", "why": "+1.0"}, "knn": {"state": "not decided", "why": ""}}],
        "torch": ["2.9"], "devices": ["cpu"], "deviations": [],
    }  # fmt: skip


def test_a_table_has_our_numbers_beside_the_papers() -> None:
    text = tables.markdown(made_up("table-5"), "table-5.svg")
    assert "| baseline | 40.0 ± 1.0 | 30.0 ± 1.0 | 39.0, 40.0, 41.0 | 71.4 |" in text
    assert "| only invariance (diagonal) | 41.0 ± 1.0 | 31.0 ± 1.0 | 40.0, 41.0, 42.0 | 57.3 |" in text
    assert "26 of 27 cells are done" in text
    assert "| it rises | figure 4 | **holds** | not decided | +1.0 |" in text
    assert "![Loss ablations (table 5)](table-5.svg)" in text


def test_where_the_paper_has_no_number_none_is_shown() -> None:
    text = tables.results(made_up("figure-4"))
    order = [line.split(" | ")[0] for line in text.splitlines()[2:]]
    assert order[:5] == [f"| width {size}" for size in (16, 64, 256, 512, 1024)]
    assert order[5:] == ["| 1 layer of 512", *(f"| {depth} layers of 512" for depth in (2, 3, 4))]
    assert "| width 512 | 40.0 ± 1.0 | 30.0 ± 1.0 | 39.0, 40.0, 41.0 | only in the plot |" in text
    outcome = made_up("figure-4")
    outcome["rows"][0] |= {"linear": {"seeds": {}, "mean": None, "std": None}, "failed": {"1": "not finite"}}
    assert "| width 512 | - | 30.0 ± 1.0 | seed 1: not finite | only in the plot |" in tables.results(outcome)


@pytest.mark.parametrize("experiment", list(EXPERIMENTS))
def test_a_plot_draws_the_numbers_of_the_json(experiment: str) -> None:
    outcome = made_up(experiment)
    root = ElementTree.fromstring(plots.svg(outcome))
    marks = {title.text: parent for parent in root.iter() for title in parent if title.tag.endswith("title")}
    across = not outcome["axis"]
    # Where percents lie is read off the labelled ticks, as a person would.
    ticks = {
        float(text.text or ""): float(text.get("x" if across else "y", "")) - (0 if across else 4)
        for text in root.iter("{http://www.w3.org/2000/svg}text")
        if text.get("font-size") == "11" and text.get("text-anchor") == ("middle" if across else "end")
        and re.fullmatch(r"[\d.]+", text.text or "")
    }  # fmt: skip
    (low, at_low), (high, at_high) = min(ticks.items()), max(ticks.items())
    for row in outcome["rows"]:
        place = at_low + (row["linear"]["mean"] - low) / (high - low) * (at_high - at_low)
        circle = marks[f"{row['label']}, linear probe: {row['linear']['mean']:.2f} ± 1.00 (3 seeds)"]
        assert float(circle.get("cx" if across else "cy", "")) == pytest.approx(place, abs=0.2)
        square = marks[f"{row['label']}, kNN: {row['knn']['mean']:.2f} ± 1.00 (3 seeds)"]
        place = at_low + (row["knn"]["mean"] - low) / (high - low) * (at_high - at_low)
        assert float(square.get("x" if across else "y", "")) + 4 == pytest.approx(place, abs=0.2)
        assert (row["paper"] is not None) == any(
            (title or "").startswith(f"{row['label']}, paper: ") for title in marks
        )


@pytest.mark.parametrize("experiment", ["table-5", "figure-4"])
def test_a_plot_of_nothing_yet_is_still_one(experiment: str) -> None:
    outcome: dict[str, Any] = {**made_up(experiment), "untrained": None}
    for row in outcome["rows"]:
        row |= {probe: {"seeds": {}, "mean": None, "std": None} for probe in ("linear", "knn")}
    ElementTree.fromstring(plots.svg(outcome))


def test_the_command_says_what_there_is(capfd: pytest.CaptureFixture[str]) -> None:
    listed = barlow_here(capfd, "reproduce", "--list").out
    for name in (*EXPERIMENTS, *SCALES):
        assert f"  {name} " in listed
    titles = [line for line in listed.splitlines() if line.startswith("  ")]
    # One column: two blanks at least before every title, which all begin at the same place.
    (place,) = {re.match(r"  \S+ {2,}", line).end() for line in titles}  # pyright: ignore[reportOptionalMemberAccess]
    assert all(line[place] != " " for line in titles)
    dry = barlow_here(capfd, "reproduce", "table-6", "--scale", "cifar10", "--dry-run", "--only", "predictor")
    assert "--objective.predictor 2048" in dry.out
    assert "2 rows x 3 seeds, 6 runs of 100 epochs over all images" in dry.out
    assert "stop-gradient" not in dry.out
    for words, error in (
        (("table-9", "--dry-run", "--scale", "paper"), "there is no experiment 'table-9', only table-5"),
        (("table-5", "--dry-run", "--scale", "tiny"), "there is no scale 'tiny', only paper"),
        (("table-5",), "EXPERIMENT and DATA are needed"),
        (("table-5", "x"), "--scale is needed, one of paper, cifar10"),
        (("table-5", "x", "--jobs", "0"), "--jobs must lie between 1 and"),
        (("table-5", "x", "--minutes", "nan"), "--minutes must be 0 or more"),
    ):
        result = barlow_here(capfd, "reproduce", *words)
        assert result.code == 2
        assert error in result.err
