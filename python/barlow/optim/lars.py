"""Here: LARS (You et al., 2017) as in the official Barlow Twins code, and LARC, over lists of tensors.

Not here: schedules.
"""

# torch._foreach_* are what torch.optim itself is made of; they are private in name only.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose step on each adapted tensor has a norm proportional to the tensor's.

    For a parameter p with gradient g, in a group with `adapt`:
        d = g + weight_decay * p
        d = d * trust_coefficient * |p| / |d|     (left as it is where |p| or |d| is 0)
    then, as for every group,
        mu = momentum * mu + d,    p = p - lr * mu.
    In a group without `adapt`, d = g + weight_decay * p; `parameter_groups` gives such groups no decay.

    `variant="larc"` is the clipped form of NVIDIA's apex that solo-learn's CIFAR recipes use:
        q = trust_coefficient * |p| / (|g| + weight_decay * |p| + 1e-8),
        d = (g + weight_decay * p) * min(q / lr, 1)     (d = g where |p| or |g| is 0)
    so that the step is never longer than plain SGD's.

    Each group must say `adapt` (bool) and may have its own `lr`, `weight_decay`, `momentum` and
    `trust_coefficient`. `lr` may be a tensor on the parameters' device; nothing here waits for the device.
    State: "mu", like its parameter, zero before the parameter's first gradient.
    """

    def __init__(
        self,
        param_groups: Iterable[dict[str, Any]],
        lr: float | Tensor,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
        variant: Literal["lars", "larc"] = "lars",
    ) -> None:
        if variant not in ("lars", "larc"):
            raise ValueError(f'variant must be "lars" or "larc", not {variant!r}')
        self._trust = {"lars": _lars_trust, "larc": _larc_trust}[variant]
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
        }
        super().__init__(param_groups, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; `ValueError` if it doesn't say whether to adapt, or has a setting below zero."""
        if not isinstance(param_group, dict) or not isinstance(param_group.get("adapt"), bool):
            raise ValueError("every parameter group of LARS must say adapt=True or adapt=False")
        for name in ("lr", "momentum", "weight_decay", "trust_coefficient"):
            value = param_group.get(name, self.defaults[name])
            if not isinstance(value, Tensor) and not value >= 0:
                raise ValueError(f"{name} may not be {value}")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every parameter that has a gradient; gradients stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for params in _by_device_and_dtype(p for p in group["params"] if p.grad is not None):
                _update(params, [self._momentum(p) for p in params], group, self._trust)
        return loss

    def _momentum(self, param: Tensor) -> Tensor:
        state = self.state[param]
        if "mu" not in state:
            state["mu"] = torch.zeros_like(param)
        return state["mu"]


def _by_device_and_dtype(params: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    """Multi-tensor kernels take lists of one kind; mixed lists fall back to a loop."""
    lists: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for param in params:
        lists.setdefault((param.device, param.dtype), []).append(param)
    return lists.values()


Trust = Callable[[list[Tensor], list[Tensor], list[Tensor], dict[str, Any]], Tensor]


def _update(params: list[Tensor], momenta: list[Tensor], group: dict[str, Any], trust: Trust) -> None:
    grads = [p.grad for p in params if p.grad is not None]
    updates = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
    if group["adapt"]:
        torch._foreach_mul_(updates, list(trust(params, grads, updates, group).unbind()))
    torch._foreach_mul_(momenta, group["momentum"])
    torch._foreach_add_(momenta, updates)
    lr = group["lr"]
    if isinstance(lr, Tensor):
        # alpha would fetch the tensor's value from the device; the product needs room for one more copy.
        torch._foreach_sub_(params, torch._foreach_mul(momenta, lr))
    else:
        torch._foreach_add_(params, momenta, alpha=-lr)


def _lars_trust(
    params: list[Tensor], grads: list[Tensor], updates: list[Tensor], group: dict[str, Any]
) -> Tensor:
    """The factor of each tensor's update, [len(params)]; it never leaves the device."""
    p_norms, d_norms = _norms(params), _norms(updates)
    ratios = group["trust_coefficient"] * p_norms / d_norms
    return torch.where((p_norms > 0) & (d_norms > 0), ratios, 1.0)


def _larc_trust(
    params: list[Tensor], grads: list[Tensor], updates: list[Tensor], group: dict[str, Any]
) -> Tensor:
    p_norms, g_norms = _norms(params), _norms(grads)
    ratios = group["trust_coefficient"] * p_norms / (g_norms + group["weight_decay"] * p_norms + 1e-8)
    # At learning rate 0 the quotient is infinite and the clip makes it 1. A weight without gradient does
    # not move: its update is nothing but decay, which apex leaves out.
    moves = (g_norms > 0).to(ratios.dtype)
    return torch.where(p_norms > 0, (ratios / group["lr"]).clamp(max=1.0) * moves, moves)


def _norms(tensors: list[Tensor]) -> Tensor:
    return torch.stack(torch._foreach_norm(tensors))


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Two groups: weights, adapted; biases and batch-norm parameters (at most 1-d), not adapted nor decayed.

    Parameters that don't require a gradient are left out. Set each group's `lr` (and the first's
    `weight_decay`) before the first step; see `true_gradient_rates`.
    """
    params = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in params if p.ndim > 1], "adapt": True},
        {"params": [p for p in params if p.ndim <= 1], "adapt": False, "weight_decay": 0.0},
    ]
