"""Here: lightly's ready-made transforms as its users take them, behind a DataLoader.

Not here: our descriptions: lightly has the recipes itself, and its DINO and BYOL are what is measured.
"""

# The package is optional.
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightly.transforms import BYOLTransform, BYOLView1Transform, BYOLView2Transform, DINOTransform
from torch import Tensor

from barlow.bench.pipelines import files
from barlow.bench.pipelines.job import Job, Pipeline
from barlow.data import views


def build(job: Job) -> Pipeline:
    """The transform of the task; `ValueError` for one that lightly has none for."""
    return files.build(job, Views(_transform(job)))


class Views:
    """From a file to its views, float32 [3, size, size] each."""

    def __init__(self, transform: Callable[[Any], list[Tensor]]) -> None:
        self.transform = transform

    def __call__(self, path: str) -> list[Tensor]:
        """Decodes once."""
        return self.transform(files.pillow_rgb(path))


def _transform(job: Job) -> Any:
    if job.task == "dino":
        first, local = job.views[0].crop, job.views[-1].crop
        assert isinstance(first, views.RandomResizedCrop)
        assert isinstance(local, views.RandomResizedCrop)
        return DINOTransform(
            global_crop_size=first.size,
            global_crop_scale=first.scale,
            local_crop_size=local.size,
            local_crop_scale=local.scale,
            n_local_views=len(job.views) - 2,
        )
    blur = job.task != "small"
    return BYOLTransform(
        BYOLView1Transform(job.size, gaussian_blur=1.0 if blur else 0.0),
        BYOLView2Transform(job.size, gaussian_blur=0.1 if blur else 0.0),
    )
