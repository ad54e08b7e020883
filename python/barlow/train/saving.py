"""Here: a run's newest checkpoint into the learner and the loader, and their state into a new one.

Not here: what a checkpoint holds (checkpoint.py), when one is written (loop.py), how bytes reach the disk.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from barlow import durable
from barlow.data import AnyLoader
from barlow.distributed import World, broadcast_value
from barlow.train.checkpoint import CHECKPOINTS, find_checkpoint, load_checkpoint, read_state, save_checkpoint
from barlow.train.learner import Learner


def resume(run: Path, learner: Learner, loader: AnyLoader, world: World) -> tuple[int, float]:
    """The step and the seconds that the run already has; loads its newest checkpoint if there is one."""
    directory = run / CHECKPOINTS
    found = None
    if world.rank == 0:
        durable.remove_leftovers(directory)
        found = find_checkpoint(directory)
    # The first rank verified it; the others take its word rather than read everything twice.
    name = broadcast_value(found.name if found else None)
    if name is None:
        return 0, 0.0
    state = read_state(directory / name)
    load_checkpoint(directory / name, learner.network, learner.optimizer)
    if state["scaler"]:
        learner.scaler.load_state_dict(state["scaler"])
    loader.load_state_dict(state["loader"])
    return state["step"], state["time_s"]


def save(run: Path, step: int, learner: Learner, loader: AnyLoader, time_s: float) -> None:
    """Writes a checkpoint of this step; `FloatingPointError`, and no file, if a weight is not finite."""
    if not all(bool(p.isfinite().all()) for p in learner.network.parameters()):
        raise FloatingPointError(f"a weight is not finite after step {step}; no checkpoint is written")
    state = {
        "loader": loader.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "time_s": time_s,
        "config": dataclasses.asdict(learner.config),
    }
    keep = learner.config.checkpoint.keep
    save_checkpoint(run / CHECKPOINTS, step, learner.network, learner.optimizer, state, keep)
