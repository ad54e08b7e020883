"""What a loader says of itself: each number against one that is measured or counted from outside."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import pytest

from barlow.data import Stats, decode, open_index, views
from barlow.data.stats import STAGES, stats_of
from photos import NUM_IMAGES, loader, photo, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("large")
    for i in range(24):
        photo(i, 600, 800).save(root / f"{i}.jpg")
    return root


def test_every_stage_counts_its_images_and_bytes(folder: Path) -> None:
    index = open_index(folder)
    batches = loader(index, drop_last=False, epochs=1, threads=2)
    list(batches)
    stats = batches.stats()
    assert tuple(stats.stages) == STAGES
    assert {stage.images for stage in stats.stages.values()} == {NUM_IMAGES}
    encoded = sum(len(index.read(i)) for i in range(NUM_IMAGES))
    decoded = sum(decode(index.read(i)).nbytes for i in range(NUM_IMAGES))
    of_views = NUM_IMAGES * 2 * 3 * 24 * 24
    read, pixels, augmented, delivered = (stage.bytes for stage in stats.stages.values())
    assert (read, augmented, delivered) == (encoded, of_views, of_views)
    # What no view looks at does not become pixels.
    assert decoded / 4 < pixels < decoded
    for stage in stats.stages.values():
        assert stage.images_per_s == pytest.approx(stage.images / stage.busy_s)
        assert 0 < stage.p50_ms <= stage.p99_ms
        assert 0 < stage.occupancy < 1
    assert json.loads(json.dumps(dataclasses.asdict(stats)))["stages"]["read"]["bytes"] == encoded


def test_the_shares_of_time_add_up(large: Path) -> None:
    batches = loader(large, views=views.barlow_twins(64), batch_size=4, threads=2, epochs=1)
    start = time.monotonic()
    for _ in batches:
        time.sleep(0.01)
    elapsed_s = time.monotonic() - start
    batches.close()
    stats = batches.stats()
    assert stats.consumer_s == pytest.approx(elapsed_s, rel=0.1, abs=0.02)
    assert stats.threads_s == pytest.approx(2 * elapsed_s, rel=0.1, abs=0.04)
    work = sum(stats.stages[name].busy_s for name in STAGES[:3])
    assert work + stats.idle_s == pytest.approx(stats.threads_s, rel=1e-3)
    assert sum(stats.stages[name].occupancy for name in STAGES[:3]) <= 1
    outside_s = stats.consumer_s - stats.waited_s - stats.stages["deliver"].busy_s
    assert outside_s >= 6 * 0.01
    # Nothing runs any more, so nothing counts any more.
    time.sleep(0.02)
    assert batches.stats() == stats


def test_latencies_are_those_of_one_image(large: Path) -> None:
    """Images of one size on one thread: the median is of the order of the mean, whatever runs beside it."""
    batches = loader(large, views=views.barlow_twins(64), batch_size=4, threads=1, epochs=1)
    list(batches)
    for name in ("decode", "augment"):
        stage = batches.stats().stages[name]
        mean_ms = 1e3 * stage.busy_s / stage.images
        assert 0.05 * mean_ms < stage.p50_ms < 3 * mean_ms, name
        assert stage.p99_ms < 1e3 * stage.busy_s


def test_the_line_says_who_waits_and_what_limits(large: Path) -> None:
    slow_loader = loader(large, views=views.evaluation(8, 8), batch_size=4, threads=1, epochs=1)
    list(slow_loader)
    stats = slow_loader.stats()
    assert stats.waited_s / stats.consumer_s > 0.5
    assert stats.line.startswith("decode limits: the consumer waits ")
    assert str(stats) == stats.line

    slow_consumer = loader(large, views=views.evaluation(8, 8), batch_size=4, threads=1, epochs=1)
    for _ in slow_consumer:
        time.sleep(0.15)
    stats = slow_consumer.stats()
    assert stats.idle_s / stats.threads_s > 0.5
    assert stats.line.startswith("the consumer limits: it waits ")
    assert ", idle " in stats.line


def test_totals_go_on_from_stream_to_stream(folder: Path) -> None:
    batches = loader(folder, epochs=3)
    list(batches)
    before = batches.stats()
    batches.load_state_dict({"epoch": 1, "step": 4})
    list(batches)
    after = batches.stats()
    assert after.images == before.images + 8
    for name in STAGES:
        assert after.stages[name].busy_s > before.stages[name].busy_s
        assert after.stages[name].images >= before.stages[name].images + 8


def test_known_totals_give_known_numbers() -> None:
    stage = {"busy_s": 2.0, "count": 100, "bytes": 5000, "p50_s": 0.015, "p99_s": 0.05}
    raw = {
        "images": 90, "replaced": 1, "threads": 2, "threads_s": 10.0, "idle_s": 3.0, "consumer_s": 5.0,
        "waited_s": 2.0, **dict.fromkeys(STAGES, stage), "read": {**stage, "busy_s": 3.0},
    }  # fmt: skip
    stats = stats_of(raw, lent=3, finished=1, running=True, image_bytes=7)
    read, deliver = stats.stages["read"], stats.stages["deliver"]
    assert (read.occupancy, read.images_per_s, read.p50_ms, read.p99_ms) == (0.3, 100 / 3, 15.0, 50.0)
    assert (deliver.images, deliver.bytes, deliver.occupancy, deliver.images_per_s) == (90, 630, 0.4, 45.0)
    assert stats.line == (
        "read limits: the consumer waits 40% of its time; "
        "threads: read 30%, decode 20%, augment 20%, idle 30%"
    )
    assert stats["waited_s"] == stats.waited_s == 2.0
    assert isinstance(stats, Stats)
