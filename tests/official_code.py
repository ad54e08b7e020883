"""The official training as a test can afford it: network, loss, LARS, schedule and checkpoint of main.py.

Written from what facebookresearch/barlowtwins does (8e8d284, and f13c949 as `first_release`), on torchvision
and plain torch alone. Its W processes are simulated: one process has the whole batch and divides the gradient
by W, which is what an all-reduce without a gradient leaves under DistributedDataParallel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from test_lars import plain_step


def exclude_bias_and_norm(p: Tensor) -> bool:
    """In the first release's checkpoints there is a reference to the script's function of this name."""
    return p.ndim == 1


def official_loss(z1: Tensor, z2: Tensor, lambd: float) -> Tensor:
    """The loss of main.py in one process: one batch norm without parameters, called once per view."""
    norm = nn.BatchNorm1d(z1.shape[1], affine=False, dtype=z1.dtype)
    c = norm(z1).T @ norm(z2) / len(z1)
    on_diagonal = (c.diagonal() - 1).pow(2).sum()
    return on_diagonal + lambd * (c.pow(2).sum() - c.diagonal().pow(2).sum())


class OfficialTwins(nn.Module):
    """Names and order of main.py's module: backbone, projector, bn. A ResNet-10 instead of a ResNet-50."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.backbone = ResNet(BasicBlock, [1, 1, 1, 1], zero_init_residual=True)
        self.backbone.add_module("fc", nn.Identity())
        layers: list[nn.Module] = []
        for inputs, outputs in zip((512, *sizes[:-2]), sizes[:-1], strict=True):
            layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]
        self.projector = nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1], bias=False))
        self.bn = nn.BatchNorm1d(sizes[-1], affine=False)

    def embeddings(self, y1: Tensor, y2: Tensor) -> tuple[Tensor, Tensor]:
        return self.projector(self.backbone(y1)), self.projector(self.backbone(y2))

    def forward(self, y1: Tensor, y2: Tensor, lambd: float) -> Tensor:
        z1, z2 = self.embeddings(y1, y2)
        c = self.bn(z1).T @ self.bn(z2) / len(z1)
        target_weights = torch.full_like(c, lambd).fill_diagonal_(1.0)
        return (target_weights * (c - torch.eye(len(c))).square()).sum()


@dataclass
class OfficialRun:
    """A run in progress. Flags as on its command line."""

    epochs: int
    batch_size: int
    lr_weights: float
    lr_biases: float
    weight_decay: float
    lambd: float
    scale_loss: float
    processes: int
    steps_per_epoch: int
    first_release: bool
    sizes: tuple[int, ...] = (32, 32, 16)

    def __post_init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(7)
            self.twins = OfficialTwins(self.sizes)
            for p in self.twins.parameters():
                if p.ndim == 1:
                    p.data.add_(torch.rand_like(p) * 0.5)
        self.step_done = 0
        self.rates = (0.0, 0.0)
        self.momenta = {name: torch.zeros_like(p) for name, p in self.twins.named_parameters()}

    def step(self, y1: Tensor, y2: Tensor) -> float:
        self.twins.zero_grad()
        loss = self.twins(y1, y2, self.lambd) * self.scale_loss
        (loss / self.processes).backward()
        factor = self._factor(self.step_done) * self.batch_size / 256
        self.rates = factor * self.lr_weights, factor * self.lr_biases
        for name, p in self.twins.named_parameters():
            adapt = p.ndim > 1
            lr, decay = self.rates[not adapt], self.weight_decay if adapt else 0.0
            plain_step(p, self.momenta[name], lr, 0.9, decay, 1e-3, adapt)
        self.step_done += 1
        return loss.item()

    def pretend(self, num_steps: int) -> OfficialRun:
        """Counts as trained for so many steps: a checkpoint says so, though its tensors never moved."""
        self.step_done = num_steps
        factor = self._factor(num_steps - 1) * self.batch_size / 256
        self.rates = factor * self.lr_weights, factor * self.lr_biases
        for name, buffer in self.twins.named_buffers():
            if name.endswith("num_batches_tracked"):
                buffer.fill_(2 * num_steps)
        return self

    def _factor(self, step: int) -> float:
        warmup, total = 10 * self.steps_per_epoch, self.epochs * self.steps_per_epoch
        if step < warmup:
            return step / warmup
        q = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
        return q + 0.001 * (1 - q)

    def checkpoint(self) -> dict[str, Any]:
        """What torch.save gets at the end of an epoch."""
        shapes = {name: p.ndim for name, p in self.twins.named_parameters()}
        groups = [
            [n for n, ndim in shapes.items() if ndim > 1],
            [n for n, ndim in shapes.items() if ndim == 1],
        ]
        if self.first_release:
            groups = [list(shapes)]
        excluded = exclude_bias_and_norm if self.first_release else True
        names = [name for group in groups for name in group]
        number = {name: i for i, name in enumerate(names)}
        settings = {"weight_decay": self.weight_decay, "momentum": 0.9, "eta": 0.001,
                    "weight_decay_filter": excluded, "lars_adaptation_filter": excluded}  # fmt: skip
        return {
            "epoch": self.step_done // self.steps_per_epoch,
            "model": {f"module.{name}": t.clone() for name, t in self.twins.state_dict().items()},
            "optimizer": {
                "state": {i: {"mu": self.momenta[name].clone()} for name, i in number.items()},
                "param_groups": [
                    {"lr": lr, **settings, "params": [number[n] for n in group]}
                    for lr, group in zip(self.rates, groups, strict=False)
                ],
            },
        }

    def flags(self) -> str:
        rates = f"--learning-rate-weights {self.lr_weights} --learning-rate-biases {self.lr_biases}"
        if self.first_release:
            rates = f"--learning-rate {self.lr_weights} --scale-loss {self.scale_loss}"
        projector = "-".join(map(str, self.sizes))
        return (
            f"--epochs {self.epochs} --batch-size {self.batch_size} {rates} --lambd {self.lambd} "
            f"--weight-decay {self.weight_decay} --projector {projector}"
        )


def official_run(*, first_release: bool = False, num_images: int = 16) -> OfficialRun:
    """Eight images a step; rates at which a few steps move every parameter visibly."""
    return OfficialRun(
        epochs=12,
        batch_size=8,
        lr_weights=40.0,
        lr_biases=40.0 if first_release else 0.8,
        weight_decay=1e-3,
        lambd=0.02,
        scale_loss=0.02 if first_release else 1.0,
        processes=4,
        steps_per_epoch=num_images // 8,
        first_release=first_release,
    )
