"""The recipes against the papers: what is drawn 100,000 times for each, beside torchvision's own draws.

EXPECTED is written from the papers and the authors' public code (named in barlow/data/views/recipes.py), not
from ours. A right recipe passes every statistical bound in all but one of a million cases.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision import transforms

from barlow.config import DataConfig, from_json
from barlow.data import draw, views
from commands import TINY, barlow, make_images

NUM_DRAWS = 100_000
NUM_THEIRS = 25_000  # windows of torchvision, where our 100,000 are compared with fewer of its
WIDTH, HEIGHT = 500, 375
SIGMAS = 5  # of a binomial count: exceeded twice in 3.5 million

Steps = dict[str, Any]
BYOL: Steps = {"flip": 0.5, "jitter": (0.4, 0.4, 0.2, 0.1, 0.8), "grayscale": 0.2}
SIMCLR: Steps = {"flip": 0.5, "jitter": (0.8, 0.8, 0.8, 0.2, 0.8), "grayscale": 0.2, "blur": 0.5}
MOCO: Steps = {"jitter": (0.4, 0.4, 0.4, 0.1, 0.8), "grayscale": 0.2, "blur": 0.5, "flip": 0.5}
TWINS = [
    (1, 224, (0.08, 1.0), "bicubic", {**BYOL, "blur": 1.0, "solarize": 0.0}),
    (1, 224, (0.08, 1.0), "bicubic", {**BYOL, "blur": 0.1, "solarize": 0.2}),
]
EXPECTED: dict[str, list[tuple[int, int, tuple[float, float], str, Steps]]] = {
    "barlow_twins": TWINS,
    "byol": TWINS,
    "simclr": [(2, 224, (0.08, 1.0), "bicubic", SIMCLR)],
    "moco_v2": [(2, 224, (0.2, 1.0), "bilinear", MOCO)],
    "vicreg": [(2, 224, (0.08, 1.0), "bicubic", {**BYOL, "blur": 0.5, "solarize": 0.1})],
    "dino": [
        (1, 224, (0.4, 1.0), "bicubic", {**BYOL, "blur": 1.0}),
        (1, 224, (0.4, 1.0), "bicubic", {**BYOL, "blur": 0.1, "solarize": 0.2}),
        (8, 96, (0.05, 0.4), "bicubic", {**BYOL, "blur": 0.5}),
    ],
    "swav": [
        (2, 224, (0.14, 1.0), "bilinear", SIMCLR),
        (6, 96, (0.05, 0.14), "bilinear", SIMCLR),
    ],
    "mae": [(1, 224, (0.2, 1.0), "bicubic", {"flip": 0.5})],
    "linear_probe": [(1, 224, (0.08, 1.0), "bilinear", {"flip": 0.5})],
}
"""Of each recipe, in order: how many views, their size, area, filter, and the steps with their numbers."""

CASES = [
    pytest.param(name, number, id=f"{name}-{number}")
    for name, kinds in EXPECTED.items()
    for number in range(len(kinds))
]
JITTER = ("brightness", "contrast", "saturation", "hue")


def kinds_of(recipe: list[views.View]) -> list[tuple[int, views.View]]:
    """The different views of a recipe and how many there are of each in a row."""
    found: list[tuple[int, views.View]] = []
    for view in recipe:
        if found and found[-1][1] == view:
            found[-1] = (found[-1][0] + 1, view)
        else:
            found.append((1, view))
    return found


@dataclass
class Seen:
    """What 100,000 draws of some operations were."""

    counts: Counter[str] = field(default_factory=Counter)
    orders: set[tuple[str, ...]] = field(default_factory=set)
    values: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


@cache
def seen(operations: tuple[views.Operation, ...]) -> Seen:
    found = Seen()
    # The crop has a stream of draws of its own: any will do.
    view = views.View(views.RandomResizedCrop(32), operations)
    for sample in range(NUM_DRAWS):
        steps = draw(view, 7, 0, sample, 0, WIDTH, HEIGHT)["operations"]
        for step, *value in steps:
            found.values[step] += value
        # The four parts of a jitter count as one; their own order is test_draws.py's matter.
        names = tuple(dict.fromkeys("jitter" if step in JITTER else step for step, *_ in steps))
        found.counts.update(names)
        found.orders.add(names)
    return found


def distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Kolmogorov's and Smirnov's distance of two samples, in units of what one case in a million exceeds."""
    a, b = np.sort(a), np.sort(b)
    both = np.concatenate([a, b])
    gap = np.searchsorted(a, both, "right") / len(a) - np.searchsorted(b, both, "right") / len(b)
    return float(np.abs(gap).max()) / (math.sqrt(math.log(2e6) / 2) * math.sqrt(1 / len(a) + 1 / len(b)))


