"""Damaged samples: replaced as a pure function of integers, counted, capped, listed; never shown."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from barlow.data import DataError, Index, apply, decode, draw, pack
from photos import NUM_IMAGES, TWO_VIEWS, endless, loader, passes, photo, samples, write_folder, write_tar
from plain_draws import WORD, philox

SEED = 5
FLIPPED = (2, 7, 30)
"""Samples whose bytes change after they were indexed."""
TRUNCATED = (11, 26)
"""Samples whose headers are whole, so that only decoding finds out."""
DAMAGED = {*FLIPPED, *TRUNCATED}
POISON = 0xAB


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Index:
    root = tmp_path_factory.mktemp("damaged")
    folder = write_folder(root)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for number in TRUNCATED:
        # Cut in the middle, which a lenient decoder fills with grey.
        files[number].write_bytes(files[number].read_bytes()[: files[number].stat().st_size * 6 // 10])
    index = Index.scan(write_tar(folder, root / "photos.tar"))
    with tarfile.open(root / "photos.tar") as tar:
        members = [tar.getmember(index.name(number)) for number in FLIPPED]
    with (root / "photos.tar").open("r+b") as file:
        for member in members:
            file.seek(member.offset_data + member.size // 2)
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ 0x40]))
    return index


def stand_ins(epoch: int, sample: int, num_samples: int = NUM_IMAGES) -> Iterator[int]:
    """The published rule: words of Philox at (block, 2**32 - 1, sample, epoch), each turned into one of the
    others by Lemire's multiplication."""
    others = num_samples - 1
    for block in range(100):
        for word in philox([block, WORD, sample, epoch], [SEED, 0]):
            product = word * others
            if product & WORD >= (2**32 - others) % others:
                other = product >> 32
                yield other + (other >= sample)


def stand_in(epoch: int, sample: int) -> int:
    return next(other for other in stand_ins(epoch, sample) if other not in DAMAGED)


def test_a_damaged_sample_is_replaced_by_a_function_of_seed_epoch_and_sample(damaged: Index) -> None:
    plain = loader(damaged, on_error="replace", max_replaced=1, drop_last=False)
    order = plain._order
    seen = []
    for batch in islice(endless(plain), 3 * len(plain)):
        wanted = order.batch(batch.epoch, batch.step).tolist()
        for row, (sample, found) in enumerate(zip(wanted, batch.ids.tolist(), strict=True)):
            expected = stand_in(batch.epoch, sample) if sample in DAMAGED else sample
            assert found == expected, (batch.epoch, sample)
            assert batch.labels[row] == damaged.labels[expected]
            image = decode(damaged.read(expected))
            for v, view in enumerate(TWO_VIEWS):
                parameters = draw(view, SEED, batch.epoch, sample, v, image.shape[1], image.shape[0])
                assert np.array_equal(batch.views[v][row].numpy(), apply(image, parameters)), (sample, v)
            seen.append(sample in DAMAGED)
    assert sum(seen) == 3 * len(DAMAGED) == plain.stats().replaced
    assert len(seen) == 3 * NUM_IMAGES


@pytest.mark.parametrize(("threads", "prefetch"), [(1, 1), (4, 5)])
def test_threads_world_and_resumption_do_not_matter(damaged: Index, threads: int, prefetch: int) -> None:
    settings = {"on_error": "replace", "max_replaced": 1, "epochs": 2}
    reference = [samples(epoch) for epoch in passes(loader(damaged, **settings), 2)]
    other = loader(damaged, **settings, threads=threads, prefetch=prefetch)
    assert [samples(epoch) for epoch in passes(other, 2)] == reference
    ranks = [loader(damaged, **settings, rank=rank, world_size=4, threads=1) for rank in range(4)]
    for expected in reference:
        together = [samples(parts) for parts in zip(*ranks, strict=True)]
        assert [row for batch in together for row in batch] == expected
    resumed = loader(damaged, **settings)
    resumed.load_state_dict({"epoch": 1, "step": 3})
    assert samples(resumed) == reference[1][24:]


def test_no_row_keeps_what_the_memory_held_before(damaged: Index) -> None:
    batches = loader(damaged, on_error="replace", max_replaced=1)
    reference = [
        row for epoch in passes(loader(damaged, on_error="replace", max_replaced=1), 2) for row in epoch
    ]
    stream = batches._start()
    for expected in reference:
        views = [np.full((8, 3, 24, 24), POISON, np.uint8) for _ in TWO_VIEWS]
        labels, ids = (np.full(8, -(2**40), np.int64) for _ in range(2))
        stream.lend(views, labels, ids)
        assert stream.take(60.0) is not None
        assert ids.tolist() == expected.ids.tolist()
        assert labels.tolist() == expected.labels.tolist()
        for view, whole in zip(views, expected.views, strict=True):
            assert np.array_equal(view, whole.numpy())
            # No photo of ours has a row of pixels of one value, let alone of this one.
            assert not (view == POISON).all(axis=3).any()
    batches.close()


