"""Pictures that reach every corner of a pixel operation, real ones, and Pillow's reading of bytes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def synthetic(width: int, height: int, seed: int) -> Image.Image:
    """Noise, ramps, flat and saturated areas side by side."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x + y) % 256], -1)
    pixels[:, : width // 3] = rng.integers(0, 256, (height, width // 3, 3))
    pixels[height // 2 :, width // 2 :] = rng.integers(0, 2, 3) * 255
    return Image.fromarray(pixels.astype(np.uint8))


def read(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def as_rgb(data: bytes) -> Pixels:
    return np.asarray(read(data).convert("RGB"))


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def real_jpegs(folder: Path) -> Iterator[bytes]:
    with tarfile.open(folder / "imagenet-sample.tar") as archive:
        for member in archive:
            if member.isfile() and (file := archive.extractfile(member)) is not None:
                yield file.read()
