"""Here: the multi-tensor LARS against a loop over tensors, on this rank's device.

Not here: schedules, gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from barlow.distributed import World
from barlow.doctor.finding import Finding, distance, over_ranks
from barlow.optim import LARS

_SHAPES = ((24, 3, 3, 3), (24,), (80, 24), (80,), (7, 80), (5, 5))
_NUM_STEPS = 30
_MOMENTUM, _DECAY, _TRUST = 0.9, 1e-3, 0.01


def findings(world: World) -> list[Finding]:
    """Parameters after 30 steps: the same bits on a CPU; GPUs may add up a norm in another order."""
    ours, plain = _parameters(world.device), _parameters(world.device)
    momenta = [torch.zeros_like(p) for p in plain]
    groups = [
        {"params": [p for p in ours if p.ndim > 1], "adapt": True, "weight_decay": _DECAY},
        {"params": [p for p in ours if p.ndim == 1], "adapt": False},
    ]
    optimizer = LARS(groups, lr=0.0, momentum=_MOMENTUM, trust_coefficient=_TRUST)
    generator = torch.Generator().manual_seed(1)
    for step in range(_NUM_STEPS):
        lr = 0.5 * (step + 1) / _NUM_STEPS
        for group in optimizer.param_groups:
            group["lr"] = lr
        for p, q, mu in zip(ours, plain, momenta, strict=True):
            gradient = torch.randn(p.shape, generator=generator).to(world.device)
            p.grad = gradient
            _step(q.data, gradient, mu, lr)
        optimizer.step()
    found, expected = (torch.cat([p.detach().flatten() for p in params]) for params in (ours, plain))
    allowed = 1e-5 if world.device.type == "cuda" else 0.0
    return [
        over_ranks(
            f"LARS = a plain loop over tensors, {_NUM_STEPS} steps", distance(found, expected), allowed
        )
    ]


def _parameters(device: torch.device) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator) for shape in _SHAPES]
    tensors[-1].zero_()  # without a norm there is nothing to adapt to
    return [nn.Parameter(tensor.to(device)) for tensor in tensors]


def _step(p: Tensor, gradient: Tensor, mu: Tensor, lr: float) -> None:
    """The formula of barlow.optim.LARS for one tensor."""
    update = gradient
    if p.ndim > 1:
        update = gradient.add(p, alpha=_DECAY)
        p_norm, update_norm = torch.linalg.vector_norm(p), torch.linalg.vector_norm(update)
        if p_norm > 0 and update_norm > 0:
            update = update * (_TRUST * p_norm / update_norm)
    mu.mul_(_MOMENTUM).add_(update)
    p.add_(mu, alpha=-lr)
