"""Here: `barlow replay`: the step of a black box made again, compared with what the box says, and tried at a
higher precision.

Not here: what a box holds (blackbox.py), the observation (trace.py), the command line.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from barlow import config as configs
from barlow.config import Config
from barlow.data import Index, open_index
from barlow.distributed import World, gather_values, process_group
from barlow.train import blackbox
from barlow.train.algorithms import algorithms
from barlow.train.checkpoint import load_checkpoint
from barlow.train.learner import Learner, Plan
from barlow.train.loading import open_loader
from barlow.train.trace import Place, Trace, trace

Say = Callable[[str], None]


@dataclass(frozen=True)
class Verdict:
    """What a replay found."""

    reproduced: bool
    """Whether the same tensor is the first that is not finite; of another batch, whether any is."""
    bit_equal: bool
    """Whether loss, gradient norms and layers are those of the box to the last bit."""
    first: Place | None
    finite_in: str | None
    """The higher precision in which everything is finite; None if it is not, or was not tried."""


def replay(box: Path, data: Path, say: Say = print, *, batch: int = 0) -> Verdict:
    """Makes the step of the box again on the images `data` and says what happens, line by line.

    `batch`: the optimizer step whose batch to take instead, with the weights of the box; 0: its own. Inside
    torchrun every process is a rank, as in the run. `ValueError` for a box or images that do not fit.
    """
    state = blackbox.read(box)
    config = _config(state)
    with (
        process_group("auto" if state["device"] == "cuda" else "cpu") as world,
        algorithms(world.device, deterministic=config.train.deterministic),
    ):
        if world.rank > 0:
            say = _silently
        if world.device.type == "cpu":
            torch.set_num_threads(state["threads"])  # sums round by the number of threads
        index = open_index(data)
        if index.digest() != state["index_digest"]:
            raise ValueError(f"{index.source} is not the data of the run, which was {state['data']}")
        step = batch or state["step"]
        views_u8, steps_per_epoch = _views(index, config, world, step, state)
        learner = _learner(config, steps_per_epoch, world, box, state)
        seen = trace(learner, step, views_u8)
        if batch and batch != state["step"]:
            verdict = _of_another_batch(seen, step, state, say)
        else:
            verdict = _compared(seen, state, world, say)
        del learner
        return replace(
            verdict, finite_in=_finite_in(config, steps_per_epoch, world, box, step, views_u8, say)
        )


def _silently(text: str) -> None:
    """Of a rank that does not speak."""


def _config(state: dict[str, Any]) -> Config:
    config = configs.from_json(json.dumps(state["config"]))
    # The form and the precision that "auto" came to there.
    precision = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[state["autocast"]]
    return replace(
        config,
        objective=replace(config.objective, form=state["form"]),
        # What is compiled knows nothing of hooks.
        train=replace(config.train, precision=precision, compile=False),
    )


def _views(
    index: Index, config: Config, world: World, step: int, state: dict[str, Any]
) -> tuple[list[Tensor], int]:
    """This rank's views of the batch of an optimizer step, and the steps of an epoch."""
    few = replace(config, data=replace(config.data, prefetch=1))
    loader, _ = open_loader(index, few, world, config.data.threads)
    with loader:
        epoch, step_of_epoch = blackbox.position(step, len(loader))
        loader.load_state_dict({"epoch": epoch, "step": step_of_epoch})
        batch = next(iter(loader))
        num_steps = len(loader)
    # What a device has made of the images need not have the same bits on another one.
    is_bytes = not batch.views[0].is_floating_point()
    if is_bytes and (step, world.size) == (state["step"], state["world_size"]):
        digests = gather_values(blackbox.digest(batch.views))
        if digests != state["views_sha256"]:
            raise ValueError("the images give other views than in the run, which another version made")
    return batch.views, num_steps


def _learner(
    config: Config, steps_per_epoch: int, world: World, box: Path, state: dict[str, Any] | None
) -> Learner:
    learner = Learner(config, Plan.of(config, steps_per_epoch), world)
    load_checkpoint(box, learner.network, learner.optimizer)
    if state is not None and state["scaler"]:
        learner.scaler.load_state_dict(state["scaler"])
    return learner


def _compared(seen: Trace, state: dict[str, Any], world: World, say: Say) -> Verdict:
    before = blackbox.from_json(state["trace"])
    # As JSON, where NaN equals NaN.
    bit_equal = blackbox.to_json(seen) == state["trace"]
    reproduced = seen.first is not None and before.first is not None and _same(seen.first, before.first)
    say(f"step {state['step']}: the loss was {state['found_loss']} in the run and is {seen.loss} here")
    say(f"first not finite in the run: {before.first or 'nothing, when the step was made again'}")
    say(f"first not finite here:       {seen.first or 'nothing'}")
    if bit_equal:
        say("reproduced: every layer, gradient and the loss are those of the run, bit for bit")
    elif reproduced:
        say(f"reproduced at the same place{_why_not_bits(state, world)}")
    else:
        say(f"not reproduced at the same place{_why_not_bits(state, world)}")
    return Verdict(reproduced, bit_equal, seen.first, None)


def _same(left: Place, right: Place) -> bool:
    return (left.phase, left.name) == (right.phase, right.name)


def _why_not_bits(state: dict[str, Any], world: World) -> str:
    reasons = []
    if world.size != state["world_size"]:
        reasons.append(f"{world.size} process here, {state['world_size']} there (torchrun makes as many)")
    if world.device.type != state["device"]:
        reasons.append(f"on {world.device.type} here, on {state['device']} there")
    if torch.__version__ != state["versions"]["torch"]:
        reasons.append(f"torch {torch.__version__} here, {state['versions']['torch']} there")
    return f"; sums may round differently: {', '.join(reasons)}" if reasons else ""


def _of_another_batch(seen: Trace, step: int, state: dict[str, Any], say: Say) -> Verdict:
    say(f"the batch of step {step} with the weights before step {state['step']}: the loss is {seen.loss}")
    if seen.first is None:
        say(f"all is finite: the batch of step {state['step']} has a part in it")
    else:
        say(f"first not finite: {seen.first}")
        say("so it is not one batch: the weights are ill")
    return Verdict(seen.first is not None, False, seen.first, None)


def _finite_in(
    config: Config,
    steps_per_epoch: int,
    world: World,
    box: Path,
    step: int,
    views_u8: list[Tensor],
    say: Say,
) -> str | None:
    """Tries the step in float32, and in float64 where the run was in float32 already."""
    higher = "float64" if config.train.precision == "fp32" else "float32"
    if higher == "float64" and world.size > 1:
        return None  # data parallelism has laid its buffers out for float32
    config = replace(config, train=replace(config.train, precision="fp32"))
    learner = _learner(config, steps_per_epoch, world, box, None)
    if higher == "float64":
        learner.network.double()
        learner.twins.backbone.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    seen = trace(learner, step, views_u8)
    if seen.first is None:
        say(f"in {higher} everything is finite (loss {seen.loss:.6g}): the numbers are too large, not wrong")
        return higher
    say(f"in {higher} the first not finite is {seen.first}")
    return None
