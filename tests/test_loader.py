"""The loader on real files, with real threads: what comes out, in which order, from which position."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from barlow.data import Batch, apply, decode, draw, open_index, pack, views
from photos import NUM_IMAGES, TWO_VIEWS, endless, loader, passes, photo, samples, write_folder, write_tar


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def archive(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tar(folder, tmp_path_factory.mktemp("archive") / "photos.tar")


# What comes out


def test_every_view_is_the_sum_of_its_steps(archive: Path) -> None:
    recipe = [*TWO_VIEWS, *views.evaluation(16, 20), *views.linear_probe(20)]
    index = open_index(archive)
    seen = 0
    with loader(index, views=recipe, drop_last=False) as batches:
        batches.load_state_dict({"epoch": 3, "step": 1})
        for batch in islice(batches, 0, None, 2):
            for row, sample in enumerate(batch.ids.tolist()):
                image = decode(index.read(sample))
                height, width = index.shape(sample)
                assert image.shape == (height, width, 3)
                for v, view in enumerate(recipe):
                    parameters = draw(view, 5, batch.epoch, sample, v, width, height)
                    expected = apply(image, parameters)
                    assert np.array_equal(batch.views[v][row].numpy(), expected), (sample, view)
                    seen += 1
    assert seen >= len(recipe) * NUM_IMAGES // 3


def test_batches_have_the_promised_form(folder: Path) -> None:
    batch = next(iter(loader(folder)))
    assert [tuple(view.shape) for view in batch.views] == [(8, 3, 24, 24)] * 2
    assert all(view.dtype == torch.uint8 and view.is_contiguous() for view in batch.views)
    assert batch.ids.dtype == batch.labels.dtype == torch.int64
    assert (batch.epoch, batch.step) == (0, 0)


def test_labels_are_those_of_the_folders(folder: Path) -> None:
    index = open_index(folder)
    assert index.class_names == ["class0", "class1", "class2"]
    for batch in loader(index):
        for sample, label in zip(batch.ids.tolist(), batch.labels.tolist(), strict=True):
            assert index.name(sample).startswith(f"class{label}/")
            assert Path(index.name(sample)).stem == f"{int(Path(index.name(sample)).stem):03}"


def test_images_without_classes_have_label_minus_one(tmp_path: Path) -> None:
    for i in range(5):
        photo(i, 30, 30).save(tmp_path / f"{i}.jpg")
    (batch,) = loader(tmp_path, batch_size=5)
    assert batch.labels.tolist() == [-1] * 5


def test_batches_stay_as_they_were(folder: Path) -> None:
    """Each is the receiver's own: later batches do not change it, and changing it changes no later one."""
    first, second = (samples(epoch) for epoch in passes(loader(folder), 2))
    batches = loader(folder, prefetch=2)
    kept = []
    for batch in batches:
        kept.append(batch)
        copy = Batch([view.clone() for view in batch.views], batch.labels, batch.ids, batch.epoch, batch.step)
        kept.append(copy)
    assert samples(kept[::2]) == samples(kept[1::2]) == first
    for batch in kept[::2]:
        for view in batch.views:
            view.fill_(0)
    assert samples(batches) == second
    kept = kept[::2]
    addresses = [view.data_ptr() for batch in kept for view in batch.views]
    assert len(set(addresses)) == len(addresses)


# In which order


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("prefetch", [1, 5])
def test_threads_and_prefetch_change_nothing(folder: Path, threads: int, prefetch: int) -> None:
    reference = samples(islice(endless(loader(folder, threads=2)), 12))
    assert samples(islice(endless(loader(folder, threads=threads, prefetch=prefetch)), 12)) == reference


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_ranks_concatenate_to_one_process(folder: Path, world_size: int, drop_last: bool) -> None:
    settings = {"drop_last": drop_last, "epochs": 2, "threads": 1}
    whole = [list(epoch) for epoch in passes(loader(folder, **settings), 2)]
    ranks = [
        [list(epoch) for epoch in passes(loader(folder, rank=r, world_size=world_size, **settings), 2)]
        for r in range(world_size)
    ]
    for epoch in range(2):
        for step, batch in enumerate(whole[epoch]):
            parts = [ranks[r][epoch][step] for r in range(world_size)]
            assert samples(parts) == samples([batch])
            sizes = [len(part.ids) for part in parts]
            assert max(sizes) - min(sizes) <= 1


def test_storage_changes_nothing(folder: Path, archive: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "shards", shard_bytes=1 << 16, min_shards=3)
    reference = samples(loader(folder))
    assert samples(loader(archive)) == reference
    assert samples(loader(tmp_path / "shards")) == reference
    assert samples(loader(tmp_path / "shards" / "barlow.index")) == reference


