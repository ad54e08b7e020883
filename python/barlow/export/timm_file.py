"""Here: a backbone as a file that loads strictly into timm's model of its name with num_classes=0.

Not here: building models of timm to train them (model/timm_models.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from barlow.config import TIMM, ModelConfig
from barlow.export.format import Features, Format, refuse_other_widths
from barlow.export.safetensors_file import encode
from barlow.export.torchvision_file import small_stem
from barlow.model.timm_models import library


def _refuse(model: ModelConfig) -> None:
    refuse_other_widths(model, "timm")
    if not library().is_model(_name(model)):
        raise ValueError(f"timm has no {model.backbone}: use --format torchvision, safetensors or onnx")


def _load(file: Path, model: ModelConfig) -> Features:
    network = library().create_model(_name(model), num_classes=0, **_size(model))
    if model.stem == "cifar":
        network.conv1 = nn.Conv2d(3, model.width, kernel_size=3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    network.load_state_dict(load_file(file))
    return network.eval()


def _recipe(model: ModelConfig, file_name: str) -> str:
    size = "".join(f", {name}={value}" for name, value in _size(model).items())
    return "\n".join([
        *(["import torch"] if model.stem == "cifar" else []),
        "import timm",
        "from safetensors.torch import load_file",
        "",
        f'network = timm.create_model("{_name(model)}", num_classes=0{size})',
        *small_stem(model),
        f'network.load_state_dict(load_file("{file_name}"))',
        "network.eval()\n",
    ])  # fmt: skip


def _name(model: ModelConfig) -> str:
    return model.backbone.removeprefix(TIMM)


def _size(model: ModelConfig) -> dict[str, Any]:
    return {"img_size": model.image_size} if model.image_size else {}


TIMM_FILE = Format(
    suffix=".safetensors",
    refuse=_refuse,
    encode=encode,
    load=_load,
    recipe=_recipe,
    promise="It loads strictly into timm's model without classifier, as built below.",
)
