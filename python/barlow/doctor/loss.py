"""Here: properties that the loss has by its formula, over the samples of all ranks, in float64.

Not here: networks and their gradients (gradient.py).
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from barlow.distributed import World
from barlow.doctor.finding import Finding, distance, over_ranks
from barlow.objectives import barlow_twins, loss_floor

_ROUNDING = 1e-10
_HALF_PRECISION = 5e-3
"""Inputs and gradients of bfloat16 have 8 bits: 0.2 % each."""
_LAMBD = 0.01
_FORMS = ("correlation", "gram", "gram_features")


def findings(world: World) -> list[Finding]:
    """Invariance under scale and shift and under a swap of the views, the floor, bfloat16, the forms."""
    x_ND, y_ND = _embeddings(world, 16, 24)
    # The same on every rank: only then is it one change of the whole batch's dimensions.
    generator = torch.Generator().manual_seed(1)
    scale_2D, shift_2D = torch.randn(2, 2, 24, generator=generator, dtype=torch.float64).to(world.device)
    loss, gradient = _evaluate(x_ND, y_ND)
    moved, _ = _evaluate(*(t * s.exp() + d for t, s, d in zip((x_ND, y_ND), scale_2D, shift_2D, strict=True)))
    swapped, swapped_gradient = _evaluate(y_ND, x_ND)
    found = [
        over_ranks("loss is blind to scale and shift of a dimension", distance(moved, loss), _ROUNDING),
        over_ranks(
            "loss and gradient of swapped views",
            max(distance(swapped, loss), distance(swapped_gradient.flip(0), gradient)),
            _ROUNDING,
        ),
    ]
    floor = loss_floor(16 * world.size, 200, _LAMBD)
    low, _ = _evaluate(*_embeddings(world, 16, 200))
    found.append(over_ranks("loss is not below its floor", max(0.0, 1 - float(low) / floor), 0.0))
    half = [t.bfloat16() for t in _embeddings(world, 64, 48)]
    _, exact = _evaluate(*(t.float() for t in half))
    found.append(over_ranks("gradient from bfloat16", distance(_evaluate(*half)[1], exact), _HALF_PRECISION))
    if "form" in inspect.signature(barlow_twins).parameters:
        found += _forms(world)
    return found


def _forms(world: World) -> list[Finding]:
    found = []
    for num_dims, what in ((12, "more samples than dimensions"), (96, "more dimensions than samples")):
        x_ND, y_ND = _embeddings(world, 16, num_dims)
        loss, gradient = _evaluate(x_ND, y_ND, form=_FORMS[0])
        for form in _FORMS[1:]:
            other, other_gradient = _evaluate(x_ND, y_ND, form=form)
            error = max(distance(other, loss), distance(other_gradient, gradient))
            found.append(over_ranks(f"form {form} = {_FORMS[0]}, {what}", error, _ROUNDING))
    return found


def _evaluate(x_ND: Tensor, y_ND: Tensor, **form: str) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient at this rank's rows of both views [2, N, D]."""
    x_ND, y_ND = (t.detach().requires_grad_() for t in (x_ND, y_ND))
    options: dict[str, Any] = dict(form)
    loss = barlow_twins(x_ND, y_ND, _LAMBD, **options)
    return loss.detach(), torch.stack(torch.autograd.grad(loss, (x_ND, y_ND)))


def _embeddings(world: World, num_rows: int, num_dims: int) -> tuple[Tensor, Tensor]:
    """Two views of this rank's samples: [num_rows, num_dims] float64."""
    generator = torch.Generator().manual_seed(world.rank)
    common, *noise = torch.randn(3, num_rows, num_dims, generator=generator, dtype=torch.float64)
    first, second = ((common + 0.7 * n).to(world.device) for n in noise)
    return first, second
