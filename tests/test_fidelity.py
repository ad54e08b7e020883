"""Real images to views: bit for bit those of Pillow and torchvision, on every instruction set of this CPU.

Here: 200 ImageNet files through the loader, every crop of every recipe, each operation, any chain of them.
Pictures made for the corners: test_pixels.py. A fixed set with a golden hash: test_golden.py.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import plain_pixels
from barlow.data import Index, Loader, apply, decode, draw, open_index, simd, views
from pictures import Pixels, as_rgb

NUM_IMAGES = 200
EVERY = 5  # of the thousand

pytestmark = pytest.mark.skipif(
    not plain_pixels.SAME_PASS_ORDER, reason="Pillow before 13 rounds a resize in another order"
)


@pytest.fixture(scope="module")
def index(shared_data: Path) -> Index:
    everything = open_index(shared_data / "imagenet-sample.tar", threads=1)
    return everything.subset(range(0, EVERY * NUM_IMAGES, EVERY))


@pytest.fixture(scope="module")
def photos(index: Index) -> Callable[[int], Image.Image]:
    """Of the 200 by number, decoded by Pillow; the first 40 are kept."""
    kept: dict[int, Image.Image] = {}

    def photo(number: int) -> Image.Image:
        if number not in kept:
            kept[number] = Image.fromarray(as_rgb(index.read(number)))
        return kept[number]

    return lambda number: photo(number % 40)


def check(image: Image.Image, parameters: Any) -> None:
    """The view that Pillow and torchvision make of it, on every instruction set."""
    pixels = np.asarray(image)
    expected = np.asarray(plain_pixels.view(image, parameters)).transpose(2, 0, 1)
    for name in simd():
        same(apply(pixels, parameters, simd=name), expected, f"{name} {parameters}")


def same(found: Pixels, expected: Pixels, what: str) -> None:
    if not np.array_equal(found, expected):
        difference = np.abs(found.astype(int) - expected)
        pytest.fail(f"{what}: {np.count_nonzero(difference)} values differ by up to {difference.max()}")


def test_both_official_views_of_200_images(index: Index) -> None:
    """The whole chain: what the loader delivers, and the same on slower instructions."""
    recipe = views.barlow_twins()
    taken: Counter[str] = Counter()
    seen = set()
    settings: Any = {"batch_size": 25, "seed": 11, "threads": 1, "epochs": 1, "shrink_on_load": False}
    with Loader(index, views=recipe, **settings) as batches:
        for batch in batches:
            for row, sample in enumerate(batch.ids.tolist()):
                data = index.read(sample)
                image = Image.fromarray(as_rgb(data))
                pixels = decode(data)
                for number, view in enumerate(recipe):
                    parameters = draw(view, 11, 0, sample, number, *image.size)
                    expected = np.asarray(plain_pixels.view(image, parameters)).transpose(2, 0, 1)
                    same(batch.views[number][row].numpy(), expected, f"loader, sample {sample} {parameters}")
                    for name in simd():
                        same(apply(pixels, parameters, simd=name), expected, f"{name} {sample} {parameters}")
                    taken.update(step for step, *_ in parameters["operations"])
                seen.add(sample)
    assert seen == set(range(NUM_IMAGES))
    # The rarest is the second view's solarization: one in five of 200.
    assert taken.keys() == plain_pixels.OPERATIONS.keys()
    assert min(taken.values()) >= 20, taken


def test_large_images_are_cut_from_pillow_s_draft(shared_data: Path) -> None:
    """Both official views of all that are decoded at a fraction, and how far that is from a whole decode."""
    everything = open_index(shared_data / "imagenet-sample.tar", threads=1)
    large = [i for i in range(len(everything)) if math.prod(everything.shape(i)) > 1_000_000]
    index, recipe, seen, off = everything.subset(large), views.barlow_twins(), set(), []
    with Loader(index, views=recipe, batch_size=len(large), seed=15, threads=1, epochs=8) as batches:
        for batch in (batch for _ in range(8) for batch in batches):
            for row, sample in enumerate(batch.ids.tolist()):
                data, (height, width) = index.read(sample), index.shape(sample)
                drawn = [
                    draw(view, 15, batch.epoch, sample, v, width, height) for v, view in enumerate(recipe)
                ]
                short = min(side for parameters in drawn for side in parameters["window"][2:])
                shrink = max(by for by in (1, 2, 4, 8) if by == 1 or short >= by * 224)
                if shrink == 1:
                    continue
                seen.add((sample, shrink))
                for number, parameters in enumerate(drawn):
                    image = plain_pixels.operated(
                        plain_pixels.drafted_cut(data, parameters, shrink), parameters
                    )
                    expected = np.asarray(image).transpose(2, 0, 1)
                    found = batch.views[number][row].numpy()
                    same(found, expected, f"draft by {shrink}, sample {sample} {parameters}")
                    off.append(np.abs(apply(decode(data), parameters).astype(int) - found).mean())
    assert {shrink for _, shrink in seen} >= {2, 4}
    assert len({sample for sample, _ in seen}) >= 6
    # Levels of 255; measured: 0.5 on average, 3.1 for the worst view.
    assert np.mean(off) < 1
    assert max(off) < 5


RECIPES = ("barlow_twins", "moco_v2", "dino", "swav", "mae", "linear_probe", "evaluation")
CROPS = {
    f"{name}-{view.size}": view.crop for name in RECIPES for view in getattr(views, name)()
}  # the other recipes crop like one of these


@pytest.mark.parametrize("crop", CROPS.values(), ids=CROPS)
def test_every_crop_of_the_recipes(crop: views.Crop, photos: Callable[[int], Image.Image]) -> None:
    view = views.View(crop)
    for number in range(20):
        image = photos(number)
        for epoch in range(2):
            check(image, draw(view, 12, epoch, number, 0, *image.size))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [1, 32, 96, 224, 321])
def test_windows_of_any_shape(interpolation: str, size: int, photos: Callable[[int], Image.Image]) -> None:
    """From one pixel to all of the image, with no regard to aspect; and parts of what was resized."""
    rng = random.Random(f"{interpolation} {size}")
    for number in range(40):
        image = photos(number)
        parameters = any_window(rng, image, size) | {"interpolation": interpolation, "operations": []}
        check(image, parameters)
        over = [size + rng.randint(0, size // 3) for _ in range(2)]
        offset = tuple(rng.randint(0, side - size) for side in over)
        check(image, parameters | {"resized": tuple(over), "offset": offset})


def any_window(rng: random.Random, image: Image.Image, size: int) -> dict[str, Any]:
    """A third of the windows are small, as uniform sides seldom are."""
    narrow = rng.choice([1, 1, 20])
    across, down = (rng.randint(1, max(1, side // narrow)) for side in image.size)
    corner = rng.randint(0, image.width - across), rng.randint(0, image.height - down)
    return {"window": (*corner, across, down), "resized": (size, size), "offset": (0, 0), "size": size}


EXTREMES: dict[str, list[float]] = {
    "brightness": [0.0, 0.6, 1.0, 1.4, 3.0],
    "contrast": [0.0, 0.6, 1.0, 1.4, 3.0],
    "saturation": [0.0, 0.8, 1.0, 1.2, 3.0],
    "hue": [-0.5, -0.1, 0.0, 0.1, 0.2, 0.5],
    "blur": [0.0, 0.1, 0.5, 1.0, 2.0, 20.0],
    "solarize": [0, 1, 127, 128, 255],
}
"""The ends of the recipes' ranges, what changes nothing, and what no recipe asks for."""


