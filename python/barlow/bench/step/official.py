"""Here: the official training step, written from its description: network, loss, LARS.

Not here: our own, time.

What is described is facebookresearch/barlowtwins, main.py (8e8d284): two passes through torchvision's
ResNet-50 and the projector under autocast to fp16 with a gradient scaler, batch norm and the D x D
correlation by autograd, and a LARS that takes one tensor after the other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import ResNet

from barlow.bench.loss import LAMBD, correlation_loss
from barlow.model.backbone import ARCHITECTURES

ETA, MOMENTUM, WEIGHT_DECAY = 1e-3, 0.9, 1.5e-6


class OfficialTwins(nn.Module):
    """Backbone, projector and the batch norm of the loss, with the parameter names of ours."""

    def __init__(self, backbone: str, projector: tuple[int, ...]) -> None:
        super().__init__()
        block, num_blocks, group = ARCHITECTURES[backbone]
        self.backbone = ResNet(block, list(num_blocks), zero_init_residual=True, width_per_group=group)
        inputs = self.backbone.fc.in_features
        self.backbone.add_module("fc", nn.Identity())
        layers: list[nn.Module] = []
        for size in projector[:-1]:
            layers += [nn.Linear(inputs, size, bias=False), nn.BatchNorm1d(size), nn.ReLU(inplace=True)]
            inputs = size
        self.projector = nn.Sequential(*layers, nn.Linear(inputs, projector[-1], bias=False))

    def forward(self, views: list[Tensor]) -> list[Tensor]:
        """Each view [N, 3, H, W] through the network by itself."""
        return [self.projector(self.backbone(view)) for view in views]


class OfficialLoss(nn.Module):
    """The loss of both embeddings, its batch norm included."""

    def __init__(self, num_dims: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(num_dims, affine=False)

    def forward(self, z1_ND: Tensor, z2_ND: Tensor) -> Tensor:
        """A scalar."""
        return correlation_loss(self.norm, z1_ND, z2_ND, LAMBD)


class LoopLARS(torch.optim.Optimizer):
    """One tensor after the other; vectors are neither decayed nor adapted. It reads no value on the host."""

    def __init__(self, params: list[nn.Parameter], lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                d = p.grad
                if p.ndim > 1:
                    d = d.add(p, alpha=WEIGHT_DECAY)
                    p_norm, d_norm = torch.norm(p), torch.norm(d)
                    one = torch.ones_like(p_norm)
                    adapted = torch.where(d_norm > 0, ETA * p_norm / d_norm, one)
                    d = d.mul(torch.where(p_norm > 0, adapted, one))
                state = self.state[p]
                if "mu" not in state:
                    state["mu"] = torch.zeros_like(p)
                state["mu"].mul_(MOMENTUM).add_(d)
                p.add_(state["mu"], alpha=-group["lr"])
