"""Two official views of each image: our loader against the paper's pipeline on the same cores.

The pipelines are those of `barlow bench loader`, which compares more of them; here they are rounds for
pytest-benchmark, interleaved, so that a machine that slows down slows both. Images: see bench_images.py.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator

import pytest
from bench_images import source
from pytest_benchmark.fixture import BenchmarkFixture

from barlow.bench import Settings, contest, images
from barlow.bench.lanes import Lane

ROUNDS = 5
NAMES = ("official", "barlow")
CORES = len(os.sched_getaffinity(0))
# Small batches, so that any number of workers gets even shares of a round.
SETTINGS = Settings(images=768, batch_size=32)


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Lane]]:
    found = source()
    if found is None:
        pytest.skip("no images: set BARLOW_IMAGES to shards, a tar or a folder of images")
    folder = tmp_path_factory.mktemp("bench") / "images"
    chosen = images.prepare(found, SETTINGS.images, SETTINGS.batch_size, folder, threads=CORES)
    started = {name: Lane(contest.job(name, "float32", chosen, SETTINGS, CORES)) for name in NAMES}
    try:
        for lane in started.values():
            lane.start()
        yield started
    finally:
        for lane in started.values():
            lane.close()


@pytest.fixture(scope="module")
def rates() -> Iterator[dict[str, list[float]]]:
    """Images per second of every round; printed as a table at the end."""
    measured: dict[str, list[float]] = {name: [] for name in NAMES}
    yield measured
    if not all(measured.values()):
        return
    base = statistics.median(measured["official"])
    print(f"\n\nimages/s, both views, {CORES} cores, median [min-max] of {ROUNDS} rounds")
    for name, values in measured.items():
        middle = statistics.median(values)
        print(f"  {name:10}{middle:8.0f} [{min(values):.0f}-{max(values):.0f}]  x {middle / base:.2f}")


@pytest.mark.parametrize("name", NAMES)  # changes fastest
@pytest.mark.parametrize("turn", range(ROUNDS + 1))
def test_two_official_views(
    benchmark: BenchmarkFixture, lanes: dict[str, Lane], rates: dict[str, list[float]], turn: int, name: str
) -> None:
    benchmark.group = "warm-up" if turn == 0 else "two official views"
    answer = benchmark.pedantic(lanes[name].round, args=(turn,), rounds=1, iterations=1)
    assert answer["images"] > 0
    benchmark.extra_info["images_per_s"] = answer["images"] / answer["seconds"]
    if turn > 0:
        rates[name].append(answer["images"] / answer["seconds"])
