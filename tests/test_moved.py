"""A run that goes on with another number of processes: same batches, same views, the result to rounding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import processes
from barlow.config import from_json
from barlow.data import open_index
from barlow.distributed import World
from barlow.train import loop
from commands import TINY, barlow_here, make_images, metrics
from trails import Trail, followed, joined

STEPS = 8
"""Of 6 in an epoch."""


def recorded(world: World, images: Path, config: str, run: Path, steps: int) -> Trail:
    """Trains up to this step as one rank; what this rank's batches held."""
    trail: Trail = {}
    parsed = from_json(config)
    shorter = replace(parsed, train=replace(parsed.train, steps=steps, log_every=1))
    with followed(lambda step, ids, digests: trail.update({step: (ids, digests)})):
        loop.train(open_index(images), shorter, run, world, threads=1)
    return trail


def newest(run: Path) -> Path:
    return max(run.glob("checkpoints/step-????????")) / "state.json"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("moved")


def alone() -> World:
    return World(0, 1, 0, torch.device("cpu"))


def test_another_number_of_processes_in_mid_epoch(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    images = make_images(place / "images")
    made = barlow_here(capfd, "train", images, "--run", place / "made", *TINY, "--train.steps", 1)
    assert made.code == 0, made.err
    config = (place / "made" / "config.json").read_text()
    unbroken = recorded(alone(), images, config, place / "unbroken", STEPS)
    assert sorted(unbroken) == list(range(1, STEPS + 1))
    assert len({i for step in range(1, 7) for i in unbroken[step][0]}) == 48  # an epoch is every image once

    run, trail = place / "run", {}
    for world_size, steps in ((2, 4), (1, 5), (4, STEPS)):  # 2 -> 1 in mid-epoch, then 1 -> 4, over its end
        if world_size == 1:
            trail |= recorded(alone(), images, config, run, steps)
        else:
            trail |= joined(processes.run(recorded, world_size, images, config, run, steps))
    assert trail == unbroken
    assert_equal_to_rounding(run, place / "unbroken")


def assert_equal_to_rounding(run: Path, unbroken: Path) -> None:
    left, right = metrics(run), metrics(unbroken)
    assert [line["step"] for line in left] == list(range(1, STEPS + 1))
    assert left[0] == pytest.approx(right[0], rel=1e-5)
    for ours, theirs in zip(left, right, strict=True):
        # Rounding grows from step to step: batch norm over 8 samples amplifies it.
        assert ours == pytest.approx(theirs, rel=2e-2), ours["step"]
    ours, theirs = (load_file(newest(place).parent / "model.safetensors") for place in (run, unbroken))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-2, atol=1e-3, msg=name)
