"""Here: how large an optimizer's latest step was: norms of gradients, trust ratios, steps against weights.

Not here: the step itself (update.py), which values are healthy (train/alarms.py).
"""

# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from barlow.optim.adamw import AdamW
from barlow.optim.lars import LARS, by_device_and_dtype
from barlow.optim.update import norms, trust_ratios


class StepNorms(NamedTuple):
    """Of one step; floats. NaN where no parameter is adapted, or a gradient is not finite."""

    grad_norm: float
    """Euclidean norm of all gradients together."""
    trust_ratio_min: float
    """Smallest and largest factor by which LARS scaled a tensor's update, gradient plus decay; AdamW: NaN."""
    trust_ratio_max: float
    update_ratio: float
    """Largest norm of a tensor's step, relative to the tensor's own before it; only tensors that LARS adapts
    or, with AdamW, matrices and filters; without those that are zero."""


@torch.no_grad()
def step_norms(optimizer: LARS | AdamW) -> StepNorms:
    """Of the step that was just made, from what it left: gradients, momentum, learning rates.

    The host waits for the device once. Not after a step that was skipped: the weights before it are computed
    from those after it.
    """
    return _of_adamw(optimizer) if isinstance(optimizer, AdamW) else _of_lars(optimizer)


def _of_adamw(optimizer: AdamW) -> StepNorms:
    squares: list[Tensor] = []
    moved: list[Tensor] = []
    for group in optimizer.param_groups:
        (beta1, beta2), lr, kept = group["betas"], group["lr"], 1 - group["lr"] * group["weight_decay"]
        for p in group["params"]:
            if p.grad is None:
                continue
            squares.append(p.grad.norm().double().square())
            if sum(size > 1 for size in p.shape) < 2:
                continue  # a ViT's class token, for one, is a vector that begins near 0
            state = optimizer.state[p]
            mean = state["exp_avg"] / (1 - beta1 ** state["step"])
            deviation = (state["exp_avg_sq"] / (1 - beta2 ** state["step"])).sqrt()
            before = (p + lr * mean / (deviation + group["eps"])) / kept
            size = before.norm().double()
            moved.append(torch.where(size > 0, (before - p).norm().double() / size, 0.0))
    nan = float("nan")
    if not moved:
        return StepNorms(torch.stack(squares).sum().sqrt().item(), nan, nan, nan)
    norm, most = torch.stack([torch.stack(squares).sum().sqrt(), torch.stack(moved).max()]).tolist()
    return StepNorms(norm, nan, nan, most)


def _of_lars(optimizer: LARS) -> StepNorms:
    squares: list[Tensor] = []
    ratios: list[Tensor] = []
    moved: list[Tensor] = []
    for group in optimizer.param_groups:
        settings, lr = optimizer.settings(group), group["lr"]
        for params in by_device_and_dtype(p for p in group["params"] if p.grad is not None):
            grads = [p.grad for p in params if p.grad is not None]
            squares.append(norms(grads).double().square().sum())
            if not settings.adapt:
                continue
            steps = list(torch._foreach_mul([optimizer.state[p]["mu"] for p in params], lr))
            before = list(torch._foreach_add(params, steps))
            updates = list(torch._foreach_add(grads, before, alpha=settings.weight_decay))
            ratios.append(trust_ratios(before, grads, updates, lr, settings).double())
            sizes = norms(before).double()
            moved.append(torch.where(sizes > 0, norms(steps).double() / sizes, 0.0))
    norm = torch.stack(squares).sum().sqrt()
    if not ratios:
        return StepNorms(norm.item(), *[float("nan")] * 3)
    ratio = torch.cat(ratios)
    return StepNorms(*torch.stack([norm, ratio.min(), ratio.max(), torch.cat(moved).max()]).tolist())
