"""Here: the linear probe on frozen features: a softmax regression trained by SGD.

Not here: computing the features (job.py); what an epoch's augmented views are.

Source of the protocol: the paper, appendix B.1, and the official evaluate.py: weights drawn from
N(0, 0.01), biases 0, SGD with momentum 0.9 (no Nesterov), cosine learning rate stepped once per epoch,
weight decay on weights and biases alike, batches of 256, last short batch kept.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from barlow.config import Config, EvaluateConfig
from barlow.distributed import all_reduce_, rank_in, world_size
from barlow.evaluate import accuracy, published, sharing
from barlow.evaluate.job import Job, Json, Row
from barlow.evaluate.unfinished import Part

MOMENTUM = 0.9
INIT_STD = 0.01
_ROWS = 65_536


def run(job: Job, row: Row, seed: int) -> Json:
    """`top1`, `top5` and `best_top1` of the test images in percent, `best_epoch`, `train_loss`, the rate."""
    settings = job.config.evaluate
    with (
        job.talk.stage(f"{row.name}: linear probe, epochs") as progress,
        job.augmented(
            row, seed, num_epochs=settings.linear_epochs, num_cached=settings.linear_crops
        ) as passes,
    ):
        results = probe(
            passes,
            job.labelled.train_labels_N,
            job.features(row, "test"),
            job.labelled.test_labels_M,
            num_classes=job.num_classes,
            config=settings,
            seed=seed,
            device=job.device,
            factors=row.factors,
            progress=progress,
            part=job.part(row, "linear", seed),
        )
    best = max(range(len(results)), key=lambda i: results[i].top1)
    result = results[best]
    return short_batch("linear probe", job) | {
        "top1": result.top1,
        "top5": result.top5,
        "best_top1": accuracy.rounded(result.best_top1),
        "best_epoch": result.best_epoch,
        "train_loss": round(result.train_loss, 4) if math.isfinite(result.train_loss) else None,
        "learning_rate": settings.linear_lr * row.factors[best],
    }


def short_batch(title: str, job: Job) -> Json:
    """The note that all training images together make less than one batch, if they do."""
    num_images, batch_size = len(job.labelled.train), job.config.evaluate.linear_batch_size
    if num_images >= batch_size:
        return {}
    return {"notes": [f"{title}: {num_images} images a step, which is all, not {batch_size}"]}


def settings(config: Config) -> Json:
    """For eval.json."""
    settings = config.evaluate
    return {
        "epochs": settings.linear_epochs,
        "learning_rate": settings.linear_lr,
        "schedule": "cosine per epoch",
        "momentum": MOMENTUM,
        "weight_decay": settings.linear_weight_decay,
        "batch_size": settings.linear_batch_size,
        "init_std": INIT_STD,
        "cached_crops": settings.linear_crops,
        "standardized": settings.linear_standardize,
        "training_view": f"random resized crop to {config.data.image_size} px (bilinear), flip",
    }


def deviations(config: Config) -> list[str]:
    """From the official evaluate.py."""
    settings = config.evaluate
    told = published.differences(
        config,
        "linear probe",
        (
            ("linear_epochs", "epochs"),
            ("linear_lr", "learning rate"),
            ("linear_batch_size", "images per step"),
            ("linear_weight_decay", "weight decay"),
        ),
    )
    if settings.linear_crops and settings.linear_crops < settings.linear_epochs:
        told.append(
            f"linear probe: {settings.linear_crops} augmented views of each training image, cached and "
            "cycled over, instead of new ones every epoch"
        )
    if settings.linear_standardize:
        told.append("linear probe: every feature is standardised by the training images")
    return told


@dataclass(frozen=True)
class Result:
    """What a probe reached on the test features; accuracies in percent."""

    top1: float
    """After the last epoch: the number to report."""
    top5: float | None
    """After the last epoch; None for five classes or fewer, where it says nothing."""
    best_top1: float
    """The best epoch's, chosen on the test set: an upper bound, not a result."""
    best_epoch: int
    """Which epoch that was, counted from 1."""
    train_loss: float
    """Mean cross-entropy of the last epoch's steps."""


