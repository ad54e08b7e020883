"""What parameters of a view mean, carried out by Pillow and torchvision; nothing of barlow is imported."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import PIL
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import InterpolationMode, functional

F: Any = functional  # its annotations know tensors only

# Pillow 13 runs the column pass of a resize first where that is cheaper, as barlow does; before, rows always
# came first, and what a bicubic filter overshoots was clipped in another order.
SAME_PASS_ORDER = int(PIL.__version__.split(".")[0]) >= 13

OPERATIONS: dict[str, Callable[..., Image.Image]] = {
    "flip": F.hflip,
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
    "hue": F.adjust_hue,
    "grayscale": lambda image: F.rgb_to_grayscale(image, 3),
    "blur": lambda image, sigma: image.filter(ImageFilter.GaussianBlur(sigma)),
    "solarize": lambda image, threshold: ImageOps.solarize(image, int(threshold)),
}


def cut(image: Image.Image, parameters: Any) -> Image.Image:
    """The crop of a view without its operations."""
    x, y, width, height = parameters["window"]
    across, down = parameters["resized"]
    mode = InterpolationMode(parameters["interpolation"])
    image = F.resized_crop(image, y, x, height, width, [down, across], mode)
    x, y = parameters["offset"]
    return F.crop(image, y, x, parameters["size"], parameters["size"])


def view(image: Image.Image, parameters: Any) -> Image.Image:
    """An RGB image to one view of it."""
    return operated(cut(image, parameters), parameters)


def operated(image: Image.Image, parameters: Any) -> Image.Image:
    for name, *value in parameters["operations"]:
        image = OPERATIONS[name](image, *value)
    return image


def draft(data: bytes, shrink: int) -> Image.Image:
    """A JPEG decoded at a fraction of its size, both sides rounded up."""
    image = Image.open(io.BytesIO(data))
    sides = [-(-side // shrink) for side in image.size]
    image.draft("RGB", (image.width // shrink, image.height // shrink))
    assert [*image.size] == sides
    return image.convert("RGB")


def drafted_cut(data: bytes, parameters: Any, shrink: int) -> Image.Image:
    """The crop of a view from such a draft; the corners of its window need not be whole there."""
    x, y, width, height = parameters["window"]
    box = (x / shrink, y / shrink, (x + width) / shrink, (y + height) / shrink)
    resample = Image.Resampling[parameters["interpolation"].upper()]
    return draft(data, shrink).resize(parameters["resized"], resample, box=box)
