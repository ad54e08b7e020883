"""Here: one cell of a grid, one row with one seed: trained, evaluated, its result kept, its weights not.

Not here: which cells there are (plan.py), several of them at a time (grid.py).

A cell is a folder: `cell.json` says what is to be done, `run/` is a run like any other, `log.txt` has what
`barlow train` and `barlow eval` said, and `result.json` is there once all is done. Whatever ended a cell
before, the next start goes on from the run's newest checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from barlow import durable
from barlow.config import Config, from_json, to_json
from barlow.train.status import FILE_NAME as STATUS

TASK, RESULT, LOG, RUN = "cell.json", "result.json", "log.txt", "run"
BUSY = 75
"""Exit code of a cell that another process is at (EX_TEMPFAIL of sysexits.h)."""

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a cell does."""

    config: Config
    train: Path
    bank: Path
    test: Path
    baselines: bool
    """Whether the untrained network and the raw pixels are measured, too."""
    nproc: int = 0
    keep_weights: bool = False

    def write(self, folder: Path) -> None:
        """Into `folder`, before the cell is started."""
        plain = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items() if k != "config"}
        text = json.dumps({**plain, "config": json.loads(to_json(self.config))}, indent=2)
        durable.write_file(folder / TASK, text + "\n")

    @staticmethod
    def read(folder: Path) -> Task:
        """What `write` wrote."""
        raw = durable.read_json(folder / TASK)
        config = from_json(json.dumps(raw.pop("config")))
        paths = {name: Path(raw.pop(name)) for name in ("train", "bank", "test")}
        return Task(config=config, **paths, **raw)


def result(folder: Path) -> Json | None:
    """What a cell came to: numbers, or `failed` with the reason; None while there is more to do."""
    try:
        return durable.read_json(folder / RESULT)
    except (OSError, ValueError):  # none, or one that the disk has lost: it is made again
        return None


def work(folder: Path, cores: Sequence[int]) -> None:
    """The process of a cell, on these cores (empty: wherever its parent runs); exits with code 0, or BUSY.

    It dies with the grid: nobody would wait for it, and the next one goes on with it.
    """
    threading.Thread(target=_die_with_the_grid, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches all; the grid passes it on
    if cores:
        os.sched_setaffinity(0, cores)
    from barlow.terminal import notes
    from barlow.train.lock import alone

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(alone(folder))
        except ValueError:
            raise SystemExit(BUSY) from None
        if result(folder) is not None:
            return
        _say_into(folder / LOG)
        stack.enter_context(notes())
        task = Task.read(folder)
        try:
            _do(folder, task)
        except (FloatingPointError, SystemExit):  # the latter where ranks of their own have trained
            if not (why := _not_finite(folder / RUN)):
                raise
            _keep(folder, {"failed": why})  # it would be the same each time, so it is a result
        if not task.keep_weights:
            prune(folder)


def _die_with_the_grid() -> None:
    # The kernel's own signal for this would tell of the process that forks cells, which lives on for a while.
    if grid := multiprocessing.parent_process():
        grid.join()
        os.kill(os.getpid(), signal.SIGKILL)


def _say_into(log: Path) -> None:
    """From now on what this process and its children write goes to the end of a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _do(folder: Path, task: Task) -> None:
    from barlow.evaluate import evaluate
    from barlow.train.launch import launch

    run = folder / RUN
    began = time.monotonic()
    launch(task.train, task.config, run, nproc=task.nproc, preset="a cell of barlow reproduce")
    trained = time.monotonic()
    found = evaluate(
        run, task.bank, held_out=task.test, out=folder / "eval.json", baselines=task.baselines, quiet=False
    )
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    last = json.loads(lines[-1])
    _keep(
        folder,
        {
            **{name: _scores(found.get(name)) for name in ("untrained", "raw_pixels") if found.get(name)},
            **_scores(found),
            "weights_sha256": found["weights_sha256"],
            "loss": last["loss"],
            "on_diagonal": last.get("on_diagonal"),
            "rank_me": last.get("rank_me"),
            "step": last["step"],
            # Of training as the run counts it, resumptions included; of the evaluation the last attempt's.
            "train_s": round(last["time_s"], 1),
            "evaluate_s": round(time.monotonic() - trained, 1),
            "last_attempt_s": round(time.monotonic() - began, 1),
            "protocol": found["protocol"],
            "device": found["device"],
            "torch": found["torch"],
        },
    )


def _not_finite(run: Path) -> str:
    """What stopped being finite, in the words of the run's status; nothing if that is not why it ended."""
    kind, _, why = durable.read_json(run / STATUS)["why"].partition(": ")
    return why if kind == FloatingPointError.__name__ else ""


def _scores(row: Json | None) -> Json:
    assert row is not None
    return {"knn": row["knn"]["top1"], "linear": row["linear"]["top1"]}


def _keep(folder: Path, found: Json) -> None:
    durable.write_file(folder / RESULT, json.dumps(found, indent=2, allow_nan=False) + "\n")


def prune(folder: Path) -> None:
    """Removes the checkpoints of a cell that is done."""
    checkpoints = folder / RUN / "checkpoints"
    if checkpoints.is_dir():
        durable.remove_folder(checkpoints)
