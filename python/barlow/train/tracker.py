"""Here: the lines of metrics as a run of Weights & Biases, an optional package.

Not here: the record itself (metrics.py), its settings: WANDB_MODE=offline and the like are wandb's own.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import uuid
from pathlib import Path
from typing import Any

from barlow import durable

FILE_NAME = "wandb.json"
"""Of the run folder: under which name Weights & Biases knows the run, so that it goes on with it."""


def check(project: str) -> None:
    """`ValueError` if a project is asked for and the package is not there."""
    if project and importlib.util.find_spec("wandb") is None:
        raise ValueError("--train.wandb needs the package wandb: pip install wandb")


class Tracker:
    """One run of a project. Its files, and those of runs that could not be sent yet, are in `run/wandb`."""

    def __init__(self, run: Path, project: str, config: dict[str, Any]) -> None:
        wandb: Any = importlib.import_module("wandb")
        path = run / FILE_NAME
        name = durable.read_json(path)["id"] if path.exists() else uuid.uuid4().hex[:12]
        durable.write_file(path, json.dumps({"id": name}) + "\n")
        self._run = wandb.init(
            project=project,
            id=name,
            name=run.resolve().name,
            dir=str(run),
            config=config,
            resume="allow",
            # The terminal is the panel's; what is printed there is no part of the record.
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, line: dict[str, Any]) -> None:
        """The numbers of one line of metrics, under its step."""
        numbers = {name: value for name, value in line.items() if isinstance(value, int | float)}
        self._run.log(numbers, step=line["step"])

    def close(self) -> None:
        """Sends or writes what is left."""
        self._run.finish()
