"""A thousand augmented samples, pinned: their order, ids, labels and every pixel of both official views.

The value was computed by tests/golden.py, that is by plain Python, Pillow and torchvision and not by barlow.
A change that makes these tests red changes what every past run saw. If that is meant, then raise the VERSION
in rust/data/src/order.rs or augment.rs and add a line to GOLDEN; no line of it is ever edited.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

import golden
import plain_pixels
from barlow import _native as native
from barlow.data import Batch, Loader, apply, decode, draw, open_index, pack, simd, views
from golden import BATCH_SIZE, EPOCHS, NUM_IMAGES, SEED, SIZE, Sample, digest
from photos import write_tar
from plain_draws import official

GOLDEN = {(1, 1): "d2ea4371fb224d4922f96a681ce8601ec1ed36565d7cc39606387421ce974807"}
"""By the versions of order and views."""

EXPECTED = GOLDEN.get((native.ORDER_VERSION, native.VIEWS_VERSION), "no line of GOLDEN for these versions")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return golden.write(tmp_path_factory.mktemp("golden"))


def samples(batches: Iterable[Batch]) -> Iterator[Sample]:
    for batch in batches:
        for row, (sample, label) in enumerate(zip(batch.ids.tolist(), batch.labels.tolist(), strict=True)):
            yield Sample(batch.epoch, batch.step, sample, label, [view[row].numpy() for view in batch.views])


def epochs_of(source: Path, threads: int) -> Loader:
    return Loader(
        source,
        views=views.barlow_twins(SIZE),
        batch_size=BATCH_SIZE,
        seed=SEED,
        threads=threads,
        drop_last=False,
        epochs=EPOCHS,
        prefetch=1 + threads,
    )


def stored(folder: Path, storage: str, tmp_path: Path) -> Path:
    if storage == "tar":
        return write_tar(folder, tmp_path / "golden.tar")
    if storage == "shards":
        done = pack(folder, tmp_path / "shards", shard_bytes=1 << 18, min_shards=3, threads=1)
        assert done["shards"] >= 3
        return tmp_path / "shards"
    return folder


# Three kinds of storage and three numbers of threads in three runs; test_same_batches.py has all pairs.
@pytest.mark.parametrize(("storage", "threads"), [("folder", 1), ("tar", 2), ("shards", 4)])
def test_the_loader_gives_the_golden_samples(
    storage: str, threads: int, folder: Path, tmp_path: Path
) -> None:
    source = stored(folder, storage, tmp_path)
    with epochs_of(source, threads) as batches:
        assert digest(samples(batch for _ in range(EPOCHS) for batch in batches)) == EXPECTED


@pytest.mark.parametrize("name", simd())
def test_every_instruction_set_gives_the_golden_samples(name: str, folder: Path) -> None:
    """The same one step at a time, as the loader cannot be told what to run on."""
    index = open_index(folder)
    order = native.Order(NUM_IMAGES, BATCH_SIZE, seed=SEED, drop_last=False)
    images = [decode(index.read(sample)) for sample in range(NUM_IMAGES)]
    labels = index.labels.tolist()

    def one(epoch: int, step: int, sample: int) -> Sample:
        height, width, _ = images[sample].shape
        found = []
        for number, view in enumerate(views.barlow_twins(SIZE)):
            parameters = draw(view, SEED, epoch, sample, number, width, height)
            found.append(apply(images[sample], parameters, simd=name))
        return Sample(epoch, step, sample, labels[sample], found)

    places = [(epoch, step) for epoch in range(EPOCHS) for step in range(order.steps_per_epoch)]
    assert digest(one(*at, sample) for at in places for sample in order.batch(*at).tolist()) == EXPECTED


@pytest.mark.skipif(not plain_pixels.SAME_PASS_ORDER, reason="Pillow before 13 has another order of passes")
def test_the_golden_samples_are_pillow_s(folder: Path) -> None:
    """Ten batches computed anew without barlow; `python tests/golden.py` computes all of them."""
    dice = random.Random(21)
    steps = -(-NUM_IMAGES // BATCH_SIZE)
    for epoch in range(EPOCHS):
        step = dice.randrange(steps)
        with epochs_of(folder, threads=1) as batches:
            batches.load_state_dict({"epoch": epoch, "step": step})
            found = list(samples([next(iter(batches))]))
        places = range(step * BATCH_SIZE, min((step + 1) * BATCH_SIZE, NUM_IMAGES))
        assert len(found) == len(places)
        for sample, place in zip(found, places, strict=True):
            assert digest([sample]) == digest([golden.sample_at(epoch, place)]), (epoch, place)


def test_draws_are_those_of_the_twin() -> None:
    """All that is drawn for both official views, number by number, also where no window fits."""
    dice = random.Random(22)
    fallbacks = 0
    for _ in range(1000):
        width, height = (dice.choice([dice.randint(1, 40), dice.randint(1, 4000)]) for _ in range(2))
        seed, epoch, sample = (dice.randrange(2**bits) for bits in (64, 32, 32))
        for number, (view, plain) in enumerate(zip(views.barlow_twins(64), official(64), strict=True)):
            place = (seed, epoch, sample, number, width, height)
            parameters = draw(view, *place)
            assert parameters == plain.draw(*place), place
            fallbacks += width in parameters["window"] or height in parameters["window"]
    assert fallbacks > 100


def test_the_thousand_samples_show_what_they_should() -> None:
    """All formats, no flat picture, and every operation often enough to be noticed."""
    kinds = {native.peek(golden.file(number))[0] for number in range(NUM_IMAGES)}
    assert kinds == {"jpeg", "png"}
    assert all(np.asarray(golden.picture(number)).std() > 10 for number in range(NUM_IMAGES))
    counts = dict.fromkeys(plain_pixels.OPERATIONS, 0)
    for epoch in range(EPOCHS):
        for sample in range(NUM_IMAGES):
            for number, recipe in enumerate(official(SIZE)):
                size = golden.picture(sample).size
                for step, *_ in recipe.draw(SEED, epoch, sample, number, *size)["operations"]:
                    counts[step] += 1
    assert min(counts.values()) > 150, counts


def test_golden_files_are_barlow_s_and_pillow_s_alike() -> None:
    for number in range(NUM_IMAGES):
        np.testing.assert_array_equal(decode(golden.file(number)), np.asarray(golden.picture(number)))
