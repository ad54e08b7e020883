"""Runs with `--train.micro-batch`: how many parts a step has, resumption to the bit, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import processes
from barlow.config import Config
from barlow.data import open_index
from barlow.distributed import World
from barlow.train.launch import check, prepare
from barlow.train.loop import train
from barlow.validation import num_micro_batches, validate
from commands import make_images, metrics, tensors
from tiny_run import tiny_config


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


def test_the_number_of_micro_batches_is_that_of_a_process() -> None:
    def number(batch_size: int, micro_batch: int, world_size: int) -> int:
        base = Config()
        optim, settings = (
            replace(base.optim, batch_size=batch_size),
            replace(base.train, micro_batch=micro_batch),
        )
        config = replace(base, optim=optim, train=settings)
        parts = num_micro_batches(config, world_size)
        validate(config, num_samples=10**6, world_size=world_size)
        return parts

    assert [number(12, 0, w) for w in (1, 2, 4)] == [1, 1, 1]
    assert [number(12, 4, w) for w in (1, 2, 4)] == [3, 2, 1]
    assert number(12, 5, 1) == 3  # 4, 4, 4
    assert number(12, 100, 1) == 1
    assert number(12, 1, 2) == 6  # groups of one image of each process
    # Whole batches of one image a process are as many images as there are processes.
    assert number(4, 1, 4) == 1
    # 3 images by 2 would be 2 and 1.
    with pytest.raises(ValueError, match="2 leaves batch norm a single image"):
        number(3, 2, 1)


def train_on_rank(world: World, images: Path, config: Config, run: Path) -> None:
    train(open_index(images), config, run, world, threads=1)


def test_micro_batches_resume_to_the_bit_on_four_processes(images: Path, tmp_path: Path) -> None:
    """12 images a step: 3 a process, which are 2 and 1."""
    base = tiny_config()
    for name, steps, micro_batch in (("unbroken", 4, 2), ("run", 2, 2), ("run", 4, 2), ("whole", 1, 0)):
        settings = replace(base.train, steps=steps, micro_batch=micro_batch)
        processes.run(train_on_rank, 4, images, replace(base, train=settings), tmp_path / name)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "unbroken")
    assert tensors(tmp_path / "run", 4) == tensors(tmp_path / "unbroken", 4)
    first, whole = metrics(tmp_path / "run")[0], metrics(tmp_path / "whole")[0]
    assert first["loss"] != whole["loss"], "batch norm must see other groups"


def test_the_number_of_micro_batches_belongs_to_a_run(images: Path, tmp_path: Path) -> None:
    index, base = open_index(images), tiny_config()

    def parted(micro_batch: int) -> Config:
        return replace(base, train=replace(base.train, micro_batch=micro_batch))

    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    prepare(tmp_path, parted(3), images, index, world_size=2, preset=None, device=None)
    for micro_batch, world_size in ((3, 2), (5, 2), (6, 1), (11, 1), (2, 3)):
        check(parted(micro_batch), index, world_size, tmp_path)
    for micro_batch, world_size, now, fitting in ((3, 1, 4, 6), (2, 2, 3, 3), (0, 2, 1, 3), (2, 6, 1, 1)):
        message = f"with 2 micro-batches a step and this makes {now}, .* --train.micro-batch {fitting} or"
        with pytest.raises(ValueError, match=message):
            check(parted(micro_batch), index, world_size, tmp_path)
    with pytest.raises(ValueError, match=r"makes 1, .* go on with fewer processes or"):
        check(parted(1), index, 12, tmp_path)
    prepare(tmp_path, parted(0), images, index, world_size=4, preset=None, device=None)
    check(parted(0), index, 1, tmp_path)
    with pytest.raises(ValueError, match=r"with 1 micro-batches .* --train\.micro-batch 0 or"):
        check(parted(4), index, 1, tmp_path)
