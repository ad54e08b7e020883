"""Whether a batch is there before it is taken: nothing waits, nothing moves, errors come in their turn."""

from __future__ import annotations

import os
import time
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from barlow.data import Batch, DataError, Index, Loader
from barlow.data.staged import StagedLoader, endless
from photos import loader, photo, samples

STUCK = 4
"""In the third batch of two."""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for i in range(12):
        photo(i, 40, 40).save(tmp_path / f"{i:02}.jpg")
    Index.scan(tmp_path).write(tmp_path)
    return tmp_path


@contextmanager
def hanging(images: Path) -> Iterator[None]:
    """Reads of image STUCK hang inside; those that do then get its bytes at the end."""
    path = Path(Index.open(images).shard(STUCK))
    content = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    try:
        yield
    finally:
        deadline_s = time.monotonic() + 10
        while time.monotonic() < deadline_s:
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # nobody reads any more
                break
            os.close(descriptor)
            time.sleep(0.01)
        path.unlink()
        path.write_bytes(content)


class Plain:
    """A device stage that does nothing, two batches deep."""

    depth = 2

    def __init__(self) -> None:
        self._inside: deque[Batch] = deque()

    def submit(self, batch: Batch) -> None:
        self._inside.append(batch)

    def take(self) -> list[torch.Tensor]:
        return self._inside.popleft().views

    def clear(self) -> None:
        self._inside.clear()


def staged(batches: Loader) -> StagedLoader:
    stage: Any = Plain()
    return StagedLoader(batches, stage)


def test_what_hangs_is_not_ready_and_nobody_waits_for_it(images: Path) -> None:
    with hanging(images), loader(Index.open(images), batch_size=2, shuffle=False) as batches:
        taken = iter(batches)
        for _ in range(2):
            assert batches.ready(10)
            next(taken)
        begin_s = time.monotonic()
        assert not batches.ready()
        assert not batches.ready(0.2)
        assert 0.15 < time.monotonic() - begin_s < 2
        assert batches.state_dict() == {"epoch": 0, "step": 2}


def test_asking_changes_nothing(images: Path) -> None:
    settings = {"batch_size": 2, "shuffle": True, "epochs": 2}
    reference = samples(endless(loader(images, **settings)))
    for wrap in (lambda plain: plain, staged):
        with wrap(loader(images, **settings)) as batches:
            found: list[Batch] = []
            while len(found) < 12:
                before = batches.state_dict()
                assert batches.ready(10)
                assert batches.ready()
                assert batches.state_dict() == before
                if len(found) == 5:  # what has been asked for is forgotten with the position
                    batches.load_state_dict({"epoch": 0, "step": 3})
                    assert batches.ready(10)
                    batches.load_state_dict({"epoch": 0, "step": 5})
                found.append(next(iter(batches)))
            assert samples(found) == reference
            assert batches.ready()  # there are no more, and that is known
            assert list(batches) == []


def test_an_error_comes_in_its_turn(images: Path) -> None:
    path = Path(Index.open(images).shard(STUCK))
    content = path.read_bytes()
    for wrap in (lambda plain: plain, staged):
        path.write_bytes(content[:-200] + bytes(200))
        with wrap(loader(Index.open(images), batch_size=2, shuffle=False)) as batches:
            for step in range(2):
                assert batches.ready(10)
                assert next(iter(batches)).step == step
            assert batches.ready(10)
            for _ in range(2):
                with pytest.raises(DataError):
                    next(iter(batches))
                assert batches.state_dict() == {"epoch": 0, "step": 2}
            path.write_bytes(content)
            assert next(iter(batches)).step == 2


def test_a_stall_is_told_of_however_the_time_is_cut_up(images: Path) -> None:
    with hanging(images), loader(Index.open(images), batch_size=2, shuffle=False, stall_after=0.1) as batches:
        taken = iter(batches)
        next(taken)
        next(taken)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            begin_s = time.monotonic()
            while not batches.ready(0.03):
                assert time.monotonic() - begin_s < 20
        assert len(told) == 9
        assert "no batch for 0.1 s (epoch 0, step 2)" in str(told[0].message)
        with pytest.raises(TimeoutError, match=r"no batch for 1 s .*04\.jpg"):
            next(taken)


def test_a_stage_hands_out_what_it_has_while_a_read_hangs(images: Path) -> None:
    with hanging(images), staged(loader(Index.open(images), batch_size=2, shuffle=False)) as batches:
        assert batches.ready(10)
        begin_s = time.monotonic()
        assert next(iter(batches)).step == 0  # and reads no further than it can
        assert not batches.ready()
        assert time.monotonic() - begin_s < 5
        assert batches.state_dict() == {"epoch": 0, "step": 1}
