"""Here: reading a run folder into memory, taking what is there and naming what is not.

Not here: images and networks (gallery.py), charts, HTML.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from barlow import config as configs
from barlow import durable
from barlow.config import Config
from barlow.evaluate import result
from barlow.train import listing
from barlow.train.snapshots import FOLDER as SNAPSHOTS

Json = dict[str, Any]


@dataclass
class Record:
    """What a run folder says about its run; `None` and empty lists where it says nothing."""

    folder: Path
    config: Config | None = None
    run: Json = field(default_factory=dict)
    """run.json."""
    metrics: list[Json] = field(default_factory=list)
    """metrics.jsonl, one entry per step, ascending."""
    saved_step: int = 0
    """Of the newest checkpoint; a run that logs rarely and was stopped has more steps than metrics say."""
    evaluation: Json | None = None
    """eval.json."""
    snapshots: list[tuple[int, np.ndarray]] = field(default_factory=list)
    """(step, part of the cross-correlation matrix, float32 [K, K]), ascending."""
    name: str = ""
    """What tells it from the other runs of the report; by default the folder's name."""
    missing: list[str] = field(default_factory=list)
    """What the report has to do without, in words."""

    @property
    def total_steps(self) -> int | None:
        """Optimizer steps of the whole run, or None where the data's size is not known."""
        return None if self.config is None else listing.plan(dataclasses.asdict(self.config), self.run)[0]

    @property
    def done_steps(self) -> int:
        """Steps behind the last line of metrics or the newest checkpoint, whichever is more."""
        return max(int(self.metrics[-1]["step"]) if self.metrics else 0, self.saved_step)

    def series(self, key: str, over: str = "step") -> list[tuple[float, float]]:
        """(step, value) of one metric where it was logged as a finite number, or `over` something else."""
        return [
            (float(line[over]), float(line[key]))
            for line in self.metrics
            if _is_finite(line.get(key)) and _is_finite(line.get(over))
        ]

    def last(self, key: str) -> float | None:
        """The last finite value of a metric."""
        series = self.series(key)
        return series[-1][1] if series else None


def read(folder: Path) -> Record:
    """Reads a run folder. A folder that holds neither a config nor metrics is a `ValueError`."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a run folder: there is no such folder")
    record = Record(folder, name=folder.resolve().name)
    record.config = _read(configs.load, folder / "config.json", record.missing)
    record.run = _read(durable.read_json, folder / "run.json", record.missing) or {}
    record.metrics = _metrics(folder / "metrics.jsonl", record.missing)
    record.saved_step = listing.checkpoints(folder)[1] or 0
    if record.config is None and not record.metrics:
        raise ValueError(f"{folder} is not a run folder: it has neither config.json nor metrics.jsonl")
    record.snapshots = _snapshots(folder, record.missing)
    if (folder / "eval.json").exists():
        record.evaluation = _read(result.read, folder / "eval.json", record.missing)
    else:
        record.missing.append("eval.json: the run has not been evaluated (barlow eval RUN DATA)")
    return record


def is_synthetic(record: Record) -> bool:
    """Whether the run or its data say that the images were drawn by a program.

    run.json may say so (`"synthetic": true`); a data set says so in the README beside its images.
    """
    if record.run.get("synthetic"):
        return True
    data = record.run.get("data")
    if not isinstance(data, str):
        return False
    for folder in (Path(data), Path(data).parent):
        with contextlib.suppress(OSError, ValueError):
            if "synthetic" in (folder / "README.md").read_text()[:2000].lower():
                return True
    return False


_T = TypeVar("_T")


def _read(reader: Callable[[Path], _T], path: Path, missing: list[str]) -> _T | None:
    try:
        return reader(path)
    except (OSError, ValueError) as error:
        missing.append(f"{path.name}: {_reason(path, error)}")
        return None


def _metrics(path: Path, missing: list[str]) -> list[Json]:
    """A resumed run repeats the steps after its checkpoint, and a killed one may end in half a line:
    the last word about a step counts, a line that is not JSON is counted and left out."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        missing.append(f"metrics.jsonl: {_reason(path, error)}")
        return []
    by_step: dict[int, Json] = {}
    num_broken = 0
    for line in lines:
        try:
            entry = json.loads(line)
            by_step[int(entry["step"])] = entry
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            num_broken += 1
    if num_broken:
        missing.append(f"metrics.jsonl: {num_broken} unreadable line{'s' if num_broken > 1 else ''}")
    return [by_step[step] for step in sorted(by_step)]


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _snapshots(folder: Path, missing: list[str]) -> list[tuple[int, np.ndarray]]:
    found = []
    for path in sorted((folder / SNAPSHOTS).glob("step-*.safetensors")):
        try:
            c_KK = load_file(path)["cross_correlation"]
            if c_KK.ndim != 2 or c_KK.shape[0] != c_KK.shape[1] or not np.isfinite(c_KK).all():
                raise ValueError("not a square matrix of numbers")
            found.append((int(path.stem[5:]), c_KK))
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            missing.append(f"{SNAPSHOTS}/{path.name}: {error}")
    return found


def _reason(path: Path, error: Exception) -> str:
    return "not there" if isinstance(error, FileNotFoundError) else str(error).removeprefix(f"{path}: ")
