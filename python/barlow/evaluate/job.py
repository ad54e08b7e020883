"""Here: what every protocol is given: the labelled images, one line of the results, features of both.

Not here: protocols (protocols.py lists them), the order in which they run (evaluation.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from barlow.config import Config
from barlow.data import Index, views
from barlow.evaluate import features
from barlow.evaluate.console import Console
from barlow.evaluate.partition import Partition

Json = dict[str, Any]
Part = Literal["train", "test"]


@dataclass(frozen=True)
class Row:
    """One line of the results: what turns images into features."""

    name: Literal["trained", "untrained", "raw pixels"]
    backbone: nn.Module | None
    """Frozen, in evaluation mode, on the job's device; None: the pixels are the features. A protocol that
    trains it takes a copy."""
    forward: features.Forward
    size: int
    """Side of the images in pixels."""
    resize: int
    """Shorter side in pixels before the centre crop of the test view."""
    factors: tuple[float, ...] = (1.0,)
    """Learning rates that a probe tries, relative to its own; the best on the test images counts, which
    only baselines are given."""

    @property
    def key(self) -> str | None:
        """The entry of eval.json that holds the row; None: the file itself does."""
        return None if self.name == "trained" else self.name.replace(" ", "_")


@dataclass(frozen=True)
class Job:
    """One evaluation: the images and settings that every row of the table shares.

    All ranks make the same job and call the same methods in the same order (barlow.distributed says who
    takes part); every method gives the same on all of them.
    """

    parts: Partition | Index
    """The labelled images; the plain index where there are no labels, and then no protocol runs."""
    config: Config
    device: torch.device
    talk: Console
    _kept: dict[tuple[str, Part], Tensor] = field(default_factory=dict)

    @property
    def labelled(self) -> Partition:
        """The two parts with their labels."""
        assert isinstance(self.parts, Partition)
        return self.parts

    @property
    def num_classes(self) -> int:
        """Of the labelled images."""
        return len(self.labelled.class_names)

    def features(self, row: Row, part: Part) -> Tensor:
        """The row's features of one part under the test view: float32 [N, F] on the CPU, in the index' order.

        Computed once for all protocols of a row.
        """
        if (row.name, part) not in self._kept:
            for other in [key for key in self._kept if key[0] != row.name]:
                del self._kept[other]
            index = self.labelled.train if part == "train" else self.labelled.test
            (view,) = views.evaluation(size=row.size, resize=row.resize)
            what = f"{row.name}: {'training' if part == 'train' else 'test'} images"
            self._kept[row.name, part] = self.extract(row, index, view, what)
        return self._kept[row.name, part]

    def extract(self, row: Row, index: Index, view: views.View, what: str) -> Tensor:
        """The row's features of any images under any view: float32 [N, F] on the CPU."""
        with (
            self.talk.stage(what) as progress,
            features.Passes(
                index,
                view,
                row.forward,
                data=self.config.data,
                batch_size=self.config.evaluate.batch_size,
                device=self.device,
                progress=progress,
            ) as passes,
        ):
            return passes(0)

    def augmented(self, row: Row, seed: int, *, num_epochs: int, num_cached: int) -> features.Passes:
        """Features of the training images under the linear probe's view, one matrix an epoch; for `with`."""
        (view,) = views.linear_probe(size=row.size)
        return features.Passes(
            self.labelled.train,
            view,
            row.forward,
            data=self.config.data,
            batch_size=self.config.evaluate.batch_size,
            device=self.device,
            seed=seed,
            num_epochs=num_epochs,
            num_cached=num_cached,
        )
