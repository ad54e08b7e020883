"""Here: a ResNet as a file that loads strictly into torchvision's network of its name.

Not here: what else may be in the file: it is safetensors_file.py's as well.
"""

from __future__ import annotations

from pathlib import Path

import torchvision
from safetensors.torch import load_file
from torch import nn

from barlow.config import TIMM, ModelConfig
from barlow.export.format import Features, Format, refuse_other_widths
from barlow.export.safetensors_file import encode

_RESNET10 = "torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])"


def _refuse(model: ModelConfig) -> None:
    if model.backbone.startswith(TIMM):
        raise ValueError(f"torchvision has no {model.backbone}: use --format timm, safetensors or onnx")
    refuse_other_widths(model, "torchvision")


def _load(file: Path, model: ModelConfig) -> Features:
    build = getattr(torchvision.models, model.backbone, None)
    network = (
        build() if build else torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
    )
    if model.stem == "cifar":
        network.conv1 = nn.Conv2d(3, model.width, kernel_size=3, padding=1, bias=False)
        network.add_module("maxpool", nn.Identity())
    network.add_module("fc", nn.Identity())
    network.load_state_dict(load_file(file))
    return network.eval()


def _recipe(model: ModelConfig, file_name: str) -> str:
    build = _RESNET10 if model.backbone == "resnet10" else f"torchvision.models.{model.backbone}()"
    return "\n".join([
        "import torch",
        "import torchvision",
        "from safetensors.torch import load_file",
        "",
        f"network = {build}",
        *small_stem(model),
        "network.fc = torch.nn.Identity()",
        f'network.load_state_dict(load_file("{file_name}"))',
        "network.eval()\n",
    ])  # fmt: skip


def small_stem(model: ModelConfig) -> list[str]:
    """Lines that give `network` of torchvision or timm the stem for small images; none for the usual one."""
    if model.stem != "cifar":
        return []
    return [
        f"network.conv1 = torch.nn.Conv2d(3, {model.width}, kernel_size=3, padding=1, bias=False)",
        "network.maxpool = torch.nn.Identity()",
    ]


TORCHVISION = Format(
    suffix=".safetensors",
    refuse=_refuse,
    encode=encode,
    load=_load,
    recipe=_recipe,
    promise="It loads strictly into torchvision's network without classifier, as built below.",
)