def distance_from_uniform(values: list[float], low: float, high: float) -> float:
    """The same for one sample and the uniform distribution on [low, high]; its ends are seen sharper."""
    near = 20 / len(values) * (high - low)  # nothing so close to an end: once in exp(20) cases
    assert low <= min(values) <= low + near
    assert high - near <= max(values) <= high
    expected = (np.sort(values) - low) / (high - low)
    ranks = np.arange(len(values) + 1) / len(values)
    gap = max((ranks[1:] - expected).max(), (expected - ranks[:-1]).max())
    return float(gap) * math.sqrt(len(values)) / math.sqrt(math.log(2e6) / 2)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_recipe_has_the_paper_s_views(name: str) -> None:
    found = kinds_of(getattr(views, name)())
    assert [count for count, _ in found] == [count for count, *_ in EXPECTED[name]]
    for (_, view), (_, size, scale, interpolation, _) in zip(found, EXPECTED[name], strict=True):
        assert view.size == size
        parameters = draw(view, 0, 0, 0, 0, WIDTH, HEIGHT)
        assert (parameters["size"], parameters["interpolation"]) == (size, interpolation)
        assert isinstance(view.crop, views.RandomResizedCrop)
        assert (view.crop.scale, view.crop.ratio) == (scale, (3 / 4, 4 / 3))


@pytest.mark.parametrize(("name", "number"), CASES)
def test_drawn_operations_are_the_paper_s(name: str, number: int) -> None:
    """How often each is drawn, from what range, and in which order they come."""
    view = kinds_of(getattr(views, name)())[number][1]
    steps = EXPECTED[name][number][-1]
    found = seen(tuple(view.operations))
    assert found.counts.keys() <= steps.keys()
    place = {step: i for i, step in enumerate(steps)}
    for order in found.orders:
        assert list(order) == sorted(order, key=place.__getitem__)
    for step, expected in steps.items():
        p = expected[-1] if step == "jitter" else expected
        assert abs(found.counts[step] - p * NUM_DRAWS) <= SIGMAS * math.sqrt(NUM_DRAWS * p * (1 - p)), step
    if "jitter" in steps:
        for factor, strength in zip(JITTER, steps["jitter"], strict=False):
            middle = 0.0 if factor == "hue" else 1.0
            assert len(found.values[factor]) == found.counts["jitter"]
            assert distance_from_uniform(found.values[factor], middle - strength, middle + strength) < 1, (
                factor
            )
    if steps.get("blur"):
        assert distance_from_uniform(found.values["blur"], 0.1, 2.0) < 1
    assert set(found.values["solarize"]) <= {128}


SCALES = sorted({scale for kinds in EXPECTED.values() for _, _, scale, *_ in kinds})


@pytest.mark.parametrize("scale", SCALES)
def test_windows_of_the_recipes_are_torchvision_s(scale: tuple[float, float]) -> None:
    torch.manual_seed(1)
    image = torch.empty(3, HEIGHT, WIDTH)
    get = transforms.RandomResizedCrop.get_params
    num = NUM_DRAWS if scale == (0.08, 1.0) else NUM_THEIRS
    theirs = np.array([get(image, list(scale), [3 / 4, 4 / 3]) for _ in range(num)], float)
    top, left, down, across = theirs.T
    view = views.View(views.RandomResizedCrop(32, scale))
    windows = [draw(view, 7, 0, sample, 0, WIDTH, HEIGHT)["window"] for sample in range(NUM_DRAWS)]
    x, y, width, height = np.array(windows, float).T
    for what, ours, its in [
        ("x", x, left),
        ("y", y, top),
        ("area", width * height, across * down),
        ("ratio", width / height, across / down),
    ]:
        assert distance(ours, its) < 1, what


