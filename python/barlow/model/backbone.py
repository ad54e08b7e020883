"""Here: torchvision's ResNets without classifier, with a stem for small images, a width and our batch norm;
the way from a configuration to any backbone.

Not here: the projector, reading weights, models of timm (timm_models.py).

The residual blocks are torchvision's own, and so are the names: a state dict loads strictly into
torchvision.models.resnet18/34/50/101/152 or wide_resnet50_2/101_2 whose `fc` is an Identity (with the
"imagenet" stem and width 64).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, conv1x1

from barlow.config import RESNETS, TIMM, ModelConfig
from barlow.model.batchnorm import ViewBatchNorm2d
from barlow.model.timm_models import build_timm

ARCHITECTURES: dict[str, tuple[type[BasicBlock | Bottleneck], tuple[int, int, int, int], int]] = {
    "resnet10": (BasicBlock, (1, 1, 1, 1), 64),
    "resnet18": (BasicBlock, (2, 2, 2, 2), 64),
    "resnet34": (BasicBlock, (3, 4, 6, 3), 64),
    "resnet50": (Bottleneck, (3, 4, 6, 3), 64),
    "resnet101": (Bottleneck, (3, 4, 23, 3), 64),
    "resnet152": (Bottleneck, (3, 8, 36, 3), 64),
    "wide_resnet50_2": (Bottleneck, (3, 4, 6, 3), 128),
    "wide_resnet101_2": (Bottleneck, (3, 4, 23, 3), 128),
}
"""Block, number of blocks in each of the four stages, and channels of a bottleneck's 3x3 convolution for each
64 that the block has outside it."""


class Backbone(nn.Module):
    """What the rest of the package knows of a backbone: images [N, 3, H, W] to features [N, num_features]."""

    num_features: int

    if TYPE_CHECKING:  # its layers are what its architecture calls them

        def __getattr__(self, name: str) -> Any: ...


class ResNet(Backbone):
    """Images [N, 3, H, W] to features [N, num_features], the mean over the last stage's pixels."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        block, num_blocks, group = ARCHITECTURES[config.backbone]
        width = config.width
        if config.stem == "imagenet":
            self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
            self.maxpool: nn.Module = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        else:
            self.conv1 = nn.Conv2d(3, width, kernel_size=3, stride=1, padding=1, bias=False)
            self.maxpool = nn.Identity()
        self.bn1 = ViewBatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(block, width, width, num_blocks[0], stride=1, group=group)
        self.layer2 = _stage(block, width * block.expansion, 2 * width, num_blocks[1], stride=2, group=group)
        self.layer3 = _stage(
            block, 2 * width * block.expansion, 4 * width, num_blocks[2], stride=2, group=group
        )
        self.layer4 = _stage(
            block, 4 * width * block.expansion, 8 * width, num_blocks[3], stride=2, group=group
        )
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.num_features = 8 * width * block.expansion
        self._initialise()

    def _initialise(self) -> None:
        # torchvision's, with zero_init_residual=True as in the official code: blocks start as the identity.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, (BasicBlock, Bottleneck)):
                last = module.bn2 if isinstance(module, BasicBlock) else module.bn3
                assert isinstance(last, ViewBatchNorm2d)
                nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images [N, 3, H, W] to features [N, num_features]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return torch.flatten(self.avgpool(x), 1)


def _stage(
    block: type[BasicBlock | Bottleneck], inputs: int, planes: int, num_blocks: int, stride: int, group: int
) -> nn.Sequential:
    outputs = planes * block.expansion
    downsample = None
    if stride != 1 or inputs != outputs:
        downsample = nn.Sequential(conv1x1(inputs, outputs, stride), ViewBatchNorm2d(outputs))
    blocks = [block(inputs, planes, stride, downsample, base_width=group, norm_layer=ViewBatchNorm2d)]
    blocks += [
        block(outputs, planes, base_width=group, norm_layer=ViewBatchNorm2d) for _ in range(num_blocks - 1)
    ]
    return nn.Sequential(*blocks)


def build_backbone(config: ModelConfig) -> Backbone:
    """The backbone of a configuration, initialised from torch's global random state.

    `ValueError` for a name that there is no backbone of, or if timm can't build it for the image size.
    """
    if config.backbone.startswith(TIMM):
        return cast("Backbone", build_timm(config.backbone.removeprefix(TIMM), config.image_size))
    if config.backbone not in ARCHITECTURES:
        raise ValueError(
            f"there is no backbone {config.backbone!r}, only {', '.join(RESNETS)} and {TIMM}NAME"
        )
    return ResNet(config)
