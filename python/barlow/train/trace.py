"""Here: forward and backward of one step under observation: which tensor is the first that is not finite.

Not here: the update (none is made), what becomes of the finding (blackbox.py, replay.py).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from barlow.train.learner import Learner


@dataclass(frozen=True)
class Place:
    """Where something is not finite."""

    phase: str
    """weights, forward, loss, backward or gradient, in the order in which a step comes to them."""
    name: str
    """Of the parameter or module, as in a checkpoint; of the objective for the loss."""
    detail: str

    def __str__(self) -> str:
        what = {
            "weights": f"the weight {self.name}",
            "forward": f"the output of {self.name}",
            "loss": f"the loss ({self.name})",
            "backward": f"the gradient at the output of {self.name}",
            "gradient": f"the gradient of {self.name}",
        }
        return f"{what[self.phase]}: {self.detail}"


@dataclass
class Trace:
    """What one step computed on this rank."""

    loss: float = math.nan
    first: Place | None = None
    """The first tensor that is not finite; None if all are."""
    layers: dict[str, float] = field(default_factory=dict)
    """Largest absolute value that each module put out, in the order of execution; over all micro-batches."""
    gradients: dict[str, float] = field(default_factory=dict)
    """Euclidean norm of each parameter's gradient, mean over the ranks, in float64."""
    weights: dict[str, float] = field(default_factory=dict)
    """Euclidean norm of each parameter, in float64."""


def trace(learner: Learner, step: int, views_u8: list[Tensor]) -> Trace:
    """Runs the forward and backward pass of step `step` on this rank's views; every rank calls it.

    Weights and momentum stay; the statistics that batch norm keeps for evaluation advance.
    """
    seen = Trace()
    for name, parameter in learner.network.named_parameters():
        seen.weights[name] = _norm(parameter)
        _note(seen, "weights", name, parameter)
    # What was compiled before knows nothing of these hooks.
    with torch.compiler.set_stance("force_eager"), _observed(learner.network, seen):
        loss, _ = learner.differentiate(step, views_u8)
    seen.loss = loss.item()
    if seen.first is None or seen.first.phase == "backward":
        # The loss comes before all gradients, but its value is read last.
        place = _place("loss", learner.config.objective.name, loss)
        seen.first = place or seen.first
    scale = learner.scaler.get_scale() if learner.scaler.is_enabled() else 1.0
    for name, gradient in learner.gradients().items():
        seen.gradients[name] = _norm(gradient) / scale
        _note(seen, "gradient", name, gradient)
    return seen


@contextlib.contextmanager
def _observed(network: nn.Module, seen: Trace) -> Iterator[None]:
    """Inside, every module without children reports what it puts out, and the gradient that arrives there."""

    def report(name: str, inputs: tuple[object, ...], output: object) -> None:
        if not isinstance(output, Tensor):
            return
        peak = output.detach().abs().max().item()
        seen.layers[name] = max(seen.layers.get(name, 0.0), peak) if math.isfinite(peak) else peak
        _note(seen, "forward", name, output, _of_input(inputs))
        if output.requires_grad:
            # On the tensor, not the module: a module's hook would forbid the in-place ReLU that follows.
            output.register_hook(lambda gradient: _note(seen, "backward", name, gradient))

    handles = []
    for name, module in network.named_modules():
        if not any(True for _ in module.children()):
            handles.append(
                module.register_forward_hook(
                    lambda _, inputs, output, name=name: report(name, inputs, output)
                )
            )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _note(seen: Trace, phase: str, name: str, tensor: Tensor, context: str = "") -> None:
    if seen.first is None:
        seen.first = _place(phase, name, tensor, context)


def _place(phase: str, name: str, tensor: Tensor, context: str = "") -> Place | None:
    tensor = tensor.detach()
    if bool(tensor.isfinite().all()):
        return None
    nans, infs = int(tensor.isnan().sum()), int(tensor.isinf().sum())
    kinds = " and ".join(f"{count} {kind}" for count, kind in ((nans, "NaN"), (infs, "infinite")) if count)
    return Place(phase, name, f"{kinds} of {tensor.numel()} numbers in {_dtype(tensor)}{context}")


def _of_input(inputs: tuple[object, ...]) -> str:
    peaks = [x.detach().abs().max().item() for x in inputs if isinstance(x, Tensor)]
    return f", from inputs of at most {max(peaks):.3g}" if peaks else ""


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _norm(tensor: Tensor) -> float:
    return torch.linalg.vector_norm(tensor.detach().double()).item()
