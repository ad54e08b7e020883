"""Every pixel operation, and whole views, against Pillow and torchvision: bit for bit, whatever they run on.

Here: pictures made to reach every corner. Real ones: test_fidelity.py.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from PIL import Image

import plain_pixels
from barlow.data import apply, simd
from pictures import Pixels, synthetic
from plain_pixels import OPERATIONS

SIZE = 56


def view(image: Image.Image, *operations: tuple[Any, ...], size: int = SIZE) -> Pixels:
    """Operations alone: the window is as large as the view, so that nothing is resampled. [H, W, 3]."""
    parameters: Any = {
        "window": (0, 0, size, size),
        "resized": (size, size),
        "offset": (0, 0),
        "size": size,
        "interpolation": "bicubic",
        "operations": list(operations),
    }
    return on_everything(image, parameters)


def on_everything(image: Image.Image, parameters: Any) -> Pixels:
    """A view [H, W, 3], which has to be the same on every instruction set of this CPU."""
    pixels = np.asarray(image)
    first, *rest = (apply(pixels, parameters, simd=name) for name in simd())
    for number, other in enumerate([*rest, apply(pixels, parameters)], 1):
        np.testing.assert_array_equal(other, first, err_msg=f"{[*simd(), 'default'][number]} {parameters}")
    return first.transpose(1, 2, 0)


VALUES: dict[str, Any] = {
    "flip": lambda rng: (),
    "brightness": lambda rng: (rng.choice([0.0, 1.0, rng.uniform(0, 3)]),),
    "contrast": lambda rng: (rng.choice([0.0, 1.0, rng.uniform(0, 3)]),),
    "saturation": lambda rng: (rng.choice([0.0, 1.0, rng.uniform(0, 3)]),),
    "hue": lambda rng: (rng.uniform(-0.5, 0.5),),
    "grayscale": lambda rng: (),
    "blur": lambda rng: (rng.choice([0.0, rng.uniform(0.1, 2.0), rng.uniform(2.0, 40.0)]),),
    "solarize": lambda rng: (rng.randint(0, 255),),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation(name: str) -> None:
    rng = random.Random(name)
    for trial in range(40):
        image = synthetic(SIZE, SIZE, seed=trial)
        value = VALUES[name](rng)
        expected = np.asarray(OPERATIONS[name](image, *value))
        np.testing.assert_array_equal(view(image, (name, *value)), expected, err_msg=f"{name} {value}")


def test_hue_of_a_quarter_of_all_colours() -> None:
    """The crate's own tests take every colour against a slow twin."""
    side = 2048
    for number, shift in enumerate((0.1, -0.37)):
        levels = np.arange(side * side, dtype=np.uint32).reshape(side, side) * 4 + number
        image = Image.fromarray(np.stack([levels >> 16, levels >> 8, levels], -1).astype(np.uint8))
        expected = np.asarray(OPERATIONS["hue"](image, shift))
        np.testing.assert_array_equal(view(image, ("hue", shift), size=side), expected)


def check_view_of(image: Image.Image, parameters: Any) -> None:
    found = on_everything(image, parameters).astype(int)
    difference = np.abs(found - np.asarray(plain_pixels.view(image, parameters)))
    if plain_pixels.SAME_PASS_ORDER:
        assert difference.max() == 0, parameters
    else:
        assert difference.mean() < 1, parameters


def random_parameters(rng: random.Random, width: int, height: int, size: int) -> dict[str, Any]:
    across, down = rng.randint(1, width), rng.randint(1, height)
    names = rng.sample(list(OPERATIONS), k=rng.randint(0, len(OPERATIONS)))
    return {
        "window": (rng.randint(0, width - across), rng.randint(0, height - down), across, down),
        "resized": (size, size),
        "offset": (0, 0),
        "size": size,
        "interpolation": rng.choice(["bilinear", "bicubic"]),
        "operations": [(name, *VALUES[name](rng)) for name in names],
    }


def test_whole_views_of_random_windows() -> None:
    """Windows of any shape, smaller and larger than the view, down to one pixel."""
    rng = random.Random(13)
    for trial in range(150):
        width, height = rng.randint(1, 200), rng.randint(1, 200)
        image = synthetic(width, height, seed=trial)
        parameters = random_parameters(rng, width, height, size=rng.choice([1, 7, 32, 57, 96]))
        if trial % 3:
            parameters["operations"] = []
        check_view_of(image, parameters)


def test_pixels_outside_the_window_have_no_influence() -> None:
    rng = random.Random(15)
    parameters: Any = random_parameters(rng, 60, 50, size=32)
    parameters |= {"window": (10, 12, 30, 25), "operations": []}
    pixels = np.asarray(synthetic(60, 50, seed=16))
    altered = 255 - pixels
    altered[12:37, 10:40] = pixels[12:37, 10:40]
    np.testing.assert_array_equal(apply(pixels, parameters), apply(altered, parameters))


def test_part_of_a_resized_image_is_that_part() -> None:
    image = synthetic(90, 130, seed=17)
    parameters: Any = {"window": (0, 0, 90, 130), "resized": (48, 69), "size": 32, "operations": []}
    for interpolation in ("bilinear", "bicubic"):
        for offset in ((0, 0), (8, 18), (16, 37)):
            check_view_of(image, parameters | {"offset": offset, "interpolation": interpolation})


@pytest.mark.parametrize(
    "change",
    [
        {"window": (0, 0, 61, 50)},
        {"window": (60, 0, 1, 1)},
        {"window": (0, 0, 0, 50)},
        {"window": (4294967295, 0, 2, 2)},
        {"offset": (1, 0)},
        {"resized": (31, 32)},
        {"interpolation": "nearest"},
        {"operations": [("sharpen", 1.0)]},
        {"operations": [("flip", 1.0)]},
        {"operations": [("hue", 0.6)]},
        {"operations": [("blur", float("nan"))]},
    ],
)
def test_parameters_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    parameters = random_parameters(random.Random(18), 60, 50, size=32) | {"operations": []}
    image = np.asarray(synthetic(60, 50, seed=19))
    apply(image, parameters)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"fit|interpolation|step"):
        apply(image, parameters | change)  # type: ignore[operator]