def probe(
    passes: Callable[[int], Tensor],
    labels_N: Tensor,
    test_MF: Tensor,
    test_labels_M: Tensor,
    *,
    num_classes: int,
    config: EvaluateConfig,
    seed: int,
    device: torch.device,
    factors: Sequence[float] = (1.0,),
    rows_T: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
    part: Part | None = None,
) -> list[Result]:
    """Trains one probe for each of `factors` and measures them after every epoch.

    `passes(epoch)` gives the float32 [N, F] features of the training images in epoch `epoch` (row i is
    image i, label `labels_N[i]`); it is called once per epoch, in order. `rows_T` are the rows to train on,
    by default all. `factors` multiply the learning rate: the probes start alike and see the same batches in
    one pass over the features. Everything random is a function of `seed`. A probe whose loss is not finite
    ends with `top1` 0. The ranks share the probes: each trains some of them, and one that trains none looks
    at no features. What `part` has of them is not trained again, and what is done is kept there after an
    epoch now and then.
    """
    if config.linear_epochs < 1:
        raise ValueError(f"evaluate.linear_epochs must be at least 1, not {config.linear_epochs}")
    generator = torch.Generator().manual_seed(seed)
    features_NF = passes(0) if config.linear_standardize else None
    rows_T = torch.arange(len(labels_N)) if rows_T is None else rows_T
    shift_F, scale_F = (t.to(device) for t in _standardization(features_NF, rows_T))
    test_MF, test_labels_M = (test_MF.to(device) - shift_F) * scale_F, test_labels_M.to(device)
    first = _head(test_MF.shape[1], num_classes, generator)
    every = [copy.deepcopy(first).to(device) for _ in factors]
    module = nn.ModuleList(every)
    heads = sharing.own_items(list(zip(every, factors, strict=True)))
    optimizer = _optimizer(heads, config)
    histories = [_History() for _ in factors]
    begun = None if part is None else part.load(module, optimizer)
    done = 0 if begun is None else int(begun["epochs"])
    for _ in range(done):  # so that the epochs that follow are in their own order
        torch.randperm(len(rows_T), generator=generator)
    for so_far, known in zip(histories, [] if begun is None else begun["heads"], strict=False):
        so_far.top1s, so_far.top5, so_far.loss = known
    history = sharing.own_items(histories)
    for epoch in range(done, config.linear_epochs):
        features_NF = passes(epoch) if features_NF is None or epoch > 0 else features_NF
        if optimizer is not None:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(epoch, config) * group["factor"]
            total_H = torch.zeros(len(heads), device=device)
            shuffled_T = rows_T[torch.randperm(len(rows_T), generator=generator)]
            for ids_B in shuffled_T.split(config.linear_batch_size):
                batch_BF = (features_NF[ids_B].to(device) - shift_F) * scale_F
                total_H += _step(heads, optimizer, batch_BF, labels_N[ids_B].to(device)) * len(ids_B)
            losses = (total_H / len(rows_T)).tolist()
            for (head, _), so_far, loss in zip(heads, history, losses, strict=True):
                so_far.add(head, test_MF, test_labels_M, loss)
        if part is not None and part.due():
            _take_from_others(every, optimizer)
            known = sharing.of_all([[so_far.top1s, so_far.top5, so_far.loss] for so_far in history])
            part.save(module, optimizer, {"epochs": epoch + 1, "heads": known})
        if progress is not None:
            progress(epoch + 1, config.linear_epochs)
    own = [dataclasses.asdict(so_far.result(num_classes)) for so_far in history]
    return [Result(**found) for found in sharing.of_all(own)]


