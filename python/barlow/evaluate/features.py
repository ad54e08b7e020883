"""Here: images to feature matrices: a frozen network (or the bare pixels) over every image, in order.

Not here: what the features are used for; which images they are of; keeping them on disk (cache.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from barlow import distributed
from barlow.config import DataConfig
from barlow.data import Batch, Index, Loader
from barlow.data.device import normalise
from barlow.data.views import View
from barlow.evaluate import sharing
from barlow.model.precision import autocast

Forward = Callable[[Tensor], Tensor]
"""Normalised images float32 [B, 3, H, W] on the device -> features [B, F]."""
Progress = Callable[[int, int], None]
"""(images or epochs done, of how many)."""

_PATIENCE_S = 0.25
"""So long a batch is waited for before `gives_up` is asked again."""


def pixels(images_B3HW: Tensor) -> Tensor:
    """The images themselves as features [B, 3 * H * W]: the baseline that any network should beat."""
    return images_B3HW.flatten(1)


def network(backbone: nn.Module, dtype: torch.dtype) -> Forward:
    """The backbone as a function: evaluation mode, no gradients, autocast to `dtype` unless float32."""
    backbone.eval()

    def forward(images_B3HW: Tensor) -> Tensor:
        with autocast(images_B3HW.device, dtype):
            return backbone(images_B3HW).float()

    return forward


class GivenUp(Exception):
    """Whoever wanted the features does so no more."""


class Sheet(Protocol):
    """A matrix that is being computed; all ranks do the same with it at the same time."""

    def put(self, first_row: int, rows_BF: Tensor) -> None:
        """Consecutive rows of this rank."""
        ...

    def finish(self) -> Tensor | None:
        """The whole matrix float32 [N, F] on the CPU; None: it could not be kept, compute it anew."""
        ...

    def abandon(self) -> None:
        """Instead of `finish`, when something else has failed."""
        ...


class Shelf(Protocol):
    """Where passes are looked up before they are computed, and kept."""

    def find(self, epoch: int) -> Tensor | None:
        """The features of pass `epoch`, or None."""
        ...

    def begin(self, epoch: int, shape: tuple[int, int]) -> Sheet | None:
        """For the features of pass `epoch`; None: they are not to be kept."""
        ...


class _InMemory:
    """A sheet that gathers the rows of all ranks as they come; of those that don't hold it it gets [0, F]."""

    def __init__(self, shape: tuple[int, int], most_rows: int, *, shared: bool, holds: bool) -> None:
        self._features_NF = torch.empty(shape if holds else (0, shape[1]))
        self._most_rows, self._shared, self._holds, self._done = most_rows, shared, holds, 0

    def put(self, first_row: int, rows_BF: Tensor) -> None:
        all_BF = sharing.rows_of_all(rows_BF, self._most_rows) if self._shared else rows_BF
        if self._holds:
            self._features_NF[self._done : self._done + len(all_BF)] = all_BF
        self._done += len(all_BF)

    def finish(self) -> Tensor:
        if self._holds and self._done != len(self._features_NF):
            raise RuntimeError(f"the loader gave {self._done} of {len(self._features_NF)} images")
        return self._features_NF

    def abandon(self) -> None:
        pass


