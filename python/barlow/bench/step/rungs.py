"""Here: the formulations of a step, each with one change to the one before, and how one is built and taken.

Not here: the official parts (official.py), time and memory (ladder.py).

All begin with the same weights and take the same images, so in float32 they must give the same losses
(`losses`). The official ones get normalised floats, as its loader makes them; ours get bytes.
"""

from __future__ import annotations

import functools
import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from barlow.bench.loss import LAMBD
from barlow.bench.step import StepSettings
from barlow.bench.step.official import ETA, MOMENTUM, WEIGHT_DECAY, LoopLARS, OfficialLoss, OfficialTwins
from barlow.config import IMAGENET_MEAN, IMAGENET_STD, ModelConfig
from barlow.data import to_float
from barlow.model import build_model
from barlow.objectives import barlow_twins
from barlow.optim import LARS, parameter_groups
from barlow.train.learner import compile_parts

RATE = 0.01


@dataclass(frozen=True)
class Rung:
    """One formulation. What it does not say is as in the one before."""

    name: str
    title: str
    one_pass: bool = False
    """Our network: both views in one pass, batch norm apart; else the official one."""
    dtype: torch.dtype = torch.float16
    channels_last: bool = True
    gram: bool = False
    """Our loss; else the official one, by the correlation matrix."""
    lars: Literal["loop", "lists", "fused"] = "loop"
    compile: bool = False


LADDER = (
    Rung("official", "official: two passes, NCHW, fp16", channels_last=False),
    Rung("bf16", "+ channels last, bf16", dtype=torch.bfloat16),
    Rung("one-pass", "+ both views in one pass", dtype=torch.bfloat16, one_pass=True),
    Rung("gram", "+ Gram loss", dtype=torch.bfloat16, one_pass=True, gram=True),
    Rung("lists", "+ LARS on lists of tensors", dtype=torch.bfloat16, one_pass=True, gram=True, lars="lists"),
    Rung("fused", "+ LARS fused", dtype=torch.bfloat16, one_pass=True, gram=True, lars="fused"),
    Rung(
        "compile", "+ compile", dtype=torch.bfloat16, one_pass=True, gram=True, lars="fused", compile=True
    ),
)  # fmt: skip


def runnable(rung: Rung, device: torch.device) -> str:
    """Why a rung cannot run here; empty if it can."""
    if rung.compile or rung.lars == "fused":
        if device.type == "cuda" and importlib.util.find_spec("triton") is None:
            return "needs Triton"
        if device.type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
            return "needs a C++ compiler"
    return ""


class Contestant:
    """A rung with weights, images and momentum on a device; `step` takes one step.

    `exact`: in float32 and with the official eps in our loss, for comparing.
    """

    def __init__(
        self, rung: Rung, settings: StepSettings, device: torch.device, *, exact: bool = False
    ) -> None:
        self.rung, self._device = rung, device
        self._dtype = torch.float32 if exact else _possible(rung.dtype, device)
        config = ModelConfig(backbone=settings.backbone, projector=settings.projector)
        ours = build_model(config, seed=0)
        self.twins: nn.Module = ours
        if not rung.one_pass:
            self.twins = OfficialTwins(settings.backbone, settings.projector)
            self.twins.load_state_dict(ours.state_dict())
        self.twins.to(device)
        if rung.channels_last:
            self.twins.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if rung.compile:
            assert ours is self.twins
            compile_parts(ours)
        self._loss = self._loss_of(settings, exact)
        self._optimizer = self._lars()
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._dtype == torch.float16)
        self.images = _images(settings, device)
        if not rung.one_pass:
            floats = to_float(self.images, IMAGENET_MEAN, IMAGENET_STD, device=device)
            layout = torch.channels_last if rung.channels_last else torch.contiguous_format
            self.images = [view.contiguous(memory_format=layout) for view in floats]

    def step(self, views: list[Tensor] | None = None) -> Tensor:
        """The loss [] of one step, on the device; nobody waits for it. `views`: other floats or bytes."""
        inputs = self.images if views is None else views
        if not inputs[0].is_floating_point():
            inputs = to_float(inputs, IMAGENET_MEAN, IMAGENET_STD, device=self._device, dtype=self._dtype)
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            loss = self._loss(*self.twins(inputs))
        self._scaler.scale(loss).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return loss.detach()

    def forget(self) -> None:
        """Lets go of the gradients, as a step that failed leaves them."""
        self._optimizer.zero_grad(set_to_none=True)

    def _loss_of(self, settings: StepSettings, exact: bool) -> Callable[[Tensor, Tensor], Tensor]:
        if not self.rung.gram:
            return OfficialLoss(settings.projector[-1]).to(self._device)
        return functools.partial(barlow_twins, lambd=LAMBD, form="gram", eps=1e-5 if exact else 0.0)

    def _lars(self) -> torch.optim.Optimizer:
        if self.rung.lars == "loop":
            return LoopLARS(list(self.twins.parameters()), RATE)
        groups: list[dict[str, Any]] = parameter_groups(self.twins)
        groups[0]["weight_decay"] = WEIGHT_DECAY
        return LARS(
            groups, RATE, momentum=MOMENTUM, trust_coefficient=ETA, fused=self.rung.lars == "fused"
        )  # fmt: skip


def losses(rung: Rung, settings: StepSettings, device: torch.device, num_steps: int = 3) -> list[float]:
    """Of the first steps in float32; one that has moved the weights is among them."""
    contestant = Contestant(rung, settings, device, exact=True)
    return [contestant.step().item() for _ in range(num_steps)]


def _possible(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """CPUs have no fp16 to speak of, and one that emulates bf16 measures nothing: float32 there."""
    return dtype if device.type == "cuda" else torch.float32


def _images(settings: StepSettings, device: torch.device) -> list[Tensor]:
    """Two views of bytes that have something in common, the same for everyone."""
    generator = torch.Generator().manual_seed(0)
    shape = (settings.batch_size, 3, settings.image_size, settings.image_size)
    base = torch.randint(0, 192, shape, generator=generator, dtype=torch.uint8)
    noise = (torch.randint(0, 64, shape, generator=generator, dtype=torch.uint8) for _ in range(2))
    return [(base + more).to(device) for more in noise]
