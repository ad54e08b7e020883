"""Here: the official code's pipeline: Pillow images, torchvision's transforms, a DataLoader.

Not here: the recipe; the transforms are spelled from the same descriptions that everyone gets.
"""

from __future__ import annotations

import random
from typing import Any

from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms as T

from barlow.bench.pipelines import files
from barlow.bench.pipelines.job import MEAN, STD, Job, Pipeline
from barlow.bench.pipelines.torchvision_steps import steps
from barlow.data import View, views


def build(job: Job) -> Pipeline:
    """As in the official script: one Pillow image, one transform for each view."""
    return files.build(job, Views(job.views, job.output))


class Views(files.Decoded):
    """One Pillow image for all views."""

    def __init__(self, recipe: list[View], output: str) -> None:
        super().__init__(files.pillow_rgb, [transform(view, output) for view in recipe])


def transform(view: View, output: str) -> T.Compose:
    """A view as torchvision's classes, with the official script's own blur and solarize."""
    ends = [T.ToTensor(), T.Normalize(MEAN, STD)] if output == "float32" else [T.PILToTensor()]
    return T.Compose(steps(T, view, _own) + ends)


def _own(step: views.Operation) -> Any:
    match step:
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
