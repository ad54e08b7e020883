"""Here: images to feature matrices: a frozen network (or the bare pixels) over every image, in order.

Not here: what the features are used for; which images they are of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from barlow.config import DataConfig
from barlow.data import Batch, Index, Loader
from barlow.data.device import normalise
from barlow.data.views import View
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


class Passes:
    """Feature matrices of the same images, one per augmented pass, in the order of the index.

    Calling it with an epoch gives float32 [N, F] on the CPU. With `num_cached` = 0 every epoch is a new
    pass over the data; otherwise the first `num_cached` passes are kept and cycled over. Pass p is a
    function of (`seed`, p) alone. The `num_epochs` epochs must be asked for once and in order. To be used
    with `with`, which ends the loader's threads.
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
    ) -> None:
        self._loader = Loader(
            index,
            views=[view],
            batch_size=min(batch_size, len(index)),
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
        self._cache: list[Tensor] = []
        self._next = 0

    def __call__(self, epoch: int) -> Tensor:
        """The features of epoch `epoch`, counted from 0."""
        if self._num_cached and epoch >= self._num_cached:
            return self._cache[epoch % self._num_cached]
        assert epoch == self._next, f"pass {epoch} asked for after {self._next} passes"
        features_NF = self._compute()
        self._next += 1
        if self._num_cached:
            self._cache.append(features_NF)
        return features_NF

    @property
    def replaced(self) -> list[int]:
        """The rows of images that can't be decoded, where another one stands in (`on_error="replace"`)."""
        return [position for position, _ in self._loader.damaged]

    @torch.no_grad()
    def _compute(self) -> Tensor:
        features_NF = torch.empty(0)
        done = 0
        for batch in self._batches():
            images_B3HW = normalise(batch.views[0], self._data.mean, self._data.std, device=self._device)
            part_BF = self._forward(images_B3HW)
            if done == 0:
                features_NF = torch.empty(self._num_images, part_BF.shape[1])
            features_NF[done : done + len(part_BF)] = part_BF
            done += len(part_BF)
            if self._progress is not None:
                self._progress(done, self._num_images)
        if done != self._num_images:
            raise RuntimeError(f"the loader gave {done} of {self._num_images} images")
        return features_NF

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
