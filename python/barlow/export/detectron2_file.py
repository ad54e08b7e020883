"""Here: a ResNet as a file for detectron2's checkpointer: its names, wrapped as it wants them.

Not here: configs of detection (docs/detection.md).

The names are those that MoCo's convert-pretrain-to-detectron2.py gives (facebookresearch/moco, detection/):
stem.conv1, res2 to res5, convK.norm, shortcut. detectron2's checkpointer reads pickles and what torch.save
writes, nothing else (checkpoint/detection_checkpoint.py, fvcore's checkpoint.py), so this is the latter:
plain tensors, which torch.load reads with weights_only=True. Counters of batch norm, which detectron2's
frozen norm does not have, are left out.
"""

from __future__ import annotations

import importlib.util
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from barlow.config import TIMM, ModelConfig
from barlow.export.format import WIDTH, Features, Format, Source
from barlow.model import build_backbone
from barlow.model.archives import read_archive

_DEPTHS = {
    "resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101, "resnet152": 152,
    "wide_resnet50_2": 50, "wide_resnet101_2": 101,
}  # fmt: skip
_COUNTER = "num_batches_tracked"


def detectron2_name(name: str) -> str:
    """torchvision's name of a parameter of a ResNet as detectron2 has it."""
    layer, rest = re.fullmatch(r"(?:layer(\d)\.)?(.*)", name).groups()  # pyright: ignore[reportOptionalMemberAccess]
    rest = re.sub(r"\bbn(\d)\.", r"conv\1.norm.", rest)
    rest = rest.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    return f"res{int(layer) + 1}.{rest}" if layer else f"stem.{rest}"


def _refuse(model: ModelConfig) -> None:
    if model.backbone in _DEPTHS and model.stem == "imagenet" and model.width == WIDTH:
        return
    if model.backbone.startswith(TIMM):
        what, instead = model.backbone, "--format timm, safetensors and onnx hold it"
    else:
        what = f"{model.backbone} of width {model.width} with stem {model.stem}"
        if model.stem == "imagenet":
            instead = "`barlow detect` takes it as it is, and --format safetensors and onnx hold it"
        else:
            instead = (
                "detection needs --model.stem imagenet in training; --format safetensors and onnx hold it"
            )
    raise ValueError(
        f"detectron2 has no {what}, only {', '.join(_DEPTHS)} of width {WIDTH} with stem imagenet: {instead}"
    )


def _encode(source: Source) -> bytes:
    tensors = source.backbone.state_dict()
    renamed = {
        detectron2_name(n): t.detach().cpu().clone() for n, t in tensors.items() if not n.endswith(_COUNTER)
    }
    buffer = io.BytesIO()
    torch.save({"model": renamed, "__author__": "barlow", "matching_heuristics": True}, buffer)
    return buffer.getvalue()


def _load(file: Path, model: ModelConfig) -> Features:
    if importlib.util.find_spec("detectron2") is not None:
        return _in_detectron2(file, model)
    return _renamed_back(file, model)


def _in_detectron2(file: Path, model: ModelConfig) -> Features:
    from detectron2.checkpoint import DetectionCheckpointer  # pyright: ignore[reportMissingImports]
    from detectron2.config import get_cfg  # pyright: ignore[reportMissingImports]
    from detectron2.layers import ShapeSpec  # pyright: ignore[reportMissingImports]
    from detectron2.modeling import build_resnet_backbone  # pyright: ignore[reportMissingImports]

    cfg = get_cfg()
    cfg.merge_from_list([item for setting in _settings(model).items() for item in setting])
    network = build_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()
    DetectionCheckpointer(network).load(str(file))
    return lambda images_N3HW: network(images_N3HW)["res5"].mean((2, 3))


def _renamed_back(file: Path, model: ModelConfig) -> Features:
    """Without detectron2: with STRIDE_IN_1X1 False its ResNet is torchvision's but for the names."""
    found: Mapping[str, Tensor] = read_archive(file)["model"]
    network = build_backbone(model)
    own = network.state_dict()
    tensors = {name: found[detectron2_name(name)] for name in own if not name.endswith(_COUNTER)}
    if len(tensors) != len(found):
        raise RuntimeError("the exported file holds tensors that the network has not")
    network.load_state_dict({**own, **tensors})
    return network.eval()


def _settings(model: ModelConfig) -> dict[str, Any]:
    """Of detectron2's config, for the network alone."""
    small = model.backbone in ("resnet18", "resnet34")
    return {
        "MODEL.RESNETS.DEPTH": _DEPTHS[model.backbone],
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.RESNETS.OUT_FEATURES": ["res5"],
        **({"MODEL.RESNETS.RES2_OUT_CHANNELS": 64} if small else {}),
        **({"MODEL.RESNETS.WIDTH_PER_GROUP": 128} if model.backbone.startswith("wide") else {}),
    }


def _recipe(model: ModelConfig, file_name: str) -> str:
    settings = [f"cfg.{name} = {value!r}" for name, value in _settings(model).items()]
    return "\n".join([
        "from detectron2.checkpoint import DetectionCheckpointer",
        "from detectron2.config import get_cfg",
        "from detectron2.layers import ShapeSpec",
        "from detectron2.modeling import build_resnet_backbone",
        "",
        "cfg = get_cfg()",
        *settings,
        'cfg.INPUT.FORMAT = "RGB"  # and PIXEL_MEAN, PIXEL_STD: those below, times 255',
        "backbone = build_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()",
        f'DetectionCheckpointer(backbone).load("{file_name}")  # in a whole config: MODEL.WEIGHTS',
        "",
        "",
        "def network(images):  # float32 [N, 3, H, W], normalised",
        '    return backbone(images)["res5"].mean((2, 3))\n',
    ])  # fmt: skip


DETECTRON2 = Format(
    suffix=".pth",
    refuse=_refuse,
    encode=_encode,
    load=_load,
    recipe=_recipe,
    promise="detectron2's checkpointer loads it as MODEL.WEIGHTS, with STRIDE_IN_1X1 False and RGB images.",
    tolerance=1e-4,
)
