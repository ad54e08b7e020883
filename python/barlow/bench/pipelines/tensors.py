"""Here: torchvision's v2 transforms on uint8 tensors, decoded by torchvision.

Not here: the recipe.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.transforms import v2 as T

from barlow.bench.pipelines import files
from barlow.bench.pipelines.job import MEAN, STD, Job, Pipeline
from barlow.bench.pipelines.official import INTERPOLATION
from barlow.data import View, views

BLUR_KERNEL = 13
"""Side in pixels: three deviations of the widest blur on each side."""


def build(job: Job) -> Pipeline:
    """One decoded tensor, one transform for each view."""
    return files.build(job, Views(job.views, job.output))


class Views:
    """From a file to its views, [3, size, size] each."""

    def __init__(self, recipe: list[View], output: str) -> None:
        self.transforms = [transform(view, output) for view in recipe]

    def __call__(self, path: str) -> list[Tensor]:
        """Decodes once."""
        image = decode_image(read_file(path), ImageReadMode.RGB)
        return [view(image) for view in self.transforms]


def transform(view: View, output: str) -> Any:
    """A view as v2 transforms of a tensor [3, H, W]."""
    crop = view.crop
    interpolation = INTERPOLATION[crop.interpolation]
    if isinstance(crop, views.RandomResizedCrop):
        steps: list[Any] = [T.RandomResizedCrop(crop.size, crop.scale, crop.ratio, interpolation)]
    else:
        steps = [T.Resize(crop.resize, interpolation), T.CenterCrop(crop.size)]
    steps += [_operation(step) for step in view.operations]
    if output == "float32":
        steps += [T.ToDtype(torch.float32, scale=True), T.Normalize(MEAN, STD)]
    return T.Compose(steps)


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
            return T.RandomApply([T.GaussianBlur(BLUR_KERNEL, step.sigma)], step.p)
        case views.Solarize():
            return T.RandomSolarize(step.threshold, step.p)
        case _:
            raise ValueError(f"torchvision v2 has no {step}")
