"""Here: torchvision's ResNets without classifier, with a stem for small images, a width and our batch norm.

Not here: the projector, reading weights, other architectures.

The residual blocks are torchvision's own, and so are the names: a state dict loads strictly into
torchvision.models.resnet18/34/50 whose `fc` is an Identity (with the "imagenet" stem and width 64).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, conv1x1

from barlow.config import ModelConfig
from barlow.model.batchnorm import ViewBatchNorm2d

ARCHITECTURES: dict[str, tuple[type[BasicBlock | Bottleneck], tuple[int, int, int, int]]] = {
    "resnet10": (BasicBlock, (1, 1, 1, 1)),
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}
"""Block and number of blocks in each of the four stages."""


class ResNet(nn.Module):
    """Images [N, 3, H, W] to features [N, num_features], the mean over the last stage's pixels."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        block, num_blocks = ARCHITECTURES[config.backbone]
        width = config.width
        if config.stem == "imagenet":
            self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
            self.maxpool: nn.Module = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        else:
            self.conv1 = nn.Conv2d(3, width, kernel_size=3, stride=1, padding=1, bias=False)
            self.maxpool = nn.Identity()
        self.bn1 = ViewBatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(block, width, width, num_blocks[0], stride=1)
        self.layer2 = _stage(block, width * block.expansion, 2 * width, num_blocks[1], stride=2)
        self.layer3 = _stage(block, 2 * width * block.expansion, 4 * width, num_blocks[2], stride=2)
        self.layer4 = _stage(block, 4 * width * block.expansion, 8 * width, num_blocks[3], stride=2)
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
    block: type[BasicBlock | Bottleneck], inputs: int, planes: int, num_blocks: int, stride: int
) -> nn.Sequential:
    outputs = planes * block.expansion
    downsample = None
    if stride != 1 or inputs != outputs:
        downsample = nn.Sequential(conv1x1(inputs, outputs, stride), ViewBatchNorm2d(outputs))
    blocks = [block(inputs, planes, stride, downsample, norm_layer=ViewBatchNorm2d)]
    blocks += [block(outputs, planes, norm_layer=ViewBatchNorm2d) for _ in range(num_blocks - 1)]
    return nn.Sequential(*blocks)


def build_backbone(config: ModelConfig) -> ResNet:
    """The backbone of a configuration, initialised from torch's global random state."""
    return ResNet(config)
