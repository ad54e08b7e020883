"""The distributions of drawn view parameters against torchvision's own draws, and the settings of views."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike
from PIL import Image
from torchvision import transforms
from torchvision.transforms.functional import InterpolationMode

from barlow.data import apply, draw, views

NUM_DRAWS = 20_000
NUM_JITTERS = 100_000


def ks_distance(a: ArrayLike, b: ArrayLike) -> float:
    """Largest distance between two empirical distribution functions (Kolmogorov and Smirnov)."""
    x, y = np.sort(np.asarray(a, float)), np.sort(np.asarray(b, float))
    both = np.concatenate([x, y])
    return float(
        np.abs(
            np.searchsorted(x, both, side="right") / len(x) - np.searchsorted(y, both, side="right") / len(y)
        ).max()
    )


def far(num: int) -> float:
    """Two samples of this size from one distribution are farther apart once in a million times."""
    return math.sqrt(-math.log(1e-6 / 2) / 2) * math.sqrt(2 / num)


FAR = far(NUM_DRAWS)


def drawn(view: views.View, width: int = 500, height: int = 375, num: int = NUM_DRAWS) -> list[Any]:
    return [draw(view, 3, 0, sample, 0, width, height) for sample in range(num)]


@pytest.mark.parametrize("shape", [(500, 375), (12, 9), (375, 500), (640, 130)])
@pytest.mark.parametrize(("scale", "ratio"), [((0.08, 1.0), (3 / 4, 4 / 3)), ((0.5, 0.6), (0.5, 3.0))])
def test_random_windows_are_torchvision_s(
    shape: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    width, height = shape
    crop = views.RandomResizedCrop(32, scale, ratio)
    ours = np.array([p["window"] for p in drawn(views.View(crop), width, height)])
    image = torch.empty(3, height, width)
    torch.manual_seed(0)
    get = transforms.RandomResizedCrop.get_params
    theirs = np.array([get(image, list(scale), list(ratio)) for _ in range(NUM_DRAWS)])[:, [1, 0, 3, 2]]
    for name, a, b in zip(("x", "y", "width", "height"), ours.T, theirs.T, strict=True):
        assert ks_distance(a, b) < FAR, name
    assert ks_distance(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]) < FAR
    assert ks_distance(ours[:, 2] / ours[:, 3], theirs[:, 2] / theirs[:, 3]) < FAR
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= width).all()
    assert (ours[:, 1] + ours[:, 3] <= height).all()


@pytest.mark.parametrize("shape", [(1000, 20), (20, 1000), (1, 1), (3, 2), (1, 500), (641, 33)])
def test_impossible_windows_end_in_torchvision_s_central_one(shape: tuple[int, int]) -> None:
    width, height = shape
    crop = views.RandomResizedCrop(32, scale=(1.0, 1.0), ratio=(0.9, 0.9))
    if shape == (1, 1):
        crop = views.RandomResizedCrop(32)
    view = views.View(crop)
    top, left, down, across = transforms.RandomResizedCrop.get_params(
        torch.empty(3, height, width), list(crop.scale), list(crop.ratio)
    )
    assert draw(view, 0, 0, 0, 0, width, height)["window"] == (left, top, across, down)


def test_jitter_factors_and_their_order_are_torchvision_s() -> None:
    spread = {"brightness": 0.4, "contrast": 1.3, "saturation": 0.2, "hue": 0.1}
    ours = [
        dict(p["operations"])
        for p in drawn(
            views.View(views.RandomResizedCrop(32), [views.ColorJitter(**spread)]), num=NUM_JITTERS
        )
    ]
    jitter = transforms.ColorJitter(**spread)
    torch.manual_seed(0)
    ranges: Any = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    theirs: Any = [transforms.ColorJitter.get_params(*ranges) for _ in range(NUM_JITTERS)]
    for number, name in enumerate(spread):
        assert ks_distance([factors[name] for factors in ours], [t[number + 1] for t in theirs]) < far(
            NUM_JITTERS
        ), name
    # All 24 orders: chi-square with 23 degrees of freedom; 74 is the 1 - 3e-7 quantile.
    orders = dict.fromkeys(itertools.permutations(spread), 0)
    for factors in ours:
        orders[tuple(factors)] += 1
    expected = NUM_JITTERS / 24
    assert sum((count - expected) ** 2 / expected for count in orders.values()) < 74


def test_the_factors_of_one_image_are_independent() -> None:
    view = views.View(
        views.RandomResizedCrop(32), [views.ColorJitter(0.4, 0.4, 0.4, 0.4), views.GaussianBlur(p=1.0)]
    )
    rows = [
        [
            p["window"][0],
            p["window"][2],
            *(dict(p["operations"])[name] for name in sorted(dict(p["operations"]))),
        ]
        for p in drawn(view)
    ]
    correlation = np.corrcoef(np.array(rows, float).T)
    # x and width of a window depend on each other; nothing else does.
    correlation[0, 1] = correlation[1, 0] = 0
    np.fill_diagonal(correlation, 0)
    assert np.abs(correlation).max() < 5.5 / math.sqrt(NUM_DRAWS)


def test_a_setting_of_one_operation_leaves_the_draws_of_others() -> None:
    def operations(flip: float, sigma: tuple[float, float]) -> dict[str, Any]:
        steps = [views.Flip(flip), views.GaussianBlur(sigma, p=1.0), views.ColorJitter(0.4, 0.4, 0.4, 0.1)]
        parameters = draw(views.View(views.RandomResizedCrop(32), steps), 0, 1, 2, 1, 90, 80)
        return {"window": parameters["window"], **{name: value for name, *value in parameters["operations"]}}

    one, two = operations(0.0, (0.1, 2.0)), operations(1.0, (5.0, 6.0))
    assert "flip" in two
    assert one.pop("blur") != two.pop("blur")
    two.pop("flip")
    assert one == two


def test_neutral_jitter_is_left_out() -> None:
    view = views.View(views.RandomResizedCrop(32), [views.ColorJitter(brightness=0.4)])
    assert {name for p in drawn(view)[:100] for name, *_ in p["operations"]} == {"brightness"}


@pytest.mark.parametrize("shape", [(500, 375), (375, 500), (64, 64), (41, 97), (97, 41), (33, 512), (1, 7)])
@pytest.mark.parametrize(("resize", "size"), [(256, 224), (37, 32), (32, 32), (33, 32), (35, 1)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_evaluation_is_torchvision_s_resize_and_centre_crop(
    shape: tuple[int, int], resize: int, size: int, interpolation: Any
) -> None:
    width, height = shape
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    view = views.View(views.ResizeCenterCrop(resize, size, interpolation))
    parameters = draw(view, 0, 0, 0, 0, width, height)
    theirs = transforms.Resize(resize, InterpolationMode(interpolation))(image)
    assert parameters["resized"] == theirs.size
    expected = np.asarray(transforms.CenterCrop(size)(theirs)).transpose(2, 0, 1).astype(int)
    difference = np.abs(apply(np.asarray(image), parameters) - expected)
    # Noise is the worst case for the order of the two passes, which older Pillows fix: see test_pixels.py.
    assert difference.max() == 0 or (int(Image.__version__.split(".")[0]) < 13 and difference.mean() < 2)


@pytest.mark.parametrize(
    ("crop", "operations", "message"),
    [
        (views.RandomResizedCrop(0), [], "size of a view"),
        (views.RandomResizedCrop(32, scale=(0.0, 1.0)), [], "scale"),
        (views.RandomResizedCrop(32, scale=(0.5, 0.4)), [], "upside down"),
        (views.RandomResizedCrop(32, scale=(0.5, 1.1)), [], "scale"),
        (views.RandomResizedCrop(32, ratio=(float("nan"), 1.0)), [], "ratio"),
        (views.ResizeCenterCrop(31, 32), [], "at least its size"),
        (views.RandomResizedCrop(32, interpolation="nearest"), [], "bilinear or bicubic"),  # type: ignore[arg-type]
        (views.RandomResizedCrop(32), [views.Flip(1.5)], "probability of flip"),
        (views.RandomResizedCrop(32), [views.ColorJitter(hue=0.6)], "hue"),
        (views.RandomResizedCrop(32), [views.ColorJitter(brightness=-1.0)], "negative"),
        (views.RandomResizedCrop(32), [views.ColorJitter(contrast=(-0.5, 1.0))], "contrast"),
        (views.RandomResizedCrop(32), [views.GaussianBlur((0.1, 1e9))], "sigma"),
    ],
)
def test_views_that_cannot_work_are_refused_by_name(crop: Any, operations: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(views.View(crop, operations), 0, 0, 0, 0, 50, 50)


NO_CROP: Any = views.Flip()
NO_OPERATION: Any = 3


@pytest.mark.parametrize(
    "stranger",
    [
        object(),
        views.Flip(),
        views.View(NO_CROP),
        views.View(views.RandomResizedCrop(32), [NO_OPERATION]),
    ],
)
def test_strangers_are_refused_by_type(stranger: Any) -> None:
    with pytest.raises(TypeError, match=r"not a (view|crop|operation) of barlow.data.views"):
        draw(stranger, 0, 0, 0, 0, 50, 50)
