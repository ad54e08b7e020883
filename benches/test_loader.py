"""Two official views of each image: our loader against the paper's pipeline on the same cores.

The rounds of both are interleaved, so that a machine that slows down slows both. Images: the first argument
that exists of the environment variable BARLOW_IMAGES (a tar of class folders) and ../shared/data beside the
checkout; without either the benchmark skips.
"""

from __future__ import annotations

import os
import random
import statistics
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image, ImageFilter, ImageOps
from pytest_benchmark.fixture import BenchmarkFixture
from torch.utils.data import DataLoader, Subset
from torchvision import datasets
from torchvision import transforms as T

from barlow.config import IMAGENET_MEAN, IMAGENET_STD
from barlow.data import Index, Loader, to_float, views

ROUNDS = 5
# Small batches, so that any number of workers gets even shares of a round.
BATCH_SIZE = 32
NUM_IMAGES = 24 * BATCH_SIZE
SIZE_PX = 224
CORES = len(os.sched_getaffinity(0))

Pipeline = Callable[[], int]


def _archive() -> Path | None:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "imagenet-sample.tar"
    for path in (Path(os.environ.get("BARLOW_IMAGES", "/nonexistent")), beside):
        if path.exists():
            return path
    return None


class _GaussianBlur:
    """The official code's blur: Pillow's, sigma uniform in [0.1, 2]."""

    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, image: Image.Image) -> Image.Image:
        if random.random() >= self.p:
            return image
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


class _Solarize:
    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, image: Image.Image) -> Image.Image:
        return ImageOps.solarize(image) if random.random() < self.p else image


def _official_view(blur_p: float, solarize_p: float) -> T.Compose:
    return T.Compose(
        [
            T.RandomResizedCrop(SIZE_PX, interpolation=T.InterpolationMode.BICUBIC),
            T.RandomHorizontalFlip(0.5),
            T.RandomApply([T.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
            T.RandomGrayscale(0.2),
            _GaussianBlur(blur_p),
            _Solarize(solarize_p),
            T.ToTensor(),
            T.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


class _TwoViews:
    def __init__(self) -> None:
        self.first, self.second = _official_view(1.0, 0.0), _official_view(0.1, 0.2)

    def __call__(self, image: Image.Image) -> tuple[Any, Any]:
        return self.first(image), self.second(image)


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pipeline]:
    """Each makes both views of `NUM_IMAGES` images as normalised float32 and returns how many.

    A round ends with nothing prepared ahead: what runs in the background would be timed with the other.
    """
    archive = _archive()
    if archive is None:
        pytest.skip("no images: set BARLOW_IMAGES to a tar of class folders")
    folder = tmp_path_factory.mktemp("images")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    dataset = Subset(datasets.ImageFolder(str(folder), _TwoViews()), range(NUM_IMAGES))
    official = DataLoader(dataset, BATCH_SIZE, shuffle=True, num_workers=CORES, persistent_workers=True)
    index = Index.scan(archive).subset(range(NUM_IMAGES))

    def run_official() -> int:
        count = 0
        for (x1, x2), _labels in official:
            assert x1.shape == x2.shape == (BATCH_SIZE, 3, SIZE_PX, SIZE_PX)
            count += len(x1)
        return count

    def run_ours() -> int:
        count = 0
        with Loader(index, views=views.barlow_twins(SIZE_PX), batch_size=BATCH_SIZE, epochs=1) as ours:
            for batch in ours:
                x1, x2 = to_float(batch.views, IMAGENET_MEAN, IMAGENET_STD)
                assert x1.shape == x2.shape == (BATCH_SIZE, 3, SIZE_PX, SIZE_PX)
                count += len(x1)
        return count

    return {"official": run_official, "barlow": run_ours}


@pytest.fixture(scope="module")
def rates() -> Iterator[dict[str, list[float]]]:
    """Images per second of every round; printed as a table at the end."""
    measured: dict[str, list[float]] = {"official": [], "barlow": []}
    yield measured
    if not all(measured.values()):
        return
    base = statistics.median(measured["official"])
    print(f"\n\nimages/s, both views at {SIZE_PX} px, {CORES} cores, median [min-max] of {ROUNDS} rounds")
    for name, values in measured.items():
        middle = statistics.median(values)
        print(f"  {name:10}{middle:8.0f} [{min(values):.0f}-{max(values):.0f}]  x {middle / base:.2f}")


@pytest.mark.parametrize("name", ["official", "barlow"])  # changes fastest
@pytest.mark.parametrize("turn", range(ROUNDS + 1))
def test_two_official_views(
    benchmark: BenchmarkFixture,
    pipelines: dict[str, Pipeline],
    rates: dict[str, list[float]],
    turn: int,
    name: str,
) -> None:
    benchmark.group = "warm-up" if turn == 0 else "two official views"
    count = benchmark.pedantic(pipelines[name], rounds=1, iterations=1)
    assert count == NUM_IMAGES
    assert benchmark.stats is not None
    per_second = count / cast("float", benchmark.stats.stats.mean)
    benchmark.extra_info["images_per_s"] = per_second
    if turn > 0:
        rates[name].append(per_second)
