"""Here: what can be wrong with a run that still trains: one table of illnesses, each a condition on the lines
of metrics, with its cause and an advice.

Not here: measuring (health.py), showing (progress.py), numbers that are not finite (guard.py).

Alarms are a function of the lines alone, so a resumed run, the report and a list of runs see the same ones.
docs/health.md says of each number what is healthy.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from barlow.config import Config
from barlow.objectives import loss_floor

HISTORY = 500
"""Latest lines that alarms look at."""

Line = dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """What conditions need to know of a run beside its lines."""

    num_samples: int
    """Of the global batch."""
    num_dims: int
    """Of the embedding."""
    lambd: float | None
    """Of Barlow Twins; None for other objectives."""
    momentum: float
    starved_after_s: float = 60.0
    """Seconds of training before a wait for images counts: at first the loader's queues are empty."""

    @classmethod
    def of(cls, config: Config) -> Facts:
        """Of a run with this config."""
        objective = config.objective
        lambd = objective.lambd if objective.name == "barlow_twins" else None
        return cls(config.optim.batch_size, config.model.projector[-1], lambd, config.optim.momentum)


Condition = Callable[[Sequence[Line], Facts], str | None]
"""Lines, the latest last, at least one -> the symptom in words with its numbers, or None."""


@dataclass(frozen=True)
class Illness:
    """One row of the table."""

    name: str
    """As it stands in a line of metrics."""
    title: str
    condition: Condition
    cause: str
    advice: str
    is_note: bool = False
    """Worth knowing, but nothing needs to be wrong."""


@dataclass(frozen=True)
class Alarm:
    """An illness that a run has."""

    illness: Illness
    symptom: str

    def __str__(self) -> str:
        kind = "note" if self.illness.is_note else "alarm"
        of = self.illness
        return f"{kind}: {of.title}: {self.symptom}. {of.cause} {of.advice}"


def examine(lines: Sequence[Line], facts: Facts) -> list[Alarm]:
    """The alarms after the last of a run's lines, in the order of the table."""
    recent = lines[-HISTORY:]
    found = [(illness, illness.condition(recent, facts)) for illness in TABLE] if recent else []
    return [Alarm(illness, symptom) for illness, symptom in found if symptom is not None]


def _values(lines: Sequence[Line], name: str) -> list[float]:
    return [line[name] for line in lines if line.get(name) is not None]


def _latest(lines: Sequence[Line], name: str) -> float | None:
    return lines[-1].get(name)


def _views_identical(lines: Sequence[Line], facts: Facts) -> str | None:
    diagonal, dead = _latest(lines, "on_diagonal"), _latest(lines, "dead_dimensions") or 0
    living = facts.num_dims - dead
    if diagonal is None or living <= 0 or diagonal * facts.num_dims / living < 1 - 1e-4:
        return None
    return f"the mean of C_ii is {diagonal:.6f}, with nothing left to make alike"


def _constant_output(lines: Sequence[Line], facts: Facts) -> str | None:
    spread = _latest(lines, "spread")
    if spread is None or spread >= 0.01:
        return None
    return f"the embeddings' deviation over the batch is {spread:.1e} of their size"


def _collapsing(lines: Sequence[Line], facts: Facts) -> str | None:
    possible = min(facts.num_samples - 1, facts.num_dims)
    # A network that has learned nothing spreads noise over all directions; giving those up is no collapse.
    ranks = _values(_after_warmup(lines), "rank_me")
    if _constant_output(lines, facts) or len(ranks) < 3 or possible < 4:
        return None
    latest, highest = statistics.median(ranks[-3:]), max(ranks[:-2])
    if latest >= max(1.5, 0.3 * highest, 0.05 * possible):
        return None
    return f"RankMe has gone from {highest:.1f} to {latest:.1f} of {possible} directions"


def _after_warmup(lines: Sequence[Line]) -> Sequence[Line]:
    """From the first of the lines with the highest learning rate on."""
    rates = [line.get("lr_weights", 0.0) for line in lines]
    return lines[rates.index(max(rates)) :]


def _dead_dimensions(lines: Sequence[Line], facts: Facts) -> str | None:
    dead = min(_values(lines[-2:], "dead_dimensions"), default=0)
    if len(lines) < 2 or not max(1, 0.01 * facts.num_dims) <= dead < facts.num_dims:
        return None
    return f"{dead:.0f} of {facts.num_dims} dimensions are the same number for every image"


def _no_gradient(lines: Sequence[Line], facts: Facts) -> str | None:
    norm = _latest(lines, "grad_norm")
    return f"the gradient's norm is {norm:.1e}" if norm is not None and norm < 1e-9 else None


