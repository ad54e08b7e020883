"""Here: what run folders say about their runs, at a glance: state, progress, health, best kNN.

Not here: tables of it (commands/listing.py), whole curves (report/). Imports no torch and reads no weights: a
folder of a hundred runs must answer at once. So checkpoints are judged by the names and sizes in their
manifests; `barlow train` and `barlow report` check every byte.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from barlow import durable
from barlow.train.lock import FILE_NAME as LOCK_FILE
from barlow.train.lock import is_held
from barlow.train.status import FILE_NAME as STATUS_FILE

Json = dict[str, Any]
State = Literal["running", "stopped", "finished", "failed", "damaged", "empty"]
CONFIG, RUN, METRICS, CHECKPOINTS, EVALUATION = (
    "config.json",
    "run.json",
    "metrics.jsonl",
    "checkpoints",
    "eval.json",
)
HEALTH = (
    "loss",
    "loss_floor",
    "on_diagonal",
    "off_diagonal_rms",
    "rankme",
    "alpha",
    "images_per_s",
    "wait_share",
)
"""What is shown of the last line of metrics, where it is there."""
_DEPTH = 2
_TAIL_BYTES = 1 << 16
_SILENT_S = 1800.0
"""After so long without a sign a run of another host, whose lock may not reach here, counts as dead."""


@dataclass(frozen=True)
class Run:
    """One run folder. Numbers that it does not give are None."""

    name: str
    """Its path from the folder that was asked about."""
    state: State
    why: str = ""
    """Of a stopped run the signal, of a failed or damaged one what is wrong."""
    step: int = 0
    """Optimizer steps in its metrics or its newest checkpoint, whichever is more."""
    steps: int | None = None
    """Where it is to end."""
    epochs: float | None = None
    """Passes over the data so far."""
    health: dict[str, float] = field(default_factory=dict)
    """`HEALTH` of its last line of metrics."""
    alarms: tuple[str, ...] = ()
    """Of its last line of metrics."""
    best_knn: float | None = None
    """Best kNN top-1 in percent, of the online ones and of eval.json."""
    started_s: float | None = None
    """Seconds since 1970."""
    seen_s: float | None = None
    """Last sign of life, seconds since 1970."""


def runs(folder: Path) -> list[Run]:
    """The runs in `folder`: itself, or folders in it or one below, by name. `ValueError` if there is none."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    return [_run(path, folder) for path in sorted(_folders(folder, _DEPTH))]


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    if _is_run(folder):
        yield folder
    elif depth:
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
                yield from _folders(path, depth - 1)


def _is_run(folder: Path) -> bool:
    return any(
        (folder / name).exists() for name in (CONFIG, RUN, METRICS, CHECKPOINTS, STATUS_FILE, LOCK_FILE)
    )


def _run(folder: Path, above: Path) -> Run:
    troubles: list[str] = []
    config, run = (_json(folder / name, troubles) for name in (CONFIG, RUN))
    last, best_knn = _metrics(folder / METRICS)
    saved, whole = checkpoints(folder)
    if saved and whole is None:
        troubles.append("no checkpoint is whole")
    steps, per_epoch = plan(config, run)
    progress = _Progress(max(int(_number(last, "step") or 0), whole or 0), whole or 0, steps, _seen(folder))
    state, why = _state(folder, _json(folder / STATUS_FILE, []), run, troubles, progress)
    knn = [best_knn, _number(_object(_json(folder / EVALUATION, []), "knn"), "top1")]
    alarms = last.get("alarms")
    return Run(
        name=str(folder.relative_to(above)) if folder != above else folder.resolve().name,
        state=state,
        why=why,
        step=progress.step,
        steps=steps,
        epochs=progress.step / per_epoch if per_epoch else None,
        health={key: value for key in HEALTH if (value := _number(last, key)) is not None},
        alarms=tuple(map(str, alarms)) if isinstance(alarms, list) else (),
        best_knn=max((value for value in knn if value is not None), default=None),
        started_s=_number(run, "started_s"),
        seen_s=progress.seen_s or None,
    )


