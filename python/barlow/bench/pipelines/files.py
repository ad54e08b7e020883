"""Here: images as files behind torch's DataLoader, which several of the peers share.

Not here: transforms; each peer has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from barlow.bench.pipelines.job import Batch, Job, Pipeline, several


def pillow_rgb(path: str) -> Image.Image:
    """The image as most pipelines open it."""
    with Image.open(path) as file:
        return file.convert("RGB")


class Decoded:
    """From a file to its views, [3, size, size] each: decoded once, then one transform for each view."""

    def __init__(self, decode: Callable[[str], Any], transforms: Sequence[Callable[[Any], Tensor]]) -> None:
        self.decode, self.transforms = decode, transforms

    def __call__(self, path: str) -> list[Tensor]:
        """The views of one file."""
        image = self.decode(path)
        return [transform(image) for transform in self.transforms]


class Files(Dataset[list[Tensor]]):
    """`views(path)` of every file: decoded once, one tensor for each view."""

    def __init__(self, files: list[str], views: Callable[[str], list[Tensor]]) -> None:
        self.files, self.views = files, views

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> list[Tensor]:
        return self.views(self.files[i])


def build(job: Job, views: Callable[[str], list[Tensor]]) -> Pipeline:
    """One core: no worker processes, the fair case for it; else one worker for each core."""
    torch.set_num_threads(1)
    workers = job.threads if job.threads > 1 else 0
    options: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
    loader = DataLoader(Files(job.files, views), job.batch_size, shuffle=True, **options)

    def epoch(turn: int) -> Iterator[Batch]:
        torch.manual_seed(turn)
        yield from loader

    return Pipeline(epoch, several(workers, "process") if workers else "in one thread")
