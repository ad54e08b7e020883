"""Here: the arithmetic of LARS and LARC on lists of tensors of one device and dtype; the same, compiled.

Not here: the optimizer's state and groups (lars.py), schedules.

Nothing here reads a value on the host, so a GPU is never waited for. One text serves both ways: each line is
a few multi-tensor kernels over all tensors; torch.compile fuses the lines, so that the norms take one pass
over the numbers and the rest another.
"""

# torch._foreach_* are what torch.optim itself is made of; they are private in name only.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Variant = Literal["lars", "larc"]
Tensors = list[Tensor]


@dataclass(frozen=True)
class Settings:
    """What a group of parameters has beside its learning rate; constants to a compiler."""

    variant: Variant
    adapt: bool
    momentum: float
    weight_decay: float
    trust_coefficient: float


def update(
    params: Tensors,
    grads: Tensors,
    momenta: Tensors,
    lr: float | Tensor,
    settings: Settings,
    keep: Tensor | None = None,
) -> None:
    """One step, in place on parameters and momenta; see `barlow.optim.LARS`. Gradients stay as they are.

    `keep`: a float [] on their device; 0 leaves parameters and momenta as they are, 1 changes nothing. The
    gradients must be finite with either.
    """
    momentum: float | Tensor = settings.momentum
    updates = grads
    if settings.adapt or settings.weight_decay:
        updates = list(torch._foreach_add(grads, params, alpha=settings.weight_decay))
    if settings.adapt:
        torch._foreach_mul_(updates, list(trust_ratios(params, grads, updates, lr, settings).unbind()))
    if keep is not None:
        updates = list(torch._foreach_mul(updates, keep))
        momentum, lr = torch.where(keep > 0, momentum, 1.0), lr * keep
    torch._foreach_mul_(momenta, momentum)
    torch._foreach_add_(momenta, updates)
    if isinstance(lr, Tensor):
        # alpha would fetch the tensor's value from the device; the product needs room for one more copy.
        torch._foreach_sub_(params, torch._foreach_mul(momenta, lr))
    else:
        torch._foreach_add_(params, momenta, alpha=-lr)


@functools.cache
def compiled_update() -> Callable[[Tensors, Tensors, Tensors, Tensor, Settings, Tensor | None], None]:
    """`update` by torch.compile, for a tensor as learning rate: a number would be compiled in at every step.

    The first call for a list of shapes takes seconds. It needs Triton on a GPU, a C++ compiler on a CPU.
    """
    return torch.compile(update, dynamic=False)


def trust_ratios(
    params: Tensors, grads: Tensors, updates: Tensors, lr: float | Tensor, settings: Settings
) -> Tensor:
    """The factor of each tensor's update, gradient plus decay, [len(params)]; it never leaves the device."""
    trust = _lars_trust if settings.variant == "lars" else _larc_trust
    return trust(norms(params), grads, updates, lr, settings)


def _lars_trust(
    p_norms: Tensor, grads: Tensors, updates: Tensors, lr: float | Tensor, settings: Settings
) -> Tensor:
    d_norms = norms(updates)
    ratios = settings.trust_coefficient * p_norms / d_norms
    return torch.where((p_norms > 0) & (d_norms > 0), ratios, 1.0)


def _larc_trust(
    p_norms: Tensor, grads: Tensors, updates: Tensors, lr: float | Tensor, settings: Settings
) -> Tensor:
    g_norms = norms(grads)
    ratios = settings.trust_coefficient * p_norms / (g_norms + settings.weight_decay * p_norms + 1e-8)
    # At learning rate 0 the quotient is infinite and the clip makes it 1. A weight without gradient does
    # not move: its update is nothing but decay, which apex leaves out.
    moves = (g_norms > 0).to(ratios.dtype)
    return torch.where(p_norms > 0, (ratios / lr).clamp(max=1.0) * moves, moves)


def norms(tensors: Tensors) -> Tensor:
    """The Euclidean norm of each tensor, [len(tensors)]."""
    return torch.stack(torch._foreach_norm(tensors))
