"""Here: training a classifier by SGD on augmented images: a head on a frozen backbone, or both together.

Not here: the published numbers (recipes.py), which images (partition.py, labelled.py), features that are
computed once and kept (features.py).

All ranks of a run share every batch: each takes its slice, the losses' sum is divided by the images of the
whole batch, and the gradients are added up, so the steps are those of a single process.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from barlow.config import DataConfig
from barlow.data import Index, Loader, normalise, views
from barlow.distributed import all_gather, all_reduce_, rank_in, world_size
from barlow.evaluate import accuracy
from barlow.evaluate.features import Progress
from barlow.evaluate.linear import INIT_STD, Result
from barlow.evaluate.partition import Partition
from barlow.evaluate.recipes import BatchNorm, Recipe
from barlow.evaluate.unfinished import Json, Part
from barlow.model import ViewBatchNorm, ViewBatchNorm1d, ViewBatchNorm2d
from barlow.model.parallel import data_parallel
from barlow.model.precision import autocast


class Head(nn.Module):
    """Features [N, num_features] to class scores float32 [N, num_classes]: linear, on a norm if wanted.

    Weights are drawn from N(0, 0.01) by `seed` alone, biases are 0 (official evaluate.py). The norm is over
    the samples of all ranks.
    """

    def __init__(self, num_features: int, num_classes: int, *, norm: bool, seed: int) -> None:
        super().__init__()
        self.norm = ViewBatchNorm1d(num_features) if norm else nn.Identity()
        self.linear = nn.Linear(num_features, num_classes)
        drawn = torch.randn(self.linear.weight.shape, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            self.linear.weight.copy_(drawn * INIT_STD)
            self.linear.bias.zero_()

    def forward(self, features_NF: Tensor) -> Tensor:
        """The scores; computed in float32 whatever the backbone ran in."""
        return self.linear(self.norm(features_NF.float()))


class Classifier(nn.Module):
    """Normalised images [N, 3, H, W] to class scores float32 [N, num_classes]."""

    def __init__(self, backbone: nn.Module, head: Head, dtype: torch.dtype) -> None:
        super().__init__()
        self.backbone, self.head, self._dtype = backbone, head, dtype

    def features(self, images_N3HW: Tensor) -> Tensor:
        """The backbone's output in `dtype`, as float32 [N, F]."""
        with autocast(images_N3HW.device, self._dtype):
            features_NF = self.backbone(images_N3HW)
        return features_NF.float()

    def forward(self, images_N3HW: Tensor) -> Tensor:
        """The scores."""
        return self.head(self.features(images_N3HW))


def train_classifier(
    backbone: nn.Module,
    parts: Partition,
    recipe: Recipe,
    *,
    data: DataConfig,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress | None = None,
    part: Part | None = None,
) -> tuple[Result, Classifier]:
    """Trains by `recipe` on the training images and classifies the test images after every epoch.

    Returns the accuracies and the classifier as the last epoch left it, in evaluation mode.

    `backbone` (images [N, 3, H, W] to features [N, backbone.num_features], on `device`) is never changed:
    where the recipe trains it, a copy of it is. Views are the official ones of `data.image_size` pixels:
    random resized crops and flips to train on, resize and centre crop to test on. `dtype` is the backbone's
    autocast (`model.precision`); head and loss are float32. Everything random is a function of `seed`; on
    CPUs the result is, too, for a given number of processes and threads. What `part` has of the training is
    not done again, and what is done is kept there after an epoch now and then.

    All ranks call it with the same arguments and get the same result. An epoch's short last batch is left
    out if it has less than an eighth of a batch, or fewer images than there are ranks, and is not the only
    one. `progress(epochs, of how many)`. `ValueError`: a batch that the ranks can't share
    evenly, fewer training images than it takes.
    """
    num_ranks = world_size()
    check_shares(recipe.batch_size)
    if len(parts.train) < max(2, num_ranks):
        raise ValueError(f"{len(parts.train)} training images are too few for {num_ranks} processes")
    head = Head(backbone.num_features, len(parts.class_names), norm=recipe.head_norm, seed=seed)  # pyright: ignore[reportArgumentType]
    tuned = recipe.lr_backbone > 0
    body = trainable(backbone, recipe.batch_norm) if tuned else backbone
    model = Classifier(body, head.to(device), dtype)
    was_training = backbone.training
    try:
        with _Images(parts, recipe, data, seed, device) as images:
            return _Training(model, recipe, images, device, dtype).run(progress, part), model.eval()
    finally:
        backbone.train(was_training)


def check_shares(batch_size: int) -> None:
    """`ValueError` if the ranks can't share a batch evenly, or it is too small for batch norm."""
    if batch_size % world_size() or batch_size < 2:
        raise ValueError(f"batches of {batch_size} images can't be shared by {world_size()} processes")


