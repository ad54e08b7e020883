"""Here: training a C4 detector on images with boxes, and finding the objects of test images by it.

Not here: the network (c4.py), the schedule's numbers (recipe.py), average precision, reading VOC.

All ranks share every batch; the gradient is the mean over the images, batch norm is over all of them. Which
regions a detector samples is drawn on each rank, so the number of ranks changes the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from barlow.data import Order
from barlow.distributed import all_reduce_, gather_values, rank_in, world_size
from barlow.evaluate.detection.average_precision import Found
from barlow.evaluate.detection.c4 import Target
from barlow.evaluate.detection.recipe import DetectionRecipe
from barlow.evaluate.unfinished import Part
from barlow.model.parallel import data_parallel

Progress = Callable[[int, int], None]
_FIRST_PIXEL = np.array([1.0, 1.0, 0.0, 0.0])
"""What makes edges counted from 0 VOC's pixels, which are counted from 1 and of which the last is inside."""


class Examples(Protocol):
    """Images float32 [3, H, W] in [0, 1] with their objects."""

    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> tuple[Tensor, Target]: ...


def train_detector(
    detector: GeneralizedRCNN,
    examples: Examples,
    ids: Sequence[int],
    recipe: DetectionRecipe,
    *,
    seed: int,
    device: torch.device,
    workers: int = 0,
    progress: Progress | None = None,
    part: Part | None = None,
) -> list[float]:
    """Trains on `examples[i]` for i in `ids`, in place, and returns the mean loss of every step.

    Images come in passes over `ids`, each in an order that `seed` draws, and are flipped with probability
    one half; masks are flipped along. On a CPU a seed gives the same numbers again for the same number of
    ranks, whatever torch's global random state, which is left as it was. `workers`: processes that read
    images on each rank, 0 for none. What `part` has of it is not trained again, and what is trained is kept
    there now and then. `ValueError`: too few images for a batch, a batch that the ranks can't
    share evenly, an example that can't be had; `FloatingPointError`: a loss that is not finite, which no
    later step would mend.
    """
    if recipe.batch_size % world_size():
        raise ValueError(f"batches of {recipe.batch_size} images can't be shared by {world_size()} processes")
    if len(ids) < recipe.batch_size:
        raise ValueError(f"{len(ids)} images with objects are too few for batches of {recipe.batch_size}")
    parallel = data_parallel(detector)
    optimizer = torch.optim.SGD(_groups(detector, recipe), lr=0.0, momentum=recipe.momentum)
    begun = None if part is None else part.load(detector, optimizer)
    losses: list[float] = [] if begun is None else begun["losses"]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        detector.train()
        batches = _batches(examples, ids, recipe, seed, workers, first=len(losses))
        for step, batch in enumerate(batches, len(losses)):
            # Of regions, sizes and flips: a function of seed, step and rank, so no state has to be kept.
            torch.manual_seed((seed * recipe.steps + step) * world_size() + rank_in())
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step)
            images, targets = zip(*(_flipped(*example) for example in batch), strict=True)
            moved = [{name: t.to(device) for name, t in target.items()} for target in targets]
            of_kind = parallel([image.to(device) for image in images], moved)
            loss = torch.stack(list(of_kind.values())).sum()
            losses.append(_mean_over_ranks(loss, step))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if part is not None:
                part.save(detector, optimizer, {"losses": losses}, last=step + 1 == recipe.steps)
            if progress is not None:
                progress(step + 1, recipe.steps)
    return losses


def _mean_over_ranks(loss: Tensor, step: int) -> float:
    value = (all_reduce_(loss.detach().clone()) / world_size()).item()
    if not np.isfinite(value):
        raise FloatingPointError(f"the loss of step {step} is {value}: the detector diverged")
    return value


def _groups(detector: nn.Module, recipe: DetectionRecipe) -> list[dict[str, object]]:
    norms = [m for m in detector.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    of_norms = {id(p) for norm in norms for p in norm.parameters()}
    trained = [p for p in detector.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if id(p) not in of_norms], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if id(p) in of_norms], "weight_decay": 0.0},
    ]


def _batches(
    examples: Examples,
    ids: Sequence[int],
    recipe: DetectionRecipe,
    seed: int,
    workers: int,
    *,
    first: int,
) -> Iterator[list[tuple[Tensor, Target]]]:
    """This rank's part of each step's batch, from the step `first` on."""
    order = Order(len(ids), recipe.batch_size, seed=seed, rank=rank_in(), world_size=world_size())
    positions = [
        [ids[int(i)] for i in order.batch(*divmod(step, order.steps_per_epoch))]
        for step in range(first, recipe.steps)
    ]
    for batch in torch.utils.data.DataLoader(
        _Told(examples),  # pyright: ignore[reportArgumentType] (it needs no more than `Examples`)
        batch_sampler=positions,
        num_workers=workers,
        collate_fn=list,
    ):
        for example in batch:
            if isinstance(example, str):
                raise ValueError(example)
        yield batch


class _Told:
    """Examples, or what is wrong with one, in words: a worker's exception would come as a whole traceback."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, i: int) -> tuple[Tensor, Target] | str:
        try:
            return self._examples[i]
        except ValueError as error:
            return str(error)


def _flipped(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Both, mirrored with probability one half."""
    if torch.rand(()) < 0.5:
        return image, target
    x0, y0, x1, y1 = target["boxes"].unbind(1)
    width = image.shape[-1]
    mirrored = {**target, "boxes": torch.stack([width - x1, y0, width - x0, y1], 1)}
    if "masks" in target:
        mirrored["masks"] = target["masks"].flip(-1)
    return image.flip(-1), mirrored


@torch.no_grad()
def find_objects(
    detector: GeneralizedRCNN, examples: Examples, *, device: torch.device, progress: Progress | None = None
) -> list[Found]:
    """What the detector finds in every image, in their order and the same on all ranks, which share the work.

    Boxes are as VOC counts pixels: from 1, the last pixel inside.
    """
    detector.eval()
    own = range(rank_in(), len(examples), world_size())
    rows = []
    for done, i in enumerate(own, 1):
        image, _ = examples[i]
        (found,) = detector([image.to(device)])
        rows.append([found[name].tolist() for name in ("boxes", "labels", "scores")])
        if progress is not None:
            progress(min(done * world_size(), len(examples)), len(examples))
    by_rank = gather_values(rows)
    every = [by_rank[i % world_size()][i // world_size()] for i in range(len(examples))]
    return [
        Found(
            np.array(boxes, dtype=np.float64).reshape(-1, 4) + _FIRST_PIXEL,
            np.array(labels, dtype=np.int64),
            np.array(scores, dtype=np.float64),
        )
        for boxes, labels, scores in every
    ]
