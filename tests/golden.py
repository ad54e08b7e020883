"""A data set that any machine can make, and its thousand golden samples, computed without barlow.

    python tests/golden.py          # computes the golden value anew, in about 10 s, and prints it

Pictures are integer arithmetic: JPEGs from coefficients, PNGs (lossless, whoever encodes) from formulas.
The order and what is drawn come from the plain-Python twin, the pixels from Pillow and torchvision.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import plain_pixels
from corpus import jpeg_writer
from plain_draws import official, permuted

NUM_IMAGES, NUM_CLASSES, EPOCHS = 100, 7, 10
BATCH_SIZE = 8  # not a divisor of 100: each epoch ends with a batch of four
SEED = 0x0BA1_0DE5_EED5
SIZE = 224


@dataclass(frozen=True)
class Sample:
    """One sample of a batch: where it came, what it is, and both views, uint8 [3, SIZE, SIZE]."""

    epoch: int
    step: int
    id: int
    label: int
    views: list[NDArray[np.uint8]]


def digest(samples: Iterable[Sample]) -> str:
    """sha256 of samples in the order in which they come."""
    state = hashlib.sha256()
    for sample in samples:
        state.update(f"{sample.epoch} {sample.step} {sample.id} {sample.label}\n".encode())
        for view in sample.views:
            assert view.shape == (3, SIZE, SIZE)
            assert view.dtype == np.uint8
            state.update(view.tobytes())
    return state.hexdigest()


def label_of(number: int) -> int:
    return number * NUM_CLASSES // NUM_IMAGES


def name_of(number: int) -> str:
    """Sorted by name, the files come by number."""
    return f"class{label_of(number)}/{number:03}.{'png' if number % 3 == 0 else 'jpg'}"


@cache
def file(number: int) -> bytes:
    """Image `number`, encoded: every third a PNG, the others JPEGs of all kinds."""
    if number % 3 == 0:
        data = io.BytesIO()
        drawn(number).save(data, "PNG", compress_level=1)
        return data.getvalue()
    # From wide to high, and some so narrow that no random window fits them.
    width, height = 24 + number * 37 % 140, 24 + number * 61 % 110
    grey: jpeg_writer.Sampling = ((1, 1),)
    kind = number % 5
    if kind == 0:
        pieces = jpeg_writer.progressive(width, height, seed=number)
    else:
        sampling = [jpeg_writer.YUV420, jpeg_writer.YUV420, jpeg_writer.YUV444, grey][kind - 1]
        pieces = jpeg_writer.baseline(width, height, sampling, seed=number)
    return jpeg_writer.joined(pieces)


def drawn(number: int) -> Image.Image:
    """Ramps, curves of equal value, a flat part and noise: integers below 2**32 and nothing else."""
    width, height = 40 + number * 53 % 400, 30 + number * 31 % 300
    y, x = np.mgrid[0:height, 0:width].astype(np.uint64)
    channels = []
    for channel in range(3):
        a, b, c = (number * (channel + 3) + k * 11 for k in range(3))
        ramp = x * (1 + a % 5) + y * (1 + b % 7)
        curves = (x * x // (9 + a % 40) + y * y // (9 + c % 30)) // 4
        noise = (x * 73856093 + y * 19349663 + number * 83492791 + channel * 2654435761) % 2**32
        noise = noise * (noise >> 7 | 1) % 2**32 >> 27
        channels.append((ramp * (number % 3) + curves + noise) % 256)
    pixels = np.stack(channels, -1).astype(np.uint8)
    pixels[height // 3 : height // 2, width // 4 : width // 2] = number * 97 % 256, number * 57 % 256, 255
    return Image.fromarray(pixels)


def write(root: Path) -> Path:
    """The data set as class folders."""
    for number in range(NUM_IMAGES):
        path = root / name_of(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file(number))
    return root


@cache
def picture(number: int) -> Image.Image:
    return Image.open(io.BytesIO(file(number))).convert("RGB")


def sample_at(epoch: int, place: int) -> Sample:
    """What comes at a place of an epoch."""
    number = permuted(SEED, epoch, NUM_IMAGES, place)
    image = picture(number)
    found = []
    for view, recipe in enumerate(official(SIZE)):
        parameters = recipe.draw(SEED, epoch, number, view, *image.size)
        pixels = np.asarray(plain_pixels.view(image, parameters))
        found.append(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    return Sample(epoch, place // BATCH_SIZE, number, label_of(number), found)


def all_samples() -> Iterator[Sample]:
    return (sample_at(epoch, place) for epoch in range(EPOCHS) for place in range(NUM_IMAGES))


if __name__ == "__main__":
    print(digest(all_samples()))
