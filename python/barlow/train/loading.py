"""Here: the batches of a run: its loader, and the device stage that its config asks for.

Not here: what becomes of a batch (`learner.py`), stages and their choice (data/).
"""

from __future__ import annotations

import torch

from barlow.config import Config
from barlow.data import AnyLoader, Index, Loader, StageName, staged, views
from barlow.data.choice import fastest
from barlow.data.loader import HandOver
from barlow.data.staged import HAND_OVER
from barlow.distributed import World
from barlow.model.precision import training_dtype


def open_loader(index: Index, config: Config, world: World, threads: int) -> tuple[AnyLoader, str]:
    """What `config` trains on, on this rank, and one line about its device stage; none if nobody asked for
    one.

    `threads` is this rank's share of the machine's cores; the config may ask for others. With a stage views
    are finished floats in the precision that the network computes in; without, uint8. `ValueError` names
    what must be installed for the stage.
    """
    data = config.data

    def make(hand_over: HandOver) -> Loader:
        return Loader(
            index,
            views=views.training(data),
            batch_size=config.optim.batch_size,
            seed=config.train.seed,
            rank=world.rank,
            world_size=world.size,
            threads=data.threads or threads,
            epochs=config.optim.epochs,
            prefetch=data.prefetch,
            pin_memory=world.device.type == "cuda",
            on_error=data.on_error,
            max_replaced=data.max_replaced,
            hand_over=hand_over,
        )

    dtype = _precision(config, world)
    if data.device_stage == "auto":
        stage, reason = fastest(
            make,
            mean=data.mean,
            std=data.std,
            device=world.device,
            dtype=dtype,
            threads=data.threads or threads,
        )
        said = f"device stage: {stage}, {reason}"
    else:
        stage: StageName = data.device_stage
        said = "" if stage == "none" else f"device stage: {stage}"
    loader = staged(
        make(HAND_OVER[stage]),
        mean=data.mean,
        std=data.std,
        device=world.device,
        dtype=dtype,
        threads=data.threads or threads,
    )
    return loader, said


def _precision(config: Config, world: World) -> torch.dtype:
    """On a GPU what autocast would round the views to in the first convolution; so it costs nothing to do it
    before. But for mixed images, which are computed from the views."""
    if world.device.type == "cpu" or config.objective.name == "mixed_barlow_twins":
        return torch.float32
    return training_dtype(config.train.precision, world.device, config.model, config.data.image_size)
