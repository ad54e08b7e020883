"""Here: what every protocol is given: the labelled images, one line of the results, features of both.

Not here: protocols (protocols.py lists them), the order in which they run (evaluation.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from barlow.config import Config
from barlow.data import VIEWS_VERSION, Index, views
from barlow.evaluate import features, sharing
from barlow.evaluate.cache import Draft, FeatureCache
from barlow.evaluate.console import Console
from barlow.evaluate.partition import Partition, Parts
from barlow.evaluate.unfinished import Part, Unfinished

Json = dict[str, Any]
Half = Literal["train", "test"]
RowName = Literal["trained", "untrained", "raw pixels"]


@dataclass(frozen=True)
class Row:
    """One line of the results: what turns images into features."""

    name: RowName
    backbone: nn.Module | None
    """Frozen, in evaluation mode, on the job's device; None: the pixels are the features. A protocol that
    trains it takes a copy."""
    forward: features.Forward
    size: int
    """Side of the images in pixels."""
    resize: int
    """Shorter side in pixels before the centre crop of the test view."""
    identity: Json | None = None
    """What the features are a function of beside images, view and precision; None: they are not worth keeping
    on disk."""
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

    parts: Parts
    """The labelled images; the plain index where there are no labels, and then no protocol runs."""
    config: Config
    device: torch.device
    dtype: torch.dtype
    """That features are computed in; they come as float32."""
    talk: Console
    cache: FeatureCache
    unfinished: Unfinished | None = None
    """What an evaluation that was interrupted has left, and this one will if it is."""
    _memory: _Memory = field(default_factory=lambda: _Memory())

    @property
    def labelled(self) -> Partition:
        """The two parts with one label for each image."""
        assert isinstance(self.parts, Partition)
        return self.parts

    @property
    def classes(self) -> list[str]:
        """Names of the classes, of images with one or with several."""
        assert not isinstance(self.parts, Index)
        return self.parts.class_names

    @property
    def num_classes(self) -> int:
        """How many there are."""
        return len(self.classes)

    def part(self, row: Row, protocol: str, seed: int) -> Part | None:
        """Where one protocol of one row and seed is kept until all of them are done."""
        name = f"{row.name.replace(' ', '-')}-{protocol}-{seed}"
        return None if self.unfinished is None else Part(self.unfinished, name)

    def features(self, row: Row, part: Half) -> Tensor:
        """The row's features of one part under the test view: float32 [N, F] on the CPU, in the index' order.

        Computed once for all protocols of a row.
        """
        parts = self._memory.of(row).parts
        if part not in parts:
            assert not isinstance(self.parts, Index)
            index = self.parts.train if part == "train" else self.parts.test
            (view,) = views.evaluation(size=row.size, resize=row.resize)
            what = f"{row.name}: {'training' if part == 'train' else 'test'} images"
            parts[part] = self.extract(row, index, view, what)
        return parts[part]

    def extract(self, row: Row, index: Index, view: views.View, what: str) -> Tensor:
        """The row's features of any images under any view: float32 [N, F] on the CPU."""
        with self.talk.stage(what) as progress, self._passes(row, index, view, progress=progress) as passes:
            return passes(0)

    def augmented(self, row: Row, seed: int, *, num_epochs: int, num_cached: int) -> features.Passes:
        """Features of the training images under the linear probe's view, one matrix an epoch; for `with`.

        With `num_cached` = 0 they are new ones every epoch, and others for every seed; otherwise so many are
        computed once for all seeds and protocols of a row, and cycled over. A rank that none of the row's
        rates falls to may get an empty one: there is one probe for each of them, trained by one rank.
        """
        (view,) = views.linear_probe(size=row.size)
        return self._passes(
            row,
            self.labelled.train,
            view,
            seed=0 if num_cached else seed,
            num_epochs=num_epochs,
            num_cached=num_cached,
            hold=len(sharing.own_items(row.factors)) > 0,
        )

    def _passes(
        self,
        row: Row,
        index: Index,
        view: views.View,
        *,
        seed: int = 0,
        num_epochs: int = 1,
        num_cached: int = 0,
        progress: features.Progress | None = None,
        hold: bool = True,
    ) -> features.Passes:
        worth_keeping = row.identity is not None and (num_epochs == 1 or num_cached > 0)
        key = {**(row.identity or {}), **self._look(index, view), "seed": seed}
        return features.Passes(
            index,
            view,
            row.forward,
            data=self.config.data,
            batch_size=self.config.evaluate.batch_size,
            device=self.device,
            seed=seed,
            num_epochs=num_epochs,
            num_cached=num_cached,
            progress=progress,
            shelf=_OnDisk(self.cache, key) if worth_keeping else None,
            memory=self._memory.of(row).crops if num_cached else None,
            shared=True,
            hold=hold,
        )

    def _look(self, index: Index, view: views.View) -> Json:
        """All that decides about the numbers that a network is given, and about how it computes."""
        return {
            "images": index.digest(),
            "view": views.describe(view),
            "views_version": VIEWS_VERSION,
            "mean": self.config.data.mean,
            "std": self.config.data.std,
            "precision": str(self.dtype),
            "device": self.device.type,
            "torch": torch.__version__,
        }


@dataclass
class _Memory:
    """Features of one row: the rows come one after the other, and those of two may not fit into memory."""

    row: str = ""
    parts: dict[Half, Tensor] = field(default_factory=dict)
    crops: dict[int, Tensor] = field(default_factory=dict)
    """By pass, under the linear probe's view."""

    def of(self, row: Row) -> _Memory:
        if row.name != self.row:
            self.row, self.parts, self.crops = row.name, {}, {}
        return self


@dataclass(frozen=True)
class _OnDisk:
    """The shelf of passes that differ by nothing but their number."""

    cache: FeatureCache
    key: Json

    def find(self, epoch: int) -> Tensor | None:
        return self.cache.find({**self.key, "pass": epoch})

    def begin(self, epoch: int, shape: tuple[int, int]) -> Draft | None:
        return self.cache.begin({**self.key, "pass": epoch}, shape)
