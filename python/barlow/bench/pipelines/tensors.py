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
from barlow.bench.pipelines.torchvision_steps import steps
from barlow.data import View, views

BLUR_KERNEL = 13
"""Side in pixels: three deviations of the widest blur on each side."""


def build(job: Job) -> Pipeline:
    """One decoded tensor, one transform for each view."""
    return files.build(job, Views(job.views, job.output))


class Views(files.Decoded):
    """One tensor uint8 [3, H, W] for all views."""

    def __init__(self, recipe: list[View], output: str) -> None:
        super().__init__(_rgb, [transform(view, output) for view in recipe])


def _rgb(path: str) -> Tensor:
    return decode_image(read_file(path), ImageReadMode.RGB)


def transform(view: View, output: str) -> Any:
    """A view as v2 transforms of a tensor [3, H, W]."""
    ends = [T.ToDtype(torch.float32, scale=True), T.Normalize(MEAN, STD)] if output == "float32" else []
    return T.Compose(steps(T, view, _own) + ends)


def _own(step: views.Operation) -> Any:
    match step:
        case views.GaussianBlur():
            return T.RandomApply([T.GaussianBlur(BLUR_KERNEL, step.sigma)], step.p)
        case views.Solarize():
            return T.RandomSolarize(step.threshold, step.p)
        case _:
            raise ValueError(f"torchvision v2 has no {step}")