class Passes:
    """Feature matrices of the same images, one per augmented pass, in the order of the index.

    Calling it with an epoch gives float32 [N, F] on the CPU. With `num_cached` = 0 every epoch is a new
    pass over the data; otherwise the first `num_cached` passes are kept and cycled over. Pass p is a
    function of (`seed`, p) alone. `shelf` is asked first; `memory` keeps passes beyond this object. With
    `shared` all ranks take part: each computes `batch_size` images at a time, and all have the whole matrix;
    but where it is not kept, those that don't `hold` it have an empty one.
    To be used with `with`, which ends the loader's threads.
    """

    def __init__(
        self,
        index: Index,
        view: View,
        forward: Forward,
        *,
        data: DataConfig,
        batch_size: int,
        device: torch.device,
        seed: int = 0,
        num_epochs: int = 1,
        num_cached: int = 0,
        progress: Progress | None = None,
        on_error: Literal["raise", "replace"] = "raise",
        gives_up: Callable[[], bool] = lambda: False,
        shelf: Shelf | None = None,
        memory: dict[int, Tensor] | None = None,
        shared: bool = False,
        hold: bool = True,
    ) -> None:
        rank, world_size = (distributed.rank_in(), distributed.world_size()) if shared else (0, 1)
        self._most_rows = min(batch_size, -(-len(index) // world_size))
        self._batch_size = self._most_rows * world_size
        self._loader = Loader(
            index,
            views=[view],
            batch_size=self._batch_size,
            rank=rank,
            world_size=world_size,
            seed=seed,
            threads=data.threads,
            shuffle=False,
            drop_last=False,
            epochs=min(num_epochs, num_cached) or num_epochs,
            pin_memory=device.type == "cuda",
            on_error=on_error,
            max_replaced=data.max_replaced,
        )
        self._forward, self._data, self._device, self._gives_up = forward, data, device, gives_up
        self._num_images, self._num_cached, self._progress = len(index), num_cached, progress
        self._shelf, self._shared, self._hold = shelf, shared, hold
        self._cache: dict[int, Tensor] = {} if memory is None else memory

    def __call__(self, epoch: int) -> Tensor:
        """The features of epoch `epoch`, counted from 0."""
        number = epoch % self._num_cached if self._num_cached else epoch
        if number in self._cache:
            return self._cache[number]
        features_NF = self._shelf.find(number) if self._shelf is not None else None
        if features_NF is None and self._shelf is not None:
            features_NF = self._compute(number, self._shelf)
        if features_NF is None:
            features_NF = self._compute(number, None)
            assert features_NF is not None
        if self._num_cached:
            self._cache[number] = features_NF
        return features_NF

    @property
    def replaced(self) -> list[int]:
        """The rows of images that can't be decoded, where another one stands in (`on_error="replace"`)."""
        return [position for position, _ in self._loader.damaged]

    @torch.no_grad()
    def _compute(self, number: int, shelf: Shelf | None) -> Tensor | None:
        """One pass; None if it was to be kept and the disk gave up."""
        position = {"epoch": number, "step": 0}
        if self._loader.state_dict() != position:  # which would end the threads that prepare it
            self._loader.load_state_dict(position)
        sheet: Sheet | None = None
        done = 0
        try:
            for batch in self._batches():
                images_B3HW = normalise(batch.views[0], self._data.mean, self._data.std, device=self._device)
                rows_BF = self._forward(images_B3HW).float()
                sheet = sheet or self._sheet(number, rows_BF.shape[1], shelf)
                sheet.put(int(batch.ids[0]) if len(batch.ids) else 0, rows_BF)
                done = min(done + self._batch_size, self._num_images)
                if self._progress is not None:
                    self._progress(done, self._num_images)
        except BaseException:
            if sheet is not None:
                sheet.abandon()
            raise
        return torch.empty(0) if sheet is None else sheet.finish()

    def _sheet(self, number: int, num_features: int, shelf: Shelf | None) -> Sheet:
        shape = (self._num_images, num_features)
        kept = None if shelf is None else shelf.begin(number, shape)
        return kept or _InMemory(shape, self._most_rows, shared=self._shared, holds=self._hold)

    def _batches(self) -> Iterator[Batch]:
        batches = iter(self._loader)
        while True:
            while not self._loader.ready(_PATIENCE_S):
                if self._gives_up():
                    raise GivenUp
            if (batch := next(batches, None)) is None:
                return
            yield batch

    def __enter__(self) -> Passes:
        return self

    def __exit__(self, *error: object) -> None:
        self._loader.close()


def digest(module: nn.Module) -> str:
    """sha256 over every parameter and buffer, names and bytes: equal if and only if nothing changed."""
    hasher = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hasher.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()
