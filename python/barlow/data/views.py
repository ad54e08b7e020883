"""Here: what a view is (a crop, then operations in order, each with its probability) and the named recipes.

Not here: drawing parameters and changing pixels; both happen in Rust, from these descriptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from barlow.config import DataConfig

Interpolation = Literal["bilinear", "bicubic"]
Range = tuple[float, float]


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random window, resized (antialiased) to `size` x `size` pixels; torchvision's distribution."""

    size: int
    """Side of the result in pixels."""
    scale: Range = (0.08, 1.0)
    """Area of the window, as a fraction of the image, uniform."""
    ratio: Range = (3 / 4, 4 / 3)
    """Width / height of the window, log-uniform."""
    interpolation: Interpolation = "bicubic"
    """Filter of the resize."""


@dataclass(frozen=True)
class ResizeCenterCrop:
    """The shorter side resized (antialiased) to `resize` pixels, then the middle `size` x `size` pixels."""

    resize: int
    """Shorter side after the resize, in pixels."""
    size: int
    """Side of the result in pixels."""
    interpolation: Interpolation = "bilinear"
    """Filter of the resize."""


@dataclass(frozen=True)
class Flip:
    """Left and right swapped, with probability `p`."""

    p: float = 0.5


@dataclass(frozen=True)
class ColorJitter:
    """With probability `p`: brightness, contrast, saturation and hue change, in random order.

    A number x stands for a factor uniform in [max(0, 1 - x), 1 + x], for hue for a shift uniform in
    [-x, x] (in turns of the colour circle, at most 0.5); a pair for its own range. As in torchvision.
    """

    brightness: float | Range = 0.0
    contrast: float | Range = 0.0
    saturation: float | Range = 0.0
    hue: float | Range = 0.0
    p: float = 1.0


@dataclass(frozen=True)
class Grayscale:
    """Luma in all three channels, with probability `p`."""

    p: float = 0.2


@dataclass(frozen=True)
class GaussianBlur:
    """Pillow's Gaussian blur with `sigma` in pixels, uniform in its range, with probability `p`."""

    sigma: Range = (0.1, 2.0)
    p: float = 0.5


@dataclass(frozen=True)
class Solarize:
    """Values of `threshold` (0 to 255) and above inverted, with probability `p`."""

    threshold: int = 128
    p: float = 0.2


Crop = RandomResizedCrop | ResizeCenterCrop
Operation = Flip | ColorJitter | Grayscale | GaussianBlur | Solarize


@dataclass(frozen=True)
class View:
    """One way of looking at an image: a crop, then operations in this order."""

    crop: Crop
    operations: Sequence[Operation] = ()

    @property
    def size(self) -> int:
        """Side of the view in pixels."""
        return self.crop.size


def barlow_twins(size: int = 224, scale: Range = (0.08, 1.0), blur: bool = True) -> list[View]:
    """The paper's two views (section 2.1 and appendix A; those of BYOL, table 6).

    `blur=False` leaves the blur out, as recipes for images of about 32 pixels do.
    """

    def view(blur_p: float, solarize_p: float) -> View:
        return View(
            RandomResizedCrop(size, scale, ratio=(3 / 4, 4 / 3), interpolation="bicubic"),
            (
                Flip(p=0.5),
                ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, p=0.8),
                Grayscale(p=0.2),
                GaussianBlur(sigma=(0.1, 2.0), p=blur_p if blur else 0.0),
                Solarize(threshold=128, p=solarize_p),
            ),
        )

    return [view(blur_p=1.0, solarize_p=0.0), view(blur_p=0.1, solarize_p=0.2)]


def training(data: DataConfig) -> list[View]:
    """The two views that a run with these settings trains on."""
    blur = data.augmentation == "barlow_twins"
    return barlow_twins(data.image_size, scale=data.crop_scale, blur=blur)


def linear_probe(size: int = 224) -> list[View]:
    """The one view on which the official linear classifier trains: crop and flip."""
    return [View(RandomResizedCrop(size, interpolation="bilinear"), (Flip(p=0.5),))]


def evaluation(size: int = 224, resize: int = 256) -> list[View]:
    """The one view of evaluation: the same pixels every time."""
    return [View(ResizeCenterCrop(resize, size, interpolation="bilinear"))]
