"""Here: what the cells of an experiment came to so far, as one JSON object: rows, seeds, spread, verdicts.

Not here: running cells (grid.py), tables and plots of it (tables.py, plots.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from barlow.reproduce import cell, claims, findings, spread
from barlow.reproduce.experiments import Experiment, Row
from barlow.reproduce.images import Images
from barlow.reproduce.plan import Cell
from barlow.reproduce.scales import Scale

PROBES = ("linear", "knn")
"""The paper's measure first."""
Json = dict[str, Any]


def gather(
    experiment: Experiment, scale_name: str, scale: Scale, cells: Sequence[Cell], images: Images, out: Path
) -> Json:
    """Everything that tables and plots show; cells that are not done are missing from it."""
    rows = list({each.row.name: each.row for each in cells}.values())
    results = {(each.row.name, each.seed): _result(each, images, out) for each in cells}
    told = [
        _row(row, experiment.unknown, {seed: r for (name, seed), r in results.items() if name == row.name})
        for row in rows
    ]
    done = [result for result in results.values() if result is not None]
    chance = round(100 / images.num_classes, 4)
    return {
        "experiment": experiment.name,
        "title": experiment.title,
        "axis": experiment.axis,
        "scale": scale_name,
        "scale_title": scale.title,
        "notes": [*scale.notes, *experiment.notes(scale)],
        "images": images.counts,
        "cells": len(results),
        "cells_done": len(done),
        "seeds": len({seed for _, seed in results}),
        "chance": chance,
        "rows": told,
        "untrained": _baseline(results, "untrained"),
        "raw_pixels": _baseline(results, "raw_pixels"),
        "claims": _verdicts(experiment, rows, told, chance),
        "minutes": round(sum(_seconds(result) for result in done) / 60, 1),
        "torch": sorted({result["torch"] for result in done if "torch" in result}),
        "devices": sorted({result["device"] for result in done if "device" in result}),
        "deviations": next((r["protocol"]["deviations"] for r in done if "protocol" in r), []),
    }


def _result(each: Cell, images: Images, out: Path) -> Json | None:
    return cell.result(each.folder(out, images.digest))


def _seconds(result: Json) -> float:
    return result.get("train_s", 0.0) + result.get("evaluate_s", 0.0)


def _row(row: Row, unknown: str, by_seed: dict[int, Json | None]) -> Json:
    told: Json = {"name": row.name, "label": row.label, "x": row.x, "series": row.series, "paper": row.paper}
    told["unknown"] = row.unknown or unknown
    done = {seed: result for seed, result in by_seed.items() if result is not None}
    # What failed and when; the rest of the words, such as where its black box lies, is in the cell's result.
    told["failed"] = {str(seed): r["failed"].partition(";")[0] for seed, r in done.items() if "failed" in r}
    scored = {seed: r for seed, r in done.items() if "failed" not in r}
    for probe in PROBES:
        told[probe] = _summary({seed: r[probe] for seed, r in scored.items()})
    told["details"] = {
        str(seed): {key: r[key] for key in ("loss", "on_diagonal", "rank_me", "train_s", "weights_sha256")}
        for seed, r in scored.items()
    }
    return told


def _baseline(results: dict[tuple[str, int], Json | None], name: str) -> Json | None:
    """Of the untrained network or the raw pixels; one value of each seed, from the first row that has it."""
    found = {seed: r[name] for (_, seed), r in reversed(results.items()) if r is not None and name in r}
    if not found:
        return None
    seeds = sorted(found)
    return {probe: _summary({seed: found[seed][probe] for seed in seeds}) for probe in PROBES}


def _summary(by_seed: dict[int, float]) -> Json:
    if not by_seed:
        return {"seeds": {}, "mean": None, "std": None}
    mean, std = spread.mean_and_std(list(by_seed.values()))
    return {
        "seeds": {str(seed): value for seed, value in by_seed.items()},
        "mean": round(mean, 3),
        "std": None if std is None else round(std, 3),
    }


def _without(rows: Sequence[str], told: Sequence[Json]) -> str:
    """Says which runs of a claim's rows have no accuracy, because they failed."""
    failed = [(row["name"], len(row["failed"])) for row in told if row["name"] in rows and row["failed"]]
    return "".join(f"; without {count} failed run{'s' * (count > 1)} of {name}" for name, count in failed)


def _verdicts(experiment: Experiment, rows: Sequence[Row], told: Sequence[Json], chance: float) -> list[Json]:
    verdicts = []
    for claim in findings.claims(experiment, rows):
        of_probe = {}
        for probe in PROBES:
            values = {row["name"]: list(row[probe]["seeds"].values()) for row in told}
            verdict = claims.judge(claim, claims.Scores(values, rows[0].name, chance))
            of_probe[probe] = {"state": verdict.state, "why": verdict.why + _without(claim.rows, told)}
        verdicts.append({"claim": claim.text, "source": claim.source, "rows": list(claim.rows), **of_probe})
    return verdicts
