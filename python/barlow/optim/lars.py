"""Here: LARS (You et al., 2017) as in the official Barlow Twins code, and LARC: groups, state, which kernels.

Not here: the arithmetic (update.py), schedules.
"""

# torch._foreach_* are private in name only.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from barlow.optim.update import Settings, Variant, compiled_update, update


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

    A `torch.amp.GradScaler` leaves unscaling and skipping to it: the gradients are divided by the scale in
    place, and after a step whose gradients are not all finite everything but they is what it was before,
    which the host does not learn: it need not wait.

    On a CPU every step is that of a loop over the tensors, bit for bit. `fused=True` compiles the step into
    few kernels that read and write each number once (equal to rounding; see `update.compiled_update`);
    "auto" does so on GPUs where Triton is installed.
    """

    _step_supports_amp_scaling = True  # what a GradScaler asks before it would read a flag on the host

    def __init__(
        self,
        param_groups: Iterable[dict[str, Any]],
        lr: float | Tensor,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
        variant: Variant = "lars",
        fused: bool | Literal["auto"] = False,
    ) -> None:
        if variant not in ("lars", "larc"):
            raise ValueError(f'variant must be "lars" or "larc", not {variant!r}')
        if fused not in (True, False, "auto"):
            raise ValueError(f'fused must be True, False or "auto", not {fused!r}')
        self._variant: Variant = variant
        self._fused = fused
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
        }
        self.found_inf: Tensor | None = None
        """float32 [] that a caller sets where a step may have to change nothing: it does so if this is not 0.
        torch's GradScaler has this name for it."""
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
            for params in by_device_and_dtype(p for p in group["params"] if p.grad is not None):
                self._update(params, group)
        return loss

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles; torch's own keeps three names and would lose ours."""
        return {**super().__getstate__(), "_variant": self._variant, "_fused": self._fused}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Restores what `state_dict` gave, or the state of the official code's LARS, whose buffer is "mu".

        Its groups must be these: weights, then the parameters that are neither decayed nor adapted. What a
        group adapts stays as it is here; rates, decay and momentum are the loaded ones. The momentum of
        biases is that of the official gradient, 1/W of the true one (`barlow import` converts it).
        `ValueError` for other groups, or a buffer that isn't like its parameter.
        """
        if missing := {"state", "param_groups"} - state_dict.keys():
            raise ValueError(f"the loaded state lacks {', '.join(sorted(missing))}")
        loaded = state_dict["param_groups"]
        if [len(group["params"]) for group in loaded] != [len(own["params"]) for own in self.param_groups]:
            raise ValueError("the loaded parameter groups have other sizes than these")
        groups = []
        for group, own in zip(loaded, self.param_groups, strict=True):
            groups.append(_of_group(group, own))
            for number, param in zip(group["params"], own["params"], strict=True):
                state = state_dict["state"].get(number, {})
                shapes = {name: getattr(value, "shape", None) for name, value in state.items()}
                if shapes not in ({}, {"mu": param.shape}):
                    found = {name: list(shape or ()) for name, shape in shapes.items()}
                    raise ValueError(
                        f"the state of parameter {number} is {found}, not mu {list(param.shape)}"
                    )
        super().load_state_dict({**state_dict, "param_groups": groups})

    def settings(self, group: dict[str, Any]) -> Settings:
        """What one of `param_groups` has beside its learning rate."""
        names = ("adapt", "momentum", "weight_decay", "trust_coefficient")
        return Settings(self._variant, *(group[name] for name in names))

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        settings = self.settings(group)
        grads = [p.grad for p in params if p.grad is not None]
        momenta = [self._momentum(p) for p in params]
        lr, keep = group["lr"], self._unscale(grads)
        if not self._fuses(params[0].device):
            update(params, grads, momenta, lr, settings, keep)
            return
        if not isinstance(lr, Tensor):
            # Filled on the device: copying a number to it would make the host wait.
            lr = torch.full((), lr, device=params[0].device)
        compiled_update()(params, grads, momenta, lr, settings, keep)

    def _unscale(self, grads: list[Tensor]) -> Tensor | None:
        """Divides by the scale that a GradScaler has set; 1 if it found all gradients finite, else 0, and
        then they become 0. None without a scaler."""
        found_inf = getattr(self, "found_inf", None)  # a GradScaler takes it away after the step
        if found_inf is None:
            return None
        scale: Tensor | None = getattr(self, "grad_scale", None)
        if scale is not None:  # else the caller has divided already
            torch._foreach_mul_(grads, scale.double().reciprocal().float())
        found = found_inf > 0
        for grad in grads:
            grad.masked_fill_(found, 0.0)  # times 0 would not do: it leaves what is not finite
        return (~found).float()

    def _fuses(self, device: torch.device) -> bool:
        if self._fused == "auto":
            return device.type == "cuda" and importlib.util.find_spec("triton") is not None
        return bool(self._fused)

    def _momentum(self, param: Tensor) -> Tensor:
        state = self.state[param]
        if "mu" not in state:
            state["mu"] = torch.zeros_like(param)
        return state["mu"]


def by_device_and_dtype(params: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    """Multi-tensor kernels take lists of one kind; mixed lists fall back to a loop."""
    lists: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for param in params:
        lists.setdefault((param.device, param.dtype), []).append(param)
    return lists.values()


def _of_group(group: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A loaded group, ours or the official optimizer's, with what is adapted here."""
    ours = "adapt" in group
    trust = "trust_coefficient" if ours else "eta"
    if missing := [name for name in ("lr", "momentum", "weight_decay", trust) if name not in group]:
        raise ValueError(f"a loaded parameter group lacks {', '.join(missing)}: it is of another optimizer")
    return {
        **(group if ours else {}),
        "params": group["params"],
        "lr": group["lr"],
        "momentum": group["momentum"],
        "weight_decay": group["weight_decay"] if ours or own["adapt"] else 0.0,
        "trust_coefficient": group[trust],
        "adapt": own["adapt"],
    }


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