def test_damage_is_listed_once_with_its_address(damaged: Index, caplog: pytest.LogCaptureFixture) -> None:
    batches = loader(damaged, on_error="replace", max_replaced=1, drop_last=False)
    assert batches.damaged == []
    with caplog.at_level("WARNING", "barlow.data"):
        for _ in range(2):
            list(batches)
    listed = dict(batches.damaged)
    assert listed.keys() == DAMAGED
    assert len(caplog.records) == len(DAMAGED)
    for sample, error in listed.items():
        assert isinstance(error, DataError)
        assert error.kind == ("checksum" if sample in FLIPPED else "image")
        assert error.shard == str(damaged.shard(sample))
        assert error.member == damaged.name(sample)
        assert error.offset is not None
        assert any(text.startswith(f"sample {sample} ") and str(error) in text for text in caplog.messages)


def test_the_default_raises(damaged: Index) -> None:
    with pytest.raises(DataError, match="checksum"):
        list(loader(damaged))


# The bound


def steps_until_too_many(damaged: Index, at_most: int, epoch: int) -> int | None:
    order = loader(damaged)._order
    count = 0
    for step in range(order.steps_per_epoch):
        count += sum(sample in DAMAGED for sample in order.batch(epoch, step).tolist())
        if count > at_most:
            return step
    return None


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("threads", [1, 4])
def test_more_than_the_bound_is_an_error_that_stays(damaged: Index, threads: int, epoch: int) -> None:
    at_most = 2  # of 40 samples an epoch
    batches = loader(damaged, on_error="replace", max_replaced=at_most / 40, threads=threads)
    batches.load_state_dict({"epoch": epoch, "step": 0})
    step = steps_until_too_many(damaged, at_most, epoch)
    assert step is not None
    for _ in range(3):  # trying again changes nothing
        with pytest.raises(DataError, match=r"\(max_replaced\) is \d, the limit is 2") as caught:
            list(batches)
        assert batches.state_dict() == {"epoch": epoch, "step": step}
        error = caught.value
        assert error.kind == "limit"
        assert error.member in {damaged.name(sample) for sample in DAMAGED}
        assert error.shard == str(damaged.shard(0))
    assert batches.stats().replaced <= at_most


def test_the_bound_is_for_each_epoch(damaged: Index) -> None:
    batches = loader(damaged, on_error="replace", max_replaced=5 / 40)
    for _ in range(4):
        list(batches)
    assert batches.stats().replaced > 5
    assert batches.state_dict() == {"epoch": 4, "step": 0}


def test_the_bound_is_rounded_up_and_zero_is_zero(damaged: Index) -> None:
    one = damaged.subset([0, 1, 2, *range(12, 26)])  # one damaged of 17
    assert len(list(loader(one, on_error="replace", drop_last=False))) == 3
    with pytest.raises(DataError, match="the limit is 0"):
        list(loader(one, on_error="replace", drop_last=False, max_replaced=0))


def test_where_all_are_damaged_there_is_an_end(damaged: Index) -> None:
    bad = damaged.subset(sorted(DAMAGED))
    with pytest.raises(DataError, match="10 samples drawn to replace it are damaged too") as caught:
        list(loader(bad, batch_size=2, on_error="replace", max_replaced=1))
    assert caught.value.member in {bad.name(i) for i in range(len(bad))}
    lonely = damaged.subset([FLIPPED[0]])
    with pytest.raises(DataError, match="0 samples drawn to replace it"):
        list(loader(lonely, batch_size=1, on_error="replace", max_replaced=1))


# What is no sample's fault


def test_a_missing_and_a_changed_shard_are_errors_always(tmp_path: Path) -> None:
    for i in range(8):
        photo(i, 40, 40).save(tmp_path / f"{i}.jpg")
    pack(tmp_path, tmp_path / "shards", min_shards=2)
    batches = loader(tmp_path / "shards", batch_size=2, on_error="replace", max_replaced=1, shuffle=False)
    shard = Path(batches.index.shard(0))
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(DataError, match="index it again") as caught:
        list(batches)
    assert caught.value.kind == "index"
    shard.unlink()
    with pytest.raises(DataError, match="No such file") as caught:
        list(batches)
    assert caught.value.kind == "io"
    shard.write_bytes(content)
    assert torch.cat([batch.ids for batch in batches]).tolist() == list(range(8))
    assert batches.damaged == []


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("on_error", {"on_error": "skip"}),
        ("max_replaced", {"max_replaced": 1.5}),
        ("max_replaced", {"max_replaced": float("nan")}),
        ("stall_after", {"stall_after": 0}),
    ],
)
def test_a_bad_setting_is_named(damaged: Index, name: str, settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=name):
        loader(damaged, **settings)
