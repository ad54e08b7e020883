"""Here: AdamW as a run needs it, and which optimizer a backbone gets.

Not here: the step itself, which is torch's; LARS (lars.py), schedules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from barlow.config import OptimConfig

Name = Literal["lars", "adamw"]


class AdamW(torch.optim.AdamW):
    """torch's AdamW (Loshchilov and Hutter, 2019), for the groups of `parameter_groups`.

    With p a parameter, m and v the means of its gradients and of their squares, t its number of steps:
        p = p - lr * weight_decay * p - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps).
    On a GPU it is torch's fused step: one kernel, and it can leave parameters and state as they are without
    the host's knowing (`found_inf`). State: "exp_avg" and "exp_avg_sq", like their parameter, and "step", one
    number, on its device.
    """

    def __init__(
        self,
        param_groups: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ) -> None:
        groups = list(param_groups)
        on_gpu = any(p.is_cuda for group in groups for p in group["params"])
        super().__init__(groups, lr=lr, betas=betas, weight_decay=weight_decay, fused=on_gpu or None)
        self.found_inf: Tensor | None = None
        """float32 [] as of `LARS`: nothing changes in a step for which it is not 0."""
        self._waits = not on_gpu

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every parameter that has a gradient; gradients stay as they are."""
        found = self.found_inf
        if found is None or not self._waits:
            return super().step(closure)
        if found.item() > 0:
            return None
        self.found_inf = None  # torch's steps on a CPU won't have one
        try:
            return super().step(closure)
        finally:
            self.found_inf = found


def choose_optimizer(optim: OptimConfig, backbone: nn.Module) -> tuple[Name, str]:
    """The optimizer that `--optim.optimizer` means for a backbone, and the reason for it, as "since ..."."""
    against = _speaks_against_lars(backbone)
    name = optim.optimizer if optim.optimizer != "auto" else "lars" if against is None else "adamw"
    if name == "lars":
        return "lars", "the backbone has batch norms" if against is None else "it was asked for"
    return "adamw", f"{against}, on which LARS is known to collapse" if against else "it was asked for"


def doubts(optim: OptimConfig, backbone: nn.Module) -> str | None:
    """What speaks against LARS for this backbone where it was asked for by name; None: nothing."""
    against = _speaks_against_lars(backbone)
    if optim.optimizer != "lars" or against is None:
        return None
    return (
        f"--optim.optimizer lars: {against}, on which LARS is known to collapse; adamw is for such networks"
    )


def _speaks_against_lars(backbone: nn.Module) -> str | None:
    # A step of LARS is a share of the weight's norm. That suits weights whose scale a batch norm takes out
    # again. stable-pretraining's notes on Barlow Twins with a ViT say that LARS collapses and AdamW does not.
    modules = list(backbone.modules())
    if any(isinstance(module, nn.LayerNorm) for module in modules):
        return "the backbone has layer norms"
    if not any(isinstance(module, _BatchNorm) for module in modules):
        return "the backbone has no batch norms"
    return None
