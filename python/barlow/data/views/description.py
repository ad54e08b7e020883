"""Here: what a view is (a crop, then operations in order, each with its probability) and how it is written.

Not here: reading what is written (`text.py`), the methods' recipes (`recipes.py`), drawing parameters and
changing pixels; both happen in Rust, from these descriptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Interpolation = Literal["bilinear", "bicubic"]
Range = tuple[float, float]

USUAL_RATIO: Range = (3 / 4, 4 / 3)
"""Width / height of everybody's random crop; left unsaid where a view is written."""


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random window, resized (antialiased) to `size` x `size` pixels; torchvision's distribution."""

    size: int
    """Side of the result in pixels."""
    scale: Range = (0.08, 1.0)
    """Area of the window, as a fraction of the image, uniform."""
    ratio: Range = USUAL_RATIO
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

    def __post_init__(self) -> None:
        # A list compares unequal to a tuple and has no hash; a view is its contents.
        object.__setattr__(self, "operations", tuple(self.operations))

    def __str__(self) -> str:
        steps = [words(self.crop), *(f"{words(step)} p {number(step.p)}" for step in self.operations)]
        return " | ".join(steps)

    @property
    def size(self) -> int:
        """Side of the view in pixels."""
        return self.crop.size


def words(step: Crop | Operation) -> str:
    """A crop or an operation as it is written, without its probability: "blur 0.1..2"."""
    match step:
        case RandomResizedCrop(size, scale, ratio, interpolation):
            unusual = "" if ratio == USUAL_RATIO else f"ratio {_values(ratio)} "
            return f"crop {size} area {_values(scale)} {unusual}{interpolation}"
        case ResizeCenterCrop(resize, size, interpolation):
            return f"resize {resize} centre {size} {interpolation}"
        case Flip():
            return "flip"
        case ColorJitter():
            changes = {name: getattr(step, name) for name in ("brightness", "contrast", "saturation", "hue")}
            return " ".join(["jitter", *(f"{name} {_values(x)}" for name, x in changes.items() if x != 0)])
        case Grayscale():
            return "grey"
        case GaussianBlur(sigma):
            return f"blur {_values(sigma)}"
        case Solarize(threshold):
            return f"solarize {threshold}"


def _values(value: float | Range) -> str:
    return "..".join(map(number, value)) if isinstance(value, tuple) else number(value)


def number(value: float) -> str:
    """The shortest text that reads back as the same number, without a final ".0"."""
    return repr(float(value)).removesuffix(".0")