def left_out(num_images: int, batch_size: int) -> int:
    """How many of an epoch's images make up a last batch that is too short to train on; 0 if none is."""
    # The rate is a whole batch's: a step of a few images by it undoes more than they can teach. And where the
    # bound depends on the number of ranks, so do the numbers.
    rest = num_images % batch_size
    return rest if num_images > batch_size and rest < max(batch_size // 8, world_size()) else 0


def trainable(backbone: nn.Module, batch_norm: BatchNorm) -> nn.Module:
    """A copy of the backbone whose every parameter is trained and whose batch norm does as asked.

    `ValueError` for a batch norm that can't: on several ranks "local" is to be had of plain 2d ones alone,
    "synchronised" of those and of ours.
    """
    body = copy.deepcopy(backbone).requires_grad_(True)
    wanted = nn.BatchNorm2d if batch_norm == "local" else ViewBatchNorm2d
    for parent in list(body.modules()):
        for name, norm in list(parent.named_children()):
            # Exactly these: what a library has derived from them may do more than normalise.
            if type(norm) in (nn.BatchNorm2d, ViewBatchNorm2d) and type(norm) is not wanted:
                setattr(parent, name, _as(wanted, norm))
    others = [n for n in _norms(body) if isinstance(n, ViewBatchNorm) == (batch_norm == "local")]
    if others and batch_norm != "frozen" and world_size() > 1:
        raise ValueError(
            f"{type(others[0]).__name__} has no {batch_norm} statistics over {world_size()} processes"
        )
    return body.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _as(kind: type[nn.BatchNorm2d | ViewBatchNorm2d], norm: nn.Module) -> nn.Module:
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    made = kind(norm.num_features, eps=norm.eps, momentum=norm.momentum)  # pyright: ignore[reportArgumentType]
    made.load_state_dict(norm.state_dict())
    return made.to(norm.weight.device)


class _Training:
    """Model, optimizer and the test images' classification; `run` is all of it."""

    def __init__(
        self, model: Classifier, recipe: Recipe, images: _Images, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._model, self._recipe, self._images, self._device = model, recipe, images, device
        self._tuned = recipe.lr_backbone > 0
        # A frozen backbone's features need no gradient: only what is trained is wrapped.
        self._scores = data_parallel(model if self._tuned else model.head, static=True)
        self._optimizer = torch.optim.SGD(
            _groups(model, recipe), lr=0.0, momentum=recipe.momentum, nesterov=recipe.nesterov
        )
        self._scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self._kept: list[tuple[Tensor, Tensor]] = []

    def run(self, progress: Progress | None, part: Part | None) -> Result:
        trained = self._model if self._tuned else self._model.head
        begun = None if part is None else part.load(trained, self._optimizer)
        state: Json = begun or {"top1s": [], "top5": 0.0, "loss": 0.0, "scaler": {}}
        top1s: list[float] = state["top1s"]
        if begun is not None:
            self._scaler.load_state_dict(state["scaler"])
            self._images.go_on(len(top1s))
        for epoch in range(len(top1s), self._recipe.epochs):
            for group in self._optimizer.param_groups:
                group["lr"] = group["peak"] * self._recipe.rate_factor(epoch)
            state["loss"] = self._epoch()
            top1, state["top5"] = self._test()
            top1s.append(top1)
            if part is not None:
                part.save(trained, self._optimizer, {**state, "scaler": self._scaler.state_dict()})
            if progress is not None:
                progress(epoch + 1, self._recipe.epochs)
        best = max(range(len(top1s)), key=top1s.__getitem__)
        shown = state["top5"] if self._images.num_classes > 5 else None
        return Result(top1s[-1], shown, top1s[best], best + 1, state["loss"])

    def _epoch(self) -> float:
        """One pass over the training images; the mean cross-entropy of its steps' images."""
        self._set_mode()
        total, count = torch.zeros((), device=self._device, dtype=torch.float64), 0
        for images_B3HW, labels_B, num_images in self._images.training():
            inputs = images_B3HW if self._tuned else self._features(images_B3HW)
            loss = functional.cross_entropy(self._scores(inputs), labels_B, reduction="sum")
            self._optimizer.zero_grad()
            # data_parallel takes the mean over the ranks; the whole batch's gradient is their sum.
            self._scaler.scale(loss * (world_size() / num_images)).backward()
            self._scaler.step(self._optimizer)
            self._scaler.update()
            total += loss.detach()
            count += num_images
        return (all_reduce_(total) / count).item()

    def _set_mode(self) -> None:
        self._model.head.train()
        self._model.backbone.train(self._tuned)
        if self._recipe.batch_norm == "frozen":
            for norm in _norms(self._model.backbone):
                norm.eval()

    @torch.no_grad()
    def _features(self, images_B3HW: Tensor) -> Tensor:
        return self._model.features(images_B3HW)

    @torch.no_grad()
    def _test(self) -> tuple[float, float]:
        """Top-1 and top-5 in percent of all test images; each rank classifies its share."""
        if self._recipe.batch_norm == "local" and self._tuned:
            _take_buffers_of_first_rank(self._model.backbone)
        self._model.eval()
        counts = torch.zeros(2, dtype=torch.int64, device=self._device)
        for inputs, labels_B in self._testing():
            scores_BC = self._model(inputs) if self._tuned else self._model.head(inputs)
            counts += torch.stack([accuracy.hits(scores_BC, labels_B, k).sum() for k in (1, 5)])
        top1, top5 = (100.0 * all_reduce_(counts).double() / self._images.num_tests).tolist()
        return top1, top5

    def _testing(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of this rank's share; of a frozen backbone features, computed once and kept."""
        if self._tuned:
            yield from self._images.testing()
        elif self._kept:
            yield from self._kept
        else:
            self._kept = [(self._features(images), labels) for images, labels in self._images.testing()]
            yield from self._kept


class _Images:
    """The labelled batches of this rank, on the device. To be used with `with`, which ends the threads."""

    def __init__(
        self, parts: Partition, recipe: Recipe, data: DataConfig, seed: int, device: torch.device
    ) -> None:
        self._parts, self._data, self._device = parts, data, device
        self._batch_size = recipe.batch_size
        self.num_classes, self.num_tests = len(parts.class_names), len(parts.test)
        self._training = self._loader(
            parts.train, views.linear_probe(data.image_size), recipe.epochs, seed, shuffle=True
        )
        self._test_passes = recipe.epochs if recipe.lr_backbone > 0 else 1
        self._testing = self._loader(
            parts.test,
            views.evaluation(data.image_size, data.eval_resize),
            self._test_passes,
            seed,
            shuffle=False,
        )

    def _loader(
        self, index: Index, view: list[views.View], epochs: int, seed: int, *, shuffle: bool
    ) -> Loader:
        return Loader(
            index,
            views=view,
            batch_size=self._batch_size,
            seed=seed,
            rank=rank_in(),
            world_size=world_size(),
            threads=self._data.threads,
            shuffle=shuffle,
            drop_last=False,
            epochs=epochs,
            pin_memory=self._device.type == "cuda",
        )

    def go_on(self, epoch: int) -> None:
        """From an epoch on, counted from 0; those before it are not loaded."""
        self._training.load_state_dict({"epoch": epoch, "step": 0})
        if self._test_passes > 1:
            self._testing.load_state_dict({"epoch": epoch, "step": 0})

    def training(self) -> Iterator[tuple[Tensor, Tensor, int]]:
        """One epoch: images float32 [b, 3, H, W], labels int64 [b], images of the whole batch."""
        for batch in self._training:
            num_images = min(self._batch_size, len(self._parts.train) - batch.step * self._batch_size)
            if num_images != left_out(len(self._parts.train), self._batch_size):
                yield (*self._to_device(batch.views[0], self._parts.train_labels_N[batch.ids]), num_images)

    def testing(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's share of the test images, and their labels."""
        for batch in self._testing:
            if len(batch.ids):
                yield self._to_device(batch.views[0], self._parts.test_labels_M[batch.ids])

    def _to_device(self, view: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        images = normalise(view, self._data.mean, self._data.std, device=self._device)
        return images, labels.to(self._device)

    def __enter__(self) -> _Images:
        return self

    def __exit__(self, *error: object) -> None:
        self._training.close()
        self._testing.close()


def _groups(model: Classifier, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameters by learning rate and decay; `peak` is the rate that the schedule multiplies."""
    groups: list[dict[str, Any]] = []
    for module, peak in ((model.backbone, recipe.lr_backbone), (model.head, recipe.lr_head)):
        if peak == 0:
            continue
        of_norms = {id(p) for norm in _norms(module) for p in norm.parameters()}
        spared = [p for p in module.parameters() if id(p) in of_norms and not recipe.decay_norms]
        rest = [p for p in module.parameters() if id(p) not in of_norms or recipe.decay_norms]
        groups.append({"params": rest, "peak": peak, "weight_decay": recipe.weight_decay})
        if spared:
            groups.append({"params": spared, "peak": peak, "weight_decay": 0.0})
    return groups


def _norms(module: nn.Module) -> list[nn.Module]:
    return [each for each in module.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]


def _take_buffers_of_first_rank(module: nn.Module) -> None:
    """Running statistics that every rank kept for itself become rank 0's, as in the official code."""
    floats = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    if world_size() == 1 or not floats:
        return
    first = all_gather(torch.cat([buffer.flatten() for buffer in floats]))[0]
    for buffer, values in zip(floats, first.split([b.numel() for b in floats]), strict=True):
        buffer.copy_(values.view_as(buffer))
