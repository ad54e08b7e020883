"""The loader in the places where people have a DataLoader or a StatefulDataLoader today."""

from __future__ import annotations

import json
import time
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from barlow.data import Index, Loader, views
from photos import loader, num_threads, passes, photo, samples, write_folder, write_tar

NUM_SAMPLES = 10_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photos"))


def test_for_iter_next_and_len_are_those_of_a_data_loader(folder: Path) -> None:
    """`len` batches in each pass, a new `iter` begins the next epoch, `StopIteration` ends one."""
    batches = loader(folder)

    class Rows(Dataset[int]):
        def __len__(self) -> int:
            return len(batches.index)

        def __getitem__(self, i: int) -> int:
            return i

    peer = DataLoader(Rows(), batch_size=8, shuffle=True, drop_last=True)
    assert len(batches) == len(peer) == len(list(batches)) == len(list(peer))
    iterator = iter(batches)
    seen = [next(iterator) for _ in range(len(batches))]
    assert [batch.epoch for batch in seen] == [1] * len(peer)
    with pytest.raises(StopIteration):
        next(iterator)
    assert [len(b) for b, _ in zip((batch.ids for batch in batches), peer, strict=True)] == [8] * len(peer)


def test_a_run_that_saves_after_every_step_can_go_on_after_any(folder: Path) -> None:
    """As with a StatefulDataLoader: the state is plain, is taken between batches, and is loaded before
    iterating; what follows is what would have followed."""
    reference = samples(chain.from_iterable(passes(loader(folder), 2)))
    done, state = [], None
    while len(done) < len(reference):
        batches = loader(folder, threads=1)
        if state is not None:
            batches.load_state_dict(json.loads(state))
        for batch in islice(batches, 2):  # the run dies after two steps
            done += samples([batch])
            state = json.dumps(batches.state_dict())
        batches.close()
    assert done == reference


def test_two_iterators_share_one_position(folder: Path) -> None:
    """There is one position, `state_dict`'s, so no batch comes twice and none is lost."""
    batches = loader(folder)
    first, second = iter(batches), iter(batches)
    places = [(batch.epoch, batch.step) for batch in (next(first), next(second), next(first))]
    assert places == [(0, 0), (0, 1), (0, 2)]


def test_a_loss_that_sums_batches_needs_nothing_but_a_for_loop(folder: Path) -> None:
    total = torch.zeros(3, dtype=torch.float64)
    with loader(folder, epochs=1) as batches:
        for batch in batches:
            total += batch.views[0].double().mean(dim=(0, 2, 3))
    assert num_threads() == 0
    again = torch.stack([batch.views[0].double().mean(dim=(0, 2, 3)) for batch in loader(folder, epochs=1)])
    torch.testing.assert_close(total, again.sum(0))


def anonymous_bytes() -> int:
    """Memory of this process that is no mapped file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def test_ten_million_samples_begin_within_a_second_and_take_no_memory(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Samples that are the bytes of a few real files; the index of 400 MB of records is mapped."""
    folder = tmp_path / "photos"
    for i in range(100):
        path = folder / f"{i % 10}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(i, 24, 24).save(path)
    few = Index.scan(write_tar(folder, tmp_path / "photos.tar"))
    many = few.subset(np.arange(NUM_SAMPLES) % len(few))
    path = many.write(tmp_path)
    del many
    request.addfinalizer(Path(path).unlink)  # half a gigabyte
    before = anonymous_bytes()
    begin, cpu_s = time.monotonic(), time.process_time()
    batches = Loader(path, views=views.barlow_twins(24), batch_size=64, threads=1)
    batch = next(iter(batches))
    # Of the process's own time: other tests may have the cores of this machine.
    assert min(time.monotonic() - begin, time.process_time() - cpu_s) < 1
    assert len(batches) == NUM_SAMPLES // 64
    assert batch.ids.max() > NUM_SAMPLES // 2
    batches.load_state_dict({"epoch": 7, "step": len(batches) - 1})
    for later in islice(batches, 50):
        assert len(later.ids) == 64
    # A list of the ids alone would have 80 MB.
    assert anonymous_bytes() - before < 20e6
