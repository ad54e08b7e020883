"""Here: the cells of an experiment at a scale, and where each has its folder.

Not here: running them (grid.py), rows (experiments.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from barlow.config import Config
from barlow.config.document import flat
from barlow.reproduce.experiments import Experiment, Row
from barlow.reproduce.scales import Scale

CELLS = "cells"
_DEFAULTS = frozenset(flat(Config()))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row with one seed."""

    row: Row
    seed: int
    config: Config
    is_baseline: bool
    """Whether it is the scale's own recipe; beside that the untrained network is measured."""

    def folder(self, out: Path, images: str) -> Path:
        """Of equal cells the same one, whichever rows and experiments they are of: by config and images.

        Only what is not the default counts, so a setting that a later version adds changes no name.
        """
        settings = [pair for pair in flat(self.config) if pair not in _DEFAULTS]
        digest = hashlib.sha256(json.dumps([settings, images]).encode()).hexdigest()
        return out / CELLS / digest[:16]


def rows(experiment: Experiment, scale: Scale, only: Collection[str] = ()) -> list[Row]:
    """Those of the experiment, or the ones of these names; `ValueError` for a name that it has not.

    The first row always takes part: the others are compared with it.
    """
    found = experiment.rows(scale)
    names = [row.name for row in found]
    for name in only:
        if name not in names:
            raise ValueError(f"{experiment.name} has no row {name!r} at this scale, only {', '.join(names)}")
    return [row for row in found if not only or row.name in only or row is found[0]]


def cells(chosen: Sequence[Row], scale: Scale, seeds: int) -> list[Cell]:
    """Every row with every seed: first all rows with seed 0, so that a grid that is cut short is balanced."""
    made = []
    for seed in range(seeds):
        base = scale.make()
        base = replace(base, train=replace(base.train, seed=seed))
        for row in chosen:
            config = row.change().applied(base)
            made.append(Cell(row=row, seed=seed, config=config, is_baseline=config == base))
    return made
