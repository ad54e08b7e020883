"""Here: what a pipeline is given and what it gives back.

Not here: any pipeline.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from barlow.bench.tasks import TASKS
from barlow.config import IMAGENET_MEAN, IMAGENET_STD
from barlow.data import View

MEAN, STD = IMAGENET_MEAN, IMAGENET_STD

Batch = Sequence[Any]
"""For each view an array [N, 3, H, W] (torch or NumPy); of bare decoding N arrays [H, W, 3] or
their shapes."""


@dataclass(frozen=True)
class Job:
    """One pipeline's work; it travels to its process as JSON."""

    pipeline: str
    task: str
    size: int
    output: str
    """float32 (normalised by ImageNet's mean and deviation) or uint8."""
    threads: int
    cpus: list[int]
    batch_size: int
    """Divides the number of images."""
    index: str
    """Path of the index of these images."""
    files: list[str]
    """The same images as files, in the same order."""

    @property
    def views(self) -> list[View]:
        """What to make of each image."""
        return TASKS[self.task].views(self.size)

    def batches(self, turn: int) -> list[list[int]]:
        """The positions of a round's images in an order of its own, in batches."""
        order = random.Random(turn).sample(range(len(self.files)), len(self.files))
        return [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]


@dataclass
class Pipeline:
    """Something that makes the views of all images, round by round."""

    round: Callable[[int], Iterable[Batch]]
    """From the number of the round to its batches. Nothing may be prepared before it is asked for or be
    left over at the end: what runs between rounds would be timed with somebody else."""
    workers: str
    """What works: "1 thread", "2 processes"."""
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds of work of the newest round by stage, where the pipeline tells."""


def several(count: int, what: str) -> str:
    """`count` of `what`, in English."""
    return f"{count} {what}{'' if count == 1 else 'es' if what.endswith('s') else 's'}"