def value_of(rng: random.Random, name: str) -> tuple[float, ...]:
    """Of an operation: one of the above, or anything between the smallest and the largest."""
    if name not in EXTREMES:
        return ()
    ends = EXTREMES[name]
    between = rng.randint(0, 255) if name == "solarize" else rng.uniform(min(ends), max(ends))
    return (rng.choice([*ends, *[between] * len(ends)]),)


@pytest.mark.parametrize("name", plain_pixels.OPERATIONS)
def test_each_operation(name: str, photos: Callable[[int], Image.Image]) -> None:
    """On crops of the sizes of networks' inputs, and on sides that no vector divides."""
    rng = random.Random(name)
    steps = [(name, value) for value in EXTREMES.get(name, [])] + [
        (name, *value_of(rng, name)) for _ in range(20)
    ]
    for number, step in enumerate(steps):
        size = [224, 96, 33, 224, 113][number % 5]
        image = photos(number)
        window = any_window(rng, image, size)
        check(image, window | {"interpolation": "bicubic", "operations": [step]})


def test_any_chain_of_operations(photos: Callable[[int], Image.Image]) -> None:
    """In any order, also twice: each one sees what the one before has rounded."""
    rng = random.Random(13)
    for number in range(40):
        names = rng.choices(list(plain_pixels.OPERATIONS), k=rng.randint(2, 8))
        steps = [(name, *value_of(rng, name)) for name in names]
        window = any_window(rng, photos(number), 224)
        check(
            photos(number),
            window | {"interpolation": rng.choice(["bilinear", "bicubic"]), "operations": steps},
        )


def test_a_level_more_is_noticed(photos: Callable[[int], Image.Image]) -> None:
    """The comparison itself: one value off by one fails it."""
    image = photos(0)
    parameters = draw(views.barlow_twins()[0], 0, 0, 0, 0, *image.size)
    found = apply(np.asarray(image), parameters)
    altered = found.copy()
    altered[1, 100, 100] ^= 1
    with pytest.raises(pytest.fail.Exception, match="1 values differ by up to 1"):
        same(altered, found, "altered")
