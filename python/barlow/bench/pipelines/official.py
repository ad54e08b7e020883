"""Here: the official code's pipeline: Pillow images, torchvision's transforms, a DataLoader.

Not here: the recipe; the transforms are spelled from the same descriptions that everyone gets.
"""

from __future__ import annotations

import random
from typing import Any

from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torchvision import transforms as T

from barlow.bench.pipelines import files
from barlow.bench.pipelines.job import MEAN, STD, Job, Pipeline
from barlow.data import View, views

INTERPOLATION = {"bilinear": T.InterpolationMode.BILINEAR, "bicubic": T.InterpolationMode.BICUBIC}


def build(job: Job) -> Pipeline:
    """As in the official script: one Pillow image, one transform for each view."""
    return files.build(job, Views(job.views, job.output))


class Views:
    """From a file to its views, [3, size, size] each."""

    def __init__(self, recipe: list[View], output: str) -> None:
        self.transforms = [transform(view, output) for view in recipe]

    def __call__(self, path: str) -> list[Tensor]:
        """Decodes once."""
        with Image.open(path) as file:
            image = file.convert("RGB")
        return [view(image) for view in self.transforms]


def transform(view: View, output: str) -> T.Compose:
    """A view as torchvision's classes, with the official script's own blur and solarize."""
    crop = view.crop
    if isinstance(crop, views.RandomResizedCrop):
        steps: list[Any] = [
            T.RandomResizedCrop(crop.size, crop.scale, crop.ratio, INTERPOLATION[crop.interpolation])
        ]
    else:
        steps = [T.Resize(crop.resize, INTERPOLATION[crop.interpolation]), T.CenterCrop(crop.size)]
    steps += [_operation(step) for step in view.operations]
    ends = [T.ToTensor(), T.Normalize(MEAN, STD)] if output == "float32" else [T.PILToTensor()]
    return T.Compose(steps + ends)


def _operation(step: views.Operation) -> Any:
    match step:
        case views.Flip():
            return T.RandomHorizontalFlip(step.p)
        case views.ColorJitter():
            jitter = T.ColorJitter(step.brightness, step.contrast, step.saturation, step.hue)
            return T.RandomApply([jitter], step.p)
        case views.Grayscale():
            return T.RandomGrayscale(step.p)
        case views.GaussianBlur():
            return GaussianBlur(step.sigma, step.p)
        case views.Solarize():
            return Solarize(step.threshold, step.p)
        case _:
            raise ValueError(f"torchvision has no {step}")


class GaussianBlur:
    """Pillow's blur with its radius uniform in `sigma`, with probability `p`."""

    def __init__(self, sigma: views.Range, p: float) -> None:
        self.sigma, self.p = sigma, p

    def __call__(self, image: Image.Image) -> Image.Image:
        """A new image, or the same one."""
        if random.random() >= self.p:
            return image
        return image.filter(ImageFilter.GaussianBlur(random.uniform(*self.sigma)))


class Solarize:
    """Pillow's solarize with probability `p`."""

    def __init__(self, threshold: int, p: float) -> None:
        self.threshold, self.p = threshold, p

    def __call__(self, image: Image.Image) -> Image.Image:
        """A new image, or the same one."""
        return ImageOps.solarize(image, self.threshold) if random.random() < self.p else image