def _learning_rate_too_high(lines: Sequence[Line], facts: Facts) -> str | None:
    ratio = _latest(lines, "update_ratio")
    if ratio is not None and ratio > 0.5:
        return f"a step moves a weight by {100 * ratio:.0f} % of its norm"
    losses = _values(lines, "loss")
    if facts.lambd is None or len(losses) < 10:
        return None
    medians = [statistics.median(losses[i : i + 5]) for i in range(len(losses) - 4)]
    if medians[-1] <= max(2 * min(medians), 1.2 * _loss_of_strangers(facts, facts.lambd)):
        return None
    return f"the loss has gone from {min(medians):.4g} to {medians[-1]:.4g}, more than chance gives"


def _loss_of_strangers(facts: Facts, lambd: float) -> float:
    """Of embeddings that have nothing to do with each other: C_ij^2 is 1 / (N - 1) in the mean."""
    num_samples, num_dims = facts.num_samples, facts.num_dims
    return num_dims * (1 + (1 + lambd * (num_dims - 1)) / (num_samples - 1))


def _data_starved(lines: Sequence[Line], facts: Facts) -> str | None:
    waited_s = seen_s = 0.0
    for before, line in zip(reversed(lines[:-1]), reversed(lines[1:]), strict=True):
        elapsed_s = line["time_s"] - before["time_s"]
        waited_s, seen_s = waited_s + elapsed_s * line["wait_share"], seen_s + elapsed_s
        if seen_s >= facts.starved_after_s:
            break
    if seen_s < facts.starved_after_s or waited_s <= 0.2 * seen_s:
        return None
    return f"data-starved {100 * waited_s / seen_s:.0f} % of the time"


def _half_precision_fails(lines: Sequence[Line], facts: Facts) -> str | None:
    scale = _latest(lines, "loss_scale")
    return f"the loss is scaled by {scale:.2g} only" if scale is not None and scale < 1 else None


def _batch_too_small(lines: Sequence[Line], facts: Facts) -> str | None:
    if facts.lambd is None:
        return None
    floor = loss_floor(facts.num_samples, facts.num_dims, facts.lambd)
    best = 1 - floor / facts.num_dims  # the uniform diagonal at the least loss
    if best >= 0.9:
        return None
    return (
        f"{facts.num_samples} samples for {facts.num_dims} dimensions: the loss can't fall below {floor:.0f} "
        f"nor C_ii rise above {best:.2f}"
    )


TABLE = (
    Illness(
        "views_identical",
        "views identical",
        _views_identical,
        "Both views of an image look the same to the network, so only the redundancy term is trained.",
        "Check the augmentations: `barlow report` shows the views, --data.augmentation and --data.without "
        "make them.",
    ),
    Illness(
        "constant_output",
        "collapsed",
        _constant_output,
        "Every image gets nearly the same embedding: the projector's output no longer depends on its input.",
        "Go back to an earlier checkpoint with a lower --optim.lr-weights and --optim.lr-biases; with an "
        "objective of your own, check the term that keeps embeddings apart.",
    ),
    Illness(
        "collapsing",
        "collapsing",
        _collapsing,
        "The embeddings give up directions: dimensions become copies of each other.",
        "Raise --objective.lambd, which is what keeps them apart, or lower --optim.lr-weights.",
    ),
    Illness(
        "dead_dimensions",
        "dead dimensions",
        _dead_dimensions,
        "Units before the last layer are stuck at zero, mostly after steps that were too long.",
        "Lower --optim.lr-biases or lengthen --optim.warmup-epochs; a few dead ones out of thousands are "
        "harmless.",
    ),
    Illness(
        "no_gradient",
        "no gradient",
        _no_gradient,
        "Nothing is learned: the loss does not depend on the weights, as with a projector that gives zeros.",
        "Look at the initial weights and at --objective.stop-gradient.",
    ),
    Illness(
        "learning_rate_too_high",
        "learning rate too high",
        _learning_rate_too_high,
        "Steps are longer than the distance over which the gradient holds.",
        "Divide --optim.lr-weights (AdamW: --optim.adamw-lr) by 10 or lengthen --optim.warmup-epochs. Rates "
        "are per 256 images: --optim.batch-size multiplies them.",
    ),
    Illness(
        "data_starved",
        "data-starved",
        _data_starved,
        "Training waits for images: the loader gives fewer than the network takes.",
        "`barlow bench loader DATA` says which stage limits. More cores or --data.threads, smaller images "
        "(`barlow pack`), a faster disk.",
    ),
    Illness(
        "half_precision_fails",
        "fp16 overflows",
        _half_precision_fails,
        "Gradients overflow half precision even when they are scaled down.",
        "Use --train.precision bf16 or fp32, or a lower --optim.lr-weights.",
    ),
    Illness(
        "batch_too_small",
        "batch small for the embedding",
        _batch_too_small,
        "C has the rank of the batch at most, so with fewer samples than dimensions it can't become the "
        "identity.",
        "That is no fault; it only explains the loss. A larger --optim.batch-size or a smaller last "
        "--model.projector lowers the floor.",
        is_note=True,
    ),
)
"""Every illness, the gravest first."""