@torch.no_grad()
def _take_from_others(every: Sequence[nn.Module], optimizer: torch.optim.SGD | None) -> None:
    """The first rank's copies of the heads that others train become those, momentum and all: to be saved."""
    if world_size() == 1:
        return
    for i, head in enumerate(every):
        is_own = sharing.owner(i) == rank_in()
        for parameter in head.parameters():
            both = torch.zeros(2, *parameter.shape, device=parameter.device)
            if is_own and optimizer is not None:
                both = torch.stack([parameter, optimizer.state[parameter]["momentum_buffer"]])
            all_reduce_(both)  # to which all others add zeros
            if rank_in() == 0 and not is_own and optimizer is not None:
                parameter.copy_(both[0])
                optimizer.state[parameter]["momentum_buffer"] = both[1]


def _optimizer(heads: Sequence[tuple[nn.Linear, float]], config: EvaluateConfig) -> torch.optim.SGD | None:
    """One for all heads, each with its own rate; None for a rank that has none."""
    groups = [{"params": head.parameters(), "factor": factor} for head, factor in heads]
    if not groups:
        return None
    return torch.optim.SGD(groups, momentum=MOMENTUM, weight_decay=config.linear_weight_decay)


class _History:
    """The accuracies of one head over the epochs."""

    def __init__(self) -> None:
        self.top1s: list[float] = []
        self.top5 = 0.0
        self.loss = 0.0

    def add(self, head: nn.Linear, test_MF: Tensor, labels_M: Tensor, loss: float) -> None:
        with torch.no_grad():
            scores_MC = head(test_MF)
        self.top1s.append(accuracy.percent(accuracy.hits(scores_MC, labels_M, 1)))
        self.top5 = accuracy.percent(accuracy.hits(scores_MC, labels_M, 5))
        self.loss = loss

    def result(self, num_classes: int) -> Result:
        best = max(range(len(self.top1s)), key=self.top1s.__getitem__)
        top5 = self.top5 if num_classes > 5 else None
        return Result(self.top1s[-1], top5, self.top1s[best], best + 1, self.loss)


def _step(
    heads: Sequence[tuple[nn.Linear, float]],
    optimizer: torch.optim.Optimizer,
    batch_BF: Tensor,
    labels_B: Tensor,
) -> Tensor:
    """One step of every head; their losses [H] before it. The heads share nothing, so the sum's gradient
    is each head's own."""
    losses_H = torch.stack([functional.cross_entropy(head(batch_BF), labels_B) for head, _ in heads])
    optimizer.zero_grad()
    losses_H.sum().backward()
    optimizer.step()
    return losses_H.detach()


def learning_rate(epoch: int, config: EvaluateConfig) -> float:
    """The rate of a whole epoch (counted from 0): half a cosine from `linear_lr` towards 0."""
    return config.linear_lr * 0.5 * (1 + math.cos(math.pi * epoch / config.linear_epochs))


def _head(num_features: int, num_classes: int, generator: torch.Generator) -> nn.Linear:
    head = nn.Linear(num_features, num_classes)
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator) * INIT_STD)
        head.bias.zero_()
    return head


def _standardization(features_NF: Tensor | None, rows_T: Tensor) -> tuple[Tensor, Tensor]:
    """Shift and factor of each feature over those rows; a feature that never changes gets the factor 0.

    None where none is wanted, and none for a rank that holds no features.
    """
    if features_NF is None or len(features_NF) == 0:
        return torch.zeros(()), torch.ones(())
    # A few rows at a time: in float64 all of them might not fit into memory.
    sum_F = torch.zeros(features_NF.shape[1], dtype=torch.float64)
    squares_F = sum_F.clone()
    for ids in rows_T.split(_ROWS):
        sum_F += features_NF[ids].double().sum(0)
    mean_F = sum_F / len(rows_T)
    for ids in rows_T.split(_ROWS):
        squares_F += (features_NF[ids].double() - mean_F).square().sum(0)
    std_F = (squares_F / len(rows_T)).sqrt()
    # A constant feature has rounding noise for its deviation; dividing by it would make a signal of it.
    constant_F = std_F <= 1e-6 * mean_F.abs().clamp_min(1e-6)
    return mean_F.float(), torch.where(constant_F, 0.0, 1.0 / std_F).float()