class _Progress(NamedTuple):
    step: int
    saved: int
    """The step of the newest whole checkpoint, or 0: what a run has not saved it has not finished."""
    steps: int | None
    seen_s: float


def _state(
    folder: Path, status: Json, run: Json, troubles: list[str], progress: _Progress
) -> tuple[State, str]:
    said, why, host = status.get("state"), str(status.get("why") or ""), status.get("host")
    if is_held(folder):
        return "running", ""
    if said == "running" and host != socket.gethostname() and time.time() - progress.seen_s < _SILENT_S:
        return "running", f"on {host}"
    if not any((folder / name).exists() for name in (CONFIG, RUN, METRICS, CHECKPOINTS)):
        return "empty", ""
    if troubles:
        return "damaged", "; ".join(troubles)
    if said in ("failed", "finished", "stopped"):
        return said, why
    if "imported" in run and not (folder / METRICS).exists():
        return "finished", "imported"
    if progress.step == 0:
        return "empty", ""
    if progress.steps is not None and progress.saved >= progress.steps:
        return "finished", ""
    return "stopped", "killed"


def plan(config: Json, run: Json) -> tuple[int | None, int | None]:
    """Steps of the run and of one epoch, by config.json and run.json; None where they don't say."""
    optim, num_samples = _object(config, "optim"), _number(run, "num_samples")
    batch_size, epochs = _number(optim, "batch_size"), _number(optim, "epochs")
    if not num_samples or not batch_size or not epochs:
        return None, None
    per_epoch = int(num_samples // batch_size)
    steps = int(_number(_object(config, "train"), "steps") or 0)
    return min(steps or int(epochs) * per_epoch, int(epochs) * per_epoch), per_epoch


def _metrics(path: Path) -> tuple[Json, float | None]:
    """The last whole line, and the best kNN of all lines: few have one, and only those are parsed."""
    best: float | None = None
    try:
        with path.open("rb") as file:
            for raw in file:
                if b'"knn' in raw:
                    line = _parsed(raw)
                    found = [_number(line, key) for key in line if key.startswith("knn")]
                    best = max((value for value in (best, *found) if value is not None), default=None)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            tail = file.read().splitlines()
    except OSError:
        return {}, None
    return next((line for raw in reversed(tail) if "step" in (line := _parsed(raw))), {}), best


def _parsed(raw: bytes) -> Json:
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return line if isinstance(line, dict) else {}


def checkpoints(run: Path) -> tuple[int, int | None]:
    """How many there are, and the step of the newest whose files have the sizes that its manifest names."""
    found = sorted((p for p in (run / CHECKPOINTS).glob("step-*") if p.name[5:].isdigit()), reverse=True)
    return len(found), next((int(p.name[5:]) for p in found if _sizes_fit(p)), None)


def _sizes_fit(folder: Path) -> bool:
    try:
        files = durable.read_json(folder / durable.MANIFEST)["files"]
        return bool(files) and all(
            (folder / n).stat().st_size == entry["bytes"] for n, entry in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _seen(folder: Path) -> float:
    paths = (folder / name for name in (METRICS, STATUS_FILE, RUN, CHECKPOINTS))
    return max((path.stat().st_mtime for path in paths if path.exists()), default=0.0)


def _json(path: Path, troubles: list[str]) -> Json:
    try:
        return durable.read_json(path)
    except FileNotFoundError:
        troubles.append(f"{path.name} is missing")
    except (OSError, ValueError) as error:
        troubles.append(f"{path.name}: {str(error).removeprefix(f'{path}: ')}")
    return {}


def _object(row: Json, key: str) -> Json:
    value = row.get(key)
    return value if isinstance(value, dict) else {}


def _number(row: Json, key: str) -> float | None:
    value = row.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
