"""Decoding on one core: libjpeg-turbo alone, the same with Huffman codes read by our decoder, and only what
two official views need of an image, large ones at a fraction of their size or not.

Rounds alternate. Images (bench_images.py) are packed, so that their index knows them to be whole; the
large ones are those above a megapixel among them. Times are those of the decoding stage, not of the views.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bench_images import source
from pytest_benchmark.fixture import BenchmarkFixture

from barlow.data import Index, Loader, decode, open_index, pack, views

ROUNDS = 5
MOST_IMAGES = 256
MEGAPIXEL = 1_000_000
GROUPS = ("all", "large")
NAMES = ("libjpeg-turbo", "whole", "for two views", "for two views, shrunk")
Lane = Callable[[int], float]


@pytest.fixture(scope="module")
def indices(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Index]:
    found = source()
    if found is None:
        pytest.skip("no images: set BARLOW_IMAGES to shards, a tar or a folder of images")
    folder = tmp_path_factory.mktemp("decode")
    pack(found, folder / "packed")
    whole = open_index(next(folder.rglob("barlow.index")))
    if whole.recoded().size:
        pytest.skip("the images are recoded: unpack them")
    count = min(len(whole), MOST_IMAGES)
    some = [i * len(whole) // count for i in range(count)]
    large = [i for i in range(len(whole)) if whole.shape(i)[0] * whole.shape(i)[1] > MEGAPIXEL]
    return {"all": whole.subset(some), "large": whole.subset(large[:MOST_IMAGES])}


def _lane(name: str, index: Index, folder: Path) -> Lane:
    """A round in seconds of decoding; its argument is the epoch, which the views depend on."""
    if name in ("libjpeg-turbo", "whole"):
        encoded = [index.read(i) for i in range(len(index))]

        def bare(_: int) -> float:
            start = time.perf_counter()
            for data in encoded:
                decode(data, library_codes=name == "libjpeg-turbo")
            return time.perf_counter() - start

        return bare
    path = index.write(folder / f"{name}.index")

    def stage(turn: int) -> float:
        shrink = name.endswith("shrunk")
        recipe = views.barlow_twins(224)
        with Loader(path, views=recipe, batch_size=8, seed=turn, threads=1, epochs=1, drop_last=False,
                    shrink_on_load=shrink) as loader:  # fmt: skip
            for _ in loader:
                pass
            return loader.stats().decode_s

    return stage


@pytest.fixture(scope="module")
def lanes(indices: dict[str, Index], tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Lane]:
    made = {}
    for group, index in indices.items():
        folder = tmp_path_factory.mktemp(group)
        made.update({(group, name): _lane(name, index, folder) for name in NAMES if len(index)})
    return made


@pytest.fixture(scope="module")
def milliseconds(indices: dict[str, Index]) -> Iterator[dict[tuple[str, str], list[float]]]:
    """Of an image, by group and name, for every round; printed as a table at the end."""
    measured: dict[tuple[str, str], list[float]] = {}
    yield measured
    for group, index in indices.items():
        print(f"\n\n{group}: {len(index)} images, ms of decoding an image, median [min-max]")
        for name in NAMES:
            if values := measured.get((group, name)):
                middle = statistics.median(values)
                ratio = statistics.median(measured[group, NAMES[0]]) / middle
                print(f"  {name:24}{middle:8.3f} [{min(values):.3f}-{max(values):.3f}]  x {ratio:.2f}")


@pytest.mark.parametrize("name", NAMES)  # changes fastest
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("turn", range(ROUNDS + 1))
def test_decoding(
    benchmark: BenchmarkFixture,
    indices: dict[str, Index],
    lanes: dict[tuple[str, str], Lane],
    milliseconds: dict[tuple[str, str], list[float]],
    turn: int,
    group: str,
    name: str,
) -> None:
    if (group, name) not in lanes:
        pytest.skip("no image is that large")
    benchmark.group = "warm-up" if turn == 0 else f"decoding: {group}"
    seconds = benchmark.pedantic(lanes[group, name], args=(turn,), rounds=1, iterations=1)
    if turn > 0:
        milliseconds.setdefault((group, name), []).append(1e3 * seconds / len(indices[group]))