@pytest.mark.parametrize(("drop_last", "steps", "last"), [(True, 5, 8), (False, 6, 6)])
def test_epochs_are_different_permutations(folder: Path, drop_last: bool, steps: int, last: int) -> None:
    batches = loader(folder, drop_last=drop_last)
    assert len(batches) == steps
    orders = []
    for epoch in range(3):
        seen = list(batches)
        assert [(batch.epoch, batch.step) for batch in seen] == [(epoch, step) for step in range(steps)]
        assert len(seen[-1].ids) == last
        ids = torch.cat([batch.ids for batch in seen]).tolist()
        assert len(set(ids)) == len(ids)
        assert set(ids) <= set(range(NUM_IMAGES))
        assert len(ids) == (NUM_IMAGES if not drop_last else steps * 8)
        orders.append(ids)
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_without_shuffle_the_order_is_the_index(folder: Path) -> None:
    batches = loader(folder, shuffle=False, drop_last=False)
    for _ in range(2):
        assert torch.cat([batch.ids for batch in batches]).tolist() == list(range(NUM_IMAGES))


def test_epochs_end_the_stream(folder: Path) -> None:
    batches = loader(folder, epochs=2)
    assert [len(list(batches)) for _ in range(4)] == [5, 5, 0, 0]
    assert batches.state_dict() == {"epoch": 2, "step": 0}


# Position


def test_resume_anywhere_also_in_another_world(folder: Path) -> None:
    straight = loader(folder, drop_last=False)
    reference = {(b.epoch, b.step): samples([b]) for _ in range(4) for b in straight}
    dice = random.Random(0)
    for _ in range(20):
        epoch, step = dice.randrange(3), dice.randrange(len(straight))
        world_size = dice.choice([1, 2, 4])
        parts = []
        for rank in range(world_size):
            resumed = loader(folder, drop_last=False, rank=rank, world_size=world_size, threads=1)
            resumed.load_state_dict({"epoch": epoch, "step": step})
            parts.append(list(islice(endless(resumed), 3)))
        for step_parts in zip(*parts, strict=True):
            place = (step_parts[0].epoch, step_parts[0].step)
            assert samples(step_parts) == reference[place]


def test_state_is_the_position_of_the_next_batch(folder: Path) -> None:
    batches = loader(folder)
    assert batches.state_dict() == {"epoch": 0, "step": 0}
    states = [batches.state_dict() for _ in batches]
    assert states == [{"epoch": 0, "step": step} for step in range(1, 5)] + [{"epoch": 1, "step": 0}]
    for batch in batches:
        if batch.step == 2:
            break
    assert batches.state_dict() == {"epoch": 1, "step": 3}
    assert [(batch.epoch, batch.step) for batch in batches] == [(1, 3), (1, 4)]


def test_a_position_loaded_in_the_middle_of_a_pass_holds_at_once(folder: Path) -> None:
    batches = loader(folder)
    places = []
    for batch in batches:
        places.append((batch.epoch, batch.step))
        if places == [(0, 0), (0, 1)]:
            batches.load_state_dict({"epoch": 7, "step": 3})
    assert places == [(0, 0), (0, 1), (7, 3), (7, 4)]


# What is seen from outside


def test_stats_count_what_happened(folder: Path) -> None:
    index = open_index(folder)
    batches = loader(index, drop_last=False, epochs=1)
    fresh = batches.stats()
    assert (fresh.images, fresh.bytes, fresh.threads_s, str(fresh)) == (0, 0, 0, "nothing was loaded yet")
    seen = sum(len(batch.ids) for batch in batches)
    stats = batches.stats()
    assert seen == stats["images"] == NUM_IMAGES
    assert stats["bytes"] == sum(len(index.read(i)) for i in range(NUM_IMAGES))
    assert all(stats[name] > 0 for name in ["read_s", "decode_s", "augment_s", "waited_s"])
    assert (stats["threads"], stats["lent"], stats["finished"]) == (2, 0, 0)
    batches.load_state_dict({"epoch": 0, "step": 5})
    assert batches.stats()["images"] == NUM_IMAGES
    list(batches)
    assert batches.stats()["images"] == NUM_IMAGES + 6


def test_a_scan_in_memory_says_so(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "barlow.data"):
        loader(folder)
    assert f"scanned {NUM_IMAGES} images" in caplog.text
    assert str(folder) in caplog.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pinned_batches_are_pinned_and_the_same(folder: Path) -> None:
    pinned = list(loader(folder, pin_memory=True))
    assert all(view.is_pinned() for batch in pinned for view in batch.views)
    assert samples(pinned) == samples(loader(folder))