def test_operations_are_independent_of_one_another_and_between_views() -> None:
    """What happens in a view says nothing of the rest of it, of another view, or of the next image."""
    recipe = views.dino(local_crops=2)
    columns: dict[tuple[int, str], NDArray[np.float64]] = {}
    for number, view in enumerate(recipe):
        rows = [draw(view, 2, 0, sample, number, WIDTH, HEIGHT) for sample in range(NUM_DRAWS // 5)]
        taken = [{step for step, *_ in row["operations"]} for row in rows]
        for step in ("flip", "hue", "grayscale", "blur", "solarize"):
            columns[number, step] = np.array([step in steps for steps in taken], float)
        columns[number, "x"] = np.array([row["window"][0] for row in rows], float)
    columns = {name: column for name, column in columns.items() if column.std() > 0}
    assert len(columns) == 3 * 5 + 6 - 1  # solarize only in one view, blur always in another
    now = np.array(list(columns.values()))
    both = np.concatenate([now[:, :-1], now[:, 1:]])
    correlation = np.corrcoef(both) - np.eye(len(both))
    assert np.abs(correlation).max() < 5.5 / math.sqrt(now.shape[1])


def test_the_variants_differ_where_they_say() -> None:
    small = views.simclr(32, strength=0.5, blur=False)[0]
    assert str(small).endswith(
        "jitter brightness 0.4 contrast 0.4 saturation 0.4 hue 0.1 p 0.8 | grey p 0.2 | blur 0.1..2 p 0"
    )
    assert views.byol(96) == views.barlow_twins(96)
    assert [view.size for view in views.dino(3, size=64, local_size=32)] == [64, 64, 32, 32, 32]
    resnet = views.dino(1, scale=(0.14, 1.0), local_scale=(0.05, 0.14))
    assert [view.crop for view in resnet[1:]] == [
        views.RandomResizedCrop(224, (0.14, 1.0)),
        views.RandomResizedCrop(96, (0.05, 0.14)),
    ]
    assert views.swav(0) == views.swav()[:2]
    assert all("blur 0.1..2 p 0 " in f"{view} " for view in views.barlow_twins(32, blur=False))


def test_a_run_trains_on_the_named_views_or_on_those_written_out() -> None:
    assert views.training(DataConfig()) == views.barlow_twins()
    small = DataConfig(image_size=32, crop_scale=(0.2, 1.0), augmentation="barlow_twins_small")
    assert views.training(small) == views.barlow_twins(32, (0.2, 1.0), blur=False)
    written = DataConfig(image_size=48, augmentation=views.describe(views.moco_v2(48)))
    assert views.training(written) == views.moco_v2(48)


def test_the_command_line_takes_views_as_text(tmp_path: Path) -> None:
    images, run = make_images(tmp_path / "images"), tmp_path / "run"
    text = views.describe(views.moco_v2(48))
    settings = ("--run", run, *TINY, "--train.steps", 1, "--data.augmentation")
    refused = barlow("train", images, *settings, text.replace("blur", "blurr"))
    assert refused.code == 2
    (error,) = [line for line in refused.err.splitlines() if line.startswith("barlow: error: ")]
    assert error.startswith("barlow: error: --data.augmentation ")
    assert error.endswith("expected flip, jitter, grey, blur or solarize, not 'blurr'")
    assert not run.exists()
    accepted = barlow("train", images, *settings, text)
    assert accepted.code == 0, accepted.err
    assert views.training(from_json((run / "config.json").read_text()).data) == views.moco_v2(48)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("barlow_twin", "'barlow_twin': neither barlow_twins nor .* not 'barlow_twin'$"),
        ("crop 32 area 0.1..1 bicubic", r"two views of --data.image-size 32, not of \[32\]"),
        ("2 x crop 48 area 0.1..1 bicubic", r"two views of --data.image-size 32, not of \[48, 48\]"),
    ],
)
def test_a_run_says_which_views_it_cannot_train_on(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        views.training(DataConfig(image_size=32, augmentation=text))
