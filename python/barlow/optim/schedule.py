"""Here: learning rates as pure functions of the step, and the official flags in true-gradient units.

Not here: state of any kind, the optimizer.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from barlow.config import OptimConfig

_IMAGES_PER_RATE = 256  # learning rates are stated per so many images of the batch (official main.py)


class Rates(NamedTuple):
    """Peak learning rates and weight decay for the exact gradient of the global batch."""

    lr_weights: float
    lr_biases: float
    weight_decay: float


def learning_rate(step: int, optim: OptimConfig, steps_per_epoch: int) -> float:
    """The learning rate at a step (from 0) as a fraction of its peak.

    Linear from 0 over `warmup_epochs`, every step; then a half cosine from 1 to `lr_final_ratio`, which it
    reaches at step epochs * steps_per_epoch (the official code's end; the last step taken is one before).
    A run of no more epochs than its warm-up never leaves it.
    """
    warmup_steps = optim.warmup_epochs * steps_per_epoch
    if step < warmup_steps:
        return step / warmup_steps
    total_steps = optim.epochs * steps_per_epoch
    progress = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return cosine + optim.lr_final_ratio * (1 - cosine)


def true_gradient_rates(optim: OptimConfig) -> Rates:
    """The config's rates, stated like the official flags, as rates for the true gradient.

    With W = `reference_world_size` the official gradient is g / W. A bias or batch-norm parameter steps by
    lr * g / W: divide its rate by W. An adapted weight steps along g / W + wd * p, scaled to its own norm:
    along g + W * wd * p just as well, so its rate stays and its decay is multiplied by W. The steps of AdamW
    don't depend on the gradient's scale, and its rate is one for all.
    """
    scale = optim.batch_size / _IMAGES_PER_RATE
    if optim.optimizer == "adamw":
        rate = optim.adamw_lr * scale
        return Rates(rate, rate, optim.adamw_weight_decay)
    world = optim.reference_world_size
    return Rates(optim.lr_weights * scale, optim.lr_biases * scale / world, optim.weight_decay * world)
