"""Here: the watch over loss and gradients: no update is made of one that is not finite, and the run is told.

Not here: what is written down about it (blackbox.py), a masked update itself (optim/).

The loss is the global batch's and gradients are means over the ranks, so what is not finite on one rank is
not finite on all: every rank finds the same at the same step, without asking the others.

On a CPU the answer is there at once and the optimizer is not even called. A GPU is not waited for. It masks
the update by a flag that stays on it, and the host reads the flag of each step when it has queued the whole
next one. The flag stays up, so the weights are those before the step until the host has heard.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from barlow.optim.lars import by_device_and_dtype
from barlow.optim.update import norms

PATIENCE = 20
"""Steps in a row that a gradient scaler may skip. It halves its factor each time, so from its 65536 these
take it below any that works: then it is not the factor."""


class NotFinite(FloatingPointError):
    """Loss or gradient of a step is not finite; no weight has changed in it."""

    def __init__(self, step: int, loss: float, views_u8: list[Tensor], steps: int) -> None:
        of = f"{steps} steps in a row, the last of them" if steps > 1 else "step"
        what = "gradient is not finite" if math.isfinite(loss) else f"loss is {loss}"
        super().__init__(f"the {what} at {of} {step}; no weight was changed by it")
        self.step, self.loss, self.views_u8 = step, loss, views_u8


@dataclass
class _Pending:
    """A step whose flag the host has not read yet."""

    step: int
    views_u8: list[Tensor]
    told: Tensor
    """[3]: whether it is ill, the loss, how many steps in a row were not finite; there once `event` is."""
    event: torch.cuda.Event | None


class Guard:
    """Examines each step between backward and update; one for a run. `patience`: steps in a row that may go
    wrong, 1 or, with a gradient scaler, `PATIENCE`. `late`: for a device that should not be waited for."""

    def __init__(self, device: torch.device, patience: int, *, late: bool | None = None) -> None:
        self._device, self._patience = device, patience
        self._late = device.type != "cpu" if late is None else late
        self._in_a_row = torch.zeros((), device=device)
        self._pending: _Pending | None = None

    def examine(
        self, step: int, loss: Tensor, gradients: Iterable[Tensor], views_u8: list[Tensor]
    ) -> Tensor | None:
        """Whether the update of this step must be left out, bool [] on the device; None if it must not.

        `NotFinite` for this step, or, if the device is not waited for, for the one before.
        """
        with torch.no_grad():
            gradients = list(gradients)
            if not self._late and _finite_sums([loss.detach(), *gradients]):
                self._in_a_row.zero_()
                return None
            peaks = [_peak(tensors) for tensors in by_device_and_dtype(gradients)]
            found = ~torch.stack([loss.detach().float().abs(), *peaks]).isfinite().all()
            if not self._late and not found.item():
                self._in_a_row.zero_()
                return None
            ill_before = self._in_a_row >= self._patience
            self._in_a_row = torch.where(found | ill_before, self._in_a_row + 1, 0.0)
            ill = self._in_a_row >= self._patience
            told = torch.stack([ill.double(), loss.detach().double(), self._in_a_row.double()])
        before, self._pending = self._pending, _sent(step, views_u8, told)
        if before is not None:
            _raise_if_ill(before)
        if not self._late:
            self.settle()
        return found | ill

    def settle(self) -> None:
        """Waits for the verdict on the latest step: `NotFinite` if it went wrong."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            _raise_if_ill(pending)


def _finite_sums(tensors: list[Tensor]) -> bool:
    """Whether the squares of each tensor have a finite sum. If not, a square may have overflowed.

    On a CPU that costs an eighth of looking for the largest value.
    """
    sums = [norm.float() for kind in by_device_and_dtype(tensors) for norm in norms(kind)]
    return bool(torch.stack(sums).isfinite().all())


def _peak(tensors: list[Tensor]) -> Tensor:
    """Largest absolute value, float32 []: it is finite if and only if all are, as no sum of squares is."""
    peaks = torch._foreach_norm(tensors, ord=float("inf"))  # pyright: ignore[reportPrivateImportUsage]
    return torch.stack(list(peaks)).max().float()


def _sent(step: int, views_u8: list[Tensor], told: Tensor) -> _Pending:
    if told.device.type != "cuda":
        return _Pending(step, views_u8, told, None)
    on_host = torch.empty(told.shape, dtype=told.dtype, pin_memory=True)
    on_host.copy_(told, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return _Pending(step, views_u8, on_host, event)


def _raise_if_ill(pending: _Pending) -> None:
    if pending.event is not None:
        pending.event.synchronize()
    ill, loss, steps = pending.told.tolist()
    if ill:
        raise NotFinite(pending.step, loss, pending.views_u8, int(steps))
