"""Here: what a run says about itself: one JSON object per line, the same as TensorBoard events, and on
request for Weights & Biases.

Not here: what is measured or how often, the events' file (events.py), anything on the terminal.

The JSON lines are the record and the events are drawn from them: a resumed run cuts the lines after its
checkpoint and draws the events anew, so no step is there twice in either. What Weights & Biases has got can't
be taken back: there the steps after the checkpoint stay as they were first.
"""

from __future__ import annotations

import json
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from barlow import durable
from barlow.train.alarms import HISTORY
from barlow.train.events import Events
from barlow.train.tracker import Tracker

FILE_NAME = "metrics.jsonl"
_NOT_CURVES = ("step", "time_s")


class Metrics:
    """Appends lines to `run/metrics.jsonl` and their numbers to `run/tensorboard/`. For one process of a run.

    `keep(line)` says which lines that are already there belong to the run that goes on. `wandb` is a project
    of Weights & Biases, "" for none, and `config` what it shows as the run's. `OSError` that names the file
    when it can't be written; if that is `survivable`, a warning, and the lines wait in memory.
    """

    def __init__(
        self,
        run: Path,
        keep: Callable[[dict[str, Any]], bool],
        *,
        survivable: bool = False,
        wandb: str = "",
        config: dict[str, Any] | None = None,
    ) -> None:
        self._path, self._survivable = run / FILE_NAME, survivable
        lines = [line for line in read(self._path) if keep(line)]
        self.lines = deque(lines, maxlen=HISTORY)
        """The latest ones, those of before a resumption included."""
        durable.write_file(self._path, "".join(map(_text, lines)))
        # Without a buffer: what a full disk did not take is known to the byte, and nothing is there twice.
        self._file = self._path.open("ab", buffering=0)
        self._waiting, self._lock, self._has_warned = b"", threading.Lock(), False
        self._events = Events(run)
        # TensorBoard's axis of wall-clock time: the run so far ended just now.
        self._start_s = time.time() - (lines[-1]["time_s"] if lines else 0.0)
        for line in lines:
            self._draw(line)
        self._tracker = Tracker(run, wandb, config or {}) if wandb else None

    def write(self, line: dict[str, Any]) -> None:
        """Adds one line; it needs `step` and `time_s` (seconds of training so far). Its numbers are finite or
        None; what is no number stands in the lines only."""
        with self._lock:
            self._waiting += _text(line).encode()
        try:
            self._append()
        except OSError as error:
            if not self._survivable:
                raise
            if not self._has_warned:
                warnings.warn(f"{self._path}: {error.strerror}; its lines wait in memory", stacklevel=2)
                self._has_warned = True
        self._draw(line)
        self.lines.append(line)
        if self._tracker:
            self._tracker.log(line)

    def sync(self) -> None:
        """Forces the lines to the disk, so that none that a checkpoint has passed is lost. Any thread may."""
        self._append()
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            error.filename = str(self._path)
            raise

    def _append(self) -> None:
        with self._lock:
            try:
                while self._waiting:
                    self._waiting = self._waiting[self._file.write(self._waiting) :]
            except OSError as error:
                error.filename = str(self._path)
                raise
            self._has_warned = False

    def close(self) -> None:
        """Closes all; lines that can't be written are lost, with a warning."""
        try:
            self._append()
        except OSError as error:
            warnings.warn(f"{self._path}: {error.strerror}; its last lines are lost", stacklevel=2)
        self._file.close()
        self._events.close()
        if self._tracker:
            self._tracker.close()

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _draw(self, line: dict[str, Any]) -> None:
        numbers = {
            name: value
            for name, value in line.items()
            if name not in _NOT_CURVES and isinstance(value, int | float)
        }
        self._events.add(numbers, line["step"], self._start_s + line["time_s"])


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, none if it is absent; a line that a crash cut or a disk spoiled is left
    out with a warning."""
    lines = []
    for number, raw in enumerate(path.read_bytes().splitlines() if path.exists() else [], start=1):
        try:
            line = json.loads(raw)
            lines.append({**line, "step": int(line["step"]), "time_s": float(line["time_s"])})
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            warnings.warn(f"{path}:{number} is not a whole line of metrics and is left out", stacklevel=2)
    return lines


def _text(line: dict[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"
