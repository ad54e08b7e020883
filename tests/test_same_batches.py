"""The same ordered batches, whatever makes them: storage, threads, prefetch, world size, a stop or a kill.

Every comparison is of sha256 of pixels, labels and ids with their places, in order and never sorted. Each
factor alone is tested in test_loader.py; here they vary together, and in mid-epoch.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import sources
from barlow.data import Loader, index_source, open_index, pack
from nursery import Forked
from photos import NUM_IMAGES, endless, loader, samples, write_folder, write_tar

BATCH_SIZE = 8  # what `loader` gives by default
STORAGES = ("folder", "tar", "shards", "webdataset")
Rows = list[tuple[object, ...]]


@pytest.fixture(scope="module")
def storages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same images in the same order, stored in every way."""
    root = tmp_path_factory.mktemp("storages")
    folder = root / "folder"
    folder.mkdir()
    write_folder(folder)
    pack(folder, root / "shards", shard_bytes=1 << 15, min_shards=3, threads=1)
    write_webdataset(folder, root / "webdataset")
    return {
        "folder": folder,
        "tar": write_tar(folder, root / "photos.tar"),
        "shards": root / "shards",
        "webdataset": root / "webdataset",
    }


def write_webdataset(folder: Path, out: Path) -> None:
    """Four tars of numbered samples with their class and a caption, indexed where they lie."""
    source = open_index(folder, threads=1)
    for shard in range(4):
        files: dict[str, bytes] = {}
        for number in range(shard * NUM_IMAGES // 4, (shard + 1) * NUM_IMAGES // 4):
            files[f"{number:06}{Path(source.name(number)).suffix}"] = source.read(number)
            files[f"{number:06}.cls"] = str(source.labels[number]).encode()
            files[f"{number:06}.json"] = json.dumps({"caption": f"photo {number}"}).encode()
        sources.write_tar(out / f"train-{shard:04}.tar", files)
    assert index_source(out) == out / "barlow.index"


def steps_of(ranks: Iterable[Loader]) -> Iterator[Rows]:
    """The global batches, each put together from those of the ranks."""
    streams = [endless(batches) for batches in ranks]
    for parts in zip(*streams, strict=True):
        assert len({(part.epoch, part.step) for part in parts}) == 1
        yield samples(parts)


@contextlib.contextmanager
def world(source: Path, size: int, state: dict[str, int], **settings: Any) -> Iterator[list[Loader]]:
    """The loaders of all ranks at a position; what they have prepared beyond is thrown away at the end."""
    ranks = [loader(source, rank=rank, world_size=size, **settings) for rank in range(size)]
    try:
        for batches in ranks:
            batches.load_state_dict(state)
        yield ranks
    finally:
        for batches in ranks:
            batches.close()


@pytest.fixture(scope="module")
def straight(storages: dict[str, Path]) -> dict[bool, list[Rows]]:
    """By `drop_last`: five epochs without a break, in one process with one thread, one list for each step."""
    found = {}
    for drop_last in (True, False):
        settings: dict[str, Any] = {"drop_last": drop_last, "threads": 1, "prefetch": 1}
        with world(storages["folder"], 1, {"epoch": 0, "step": 0}, **settings) as ranks:
            found[drop_last] = list(islice(steps_of(ranks), 5 * len(ranks[0])))
    return found


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(("threads", "prefetch"), [(1, 2), (2, 1), (4, 3), (16, 17)])
def test_storage_threads_and_prefetch(
    storage: str, threads: int, prefetch: int, storages: dict[str, Path], straight: dict[bool, list[Rows]]
) -> None:
    """Also with more threads than a batch has images, and with more batches in flight than an epoch has."""
    settings = {"threads": threads, "prefetch": prefetch, "drop_last": False}
    with world(storages[storage], 1, {"epoch": 0, "step": 0}, **settings) as ranks:
        assert list(islice(steps_of(ranks), 15)) == straight[False][:15]


def _is_cold(path: Path) -> bool:
    """Takes a file out of the page cache; True if it could not be read without waiting for the disk then."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
        except BlockingIOError:
            return True
        except OSError:  # the file system does not say
            return False
    return False


@pytest.mark.parametrize("storage", ["folder", "shards"])
def test_a_cold_page_cache(storage: str, storages: dict[str, Path], straight: dict[bool, list[Rows]]) -> None:
    settings = {"threads": 4, "prefetch": 3, "drop_last": True}
    with world(storages[storage], 1, {"epoch": 0, "step": 0}, **settings) as ranks:
        files = [path for path in storages[storage].rglob("*") if path.suffix in {".jpg", ".png", ".tar"}]
        if not all(map(_is_cold, files)):
            pytest.skip("this file system has no cold pages")
        assert list(islice(steps_of(ranks), 5)) == straight[True][:5]


@pytest.mark.parametrize("trial", range(20))
def test_any_position_in_any_surroundings(
    trial: int, storages: dict[str, Path], straight: dict[bool, list[Rows]]
) -> None:
    dice = random.Random(trial)
    drop_last, size = dice.choice([True, False]), dice.choice([1, 2, 4, 8])
    settings = {"drop_last": drop_last, "threads": dice.choice([1, 2, 3]), "prefetch": dice.choice([1, 2, 5])}
    steps = len(straight[drop_last]) // 5
    epoch, step = dice.randrange(4), dice.randrange(steps)
    start = epoch * steps + step
    with world(storages[dice.choice(STORAGES)], size, {"epoch": epoch, "step": step}, **settings) as ranks:
        assert list(islice(steps_of(ranks), steps)) == straight[drop_last][start : start + steps]


@pytest.mark.parametrize("drop_last", [True, False])
def test_the_world_changes_in_mid_epoch(
    drop_last: bool, storages: dict[str, Path], straight: dict[bool, list[Rows]]
) -> None:
    """8 -> 2 -> 4 -> 1 ranks and back, each at another step and on other storage; nothing twice or lost."""
    state = {"epoch": 0, "step": 0}
    found: list[Rows] = []
    sizes = [8, 2, 4, 1, 4, 2, 8]
    for number, (size, steps) in enumerate(zip(sizes, [2, 4, 1, 3, 5, 2, 4], strict=True)):
        settings = {"drop_last": drop_last, "threads": 1 + number % 3, "prefetch": 1 + number % 4}
        with world(storages[STORAGES[number % 4]], size, state, **settings) as ranks:
            found += islice(steps_of(ranks), steps)
            states = [batches.state_dict() for batches in ranks]
        assert all(other == states[0] for other in states)
        state = states[0]
    assert found == straight[drop_last][:21]


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_the_ranks_share_out_an_epoch(size: int, drop_last: bool, storages: dict[str, Path]) -> None:
    """No image twice, none lost, each with its label; the short batch is dropped or is the exact rest."""
    source = open_index(storages["webdataset"])
    labels = source.labels.tolist()
    rest = NUM_IMAGES % BATCH_SIZE
    assert 0 < rest < 8  # so that some ranks of eight have no row of the last batch
    with world(
        storages["webdataset"], size, {"epoch": 1, "step": 0}, drop_last=drop_last, threads=1
    ) as ranks:
        epochs = [list(batches) for batches in ranks]
        assert {len(batches) for batches in ranks} == {NUM_IMAGES // BATCH_SIZE + (not drop_last)}
    owned = [[int(i) for batch in epoch for i in batch.ids] for epoch in epochs]
    everything = [sample for rank in owned for sample in rank]
    assert len(set(everything)) == len(everything) == NUM_IMAGES - (rest if drop_last else 0)
    assert set(everything) <= set(range(NUM_IMAGES))
    for epoch in epochs:
        assert {len(batch.ids) for batch in epoch[: NUM_IMAGES // BATCH_SIZE]} == {BATCH_SIZE // size}
        for batch in epoch:
            assert batch.labels.tolist() == [labels[sample] for sample in batch.ids.tolist()]
            assert {len(view) for view in batch.views} == {len(batch.ids)}
    if not drop_last:
        assert sum(len(epoch[-1].ids) for epoch in epochs) == rest


KILLED = """
import json, sys
from pathlib import Path
import test_same_batches as tests

source, size, state = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
with tests.world(source, size, state, drop_last=False, threads=2) as ranks:
    for rows in tests.steps_of(ranks):
        print(json.dumps([ranks[0].state_dict(), rows]), flush=True)
"""


def killed_after(steps: int, source: Path, size: int, state: dict[str, int]) -> list[tuple[Any, Rows]]:
    """What a process had recorded (state and rows of each step) when it was killed at some later moment."""
    command = [sys.executable, "-c", KILLED, str(source), str(size), json.dumps(state)]
    folder = Path(__file__).parent
    with Forked(command, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        assert process.stdout is not None
        lines = list(islice(process.stdout, steps))
        process.kill()
        lines += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    whole = [line for line in lines if line.endswith("\n")]
    return [(state, [tuple(row) for row in rows]) for state, rows in map(json.loads, whole)]


def test_killed_in_mid_step_and_continued_by_others(
    storages: dict[str, Path],
) -> None:
    """8 -> 2 -> 4 ranks, each world killed with batches in flight; the next goes on from what was written."""
    state = {"epoch": 0, "step": 0}
    found: list[Rows] = []
    for storage, size, steps in [("folder", 8, 3), ("shards", 2, 5), ("webdataset", 4, 2)]:
        recorded = killed_after(steps, storages[storage], size, state)
        found += [rows for _, rows in recorded]
        state = recorded[-1][0]
    assert len(found) >= 10
    with world(storages["tar"], 1, {"epoch": 0, "step": 0}, drop_last=False) as unbroken:
        assert found == list(islice(steps_of(unbroken), len(found)))
