"""Here: weights that other libraries wrote: what their files wrap, of which network they are, what it takes.

Not here: how an archive is read (archives.py), our own files and loading (weights.py).

torchvision's files hold names and tensors and nothing else. timm's hold the same, wrapped or not, and say
what they are by an `arch` inside, a `config.json` beside them (as on the Hugging Face hub) or their name. A
ResNet is told by its names and shapes, which are the same in both libraries.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from barlow import durable
from barlow.config import RESNETS, TIMM, Config, DataConfig, ModelConfig
from barlow.model.archives import read_archive
from barlow.model.backbone import ARCHITECTURES, build_backbone
from barlow.model.timm_models import classifier, description, input_size, library, own_image_size

_COUNTER = ".num_batches_tracked"
_DDP = "module."
_WRAPPINGS = ("state_dict", "model")
"""Keys under which trainers keep the weights: timm's, and torchvision's references."""
_log = logging.getLogger("barlow.model")


def read_foreign(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """The tensors of a file that torch.save wrote, and the architecture that it names, if it does.

    Nothing in the file is executed. `OSError`; `ValueError` naming what is no tensor.
    """
    try:
        content = read_archive(path)
    except ValueError as error:
        if "exclude_bias_and_norm" in str(error):
            raise ValueError(
                f"{path} is a full checkpoint of the official code; barlow import makes a run of it"
            ) from error
        raise
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path} holds no dictionary of tensors")
    named = content.get("arch")
    for wrapping in _WRAPPINGS:
        if isinstance(content.get(wrapping), Mapping):
            content = content[wrapping]
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"{path}: {name!r} is no tensor")
        # A view that repeats one number may claim any size, and one without data, too.
        if (
            tensor.is_meta
            or tensor.layout != torch.strided
            or tensor.nbytes > tensor.untyped_storage().nbytes()
        ):
            raise ValueError(f"{path}: {name} {list(tensor.shape)} is larger than its data")
    tensors = {name.removeprefix(_DDP): tensor for name, tensor in content.items()}
    return tensors, named if isinstance(named, str) else None


def recognise(
    tensors: Mapping[str, Tensor], file: Path, named: str | None = None
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Which backbone the tensors are of, and those that belong to it.

    `named`: what the file says itself. A classifier is left out, and a note says so. Counters of batch norm,
    which evaluation doesn't read, are 0 where a file has none at all, as those of old torchvision have not.
    `ValueError` if it is none that can be told.
    """
    model = _model(tensors, file, named)
    heads = classifier(model.backbone.removeprefix(TIMM)) if model.backbone.startswith(TIMM) else ("fc",)
    with torch.device("meta"):
        own = build_backbone(model).state_dict()
    head = sorted(n for n in tensors if n not in own and n.startswith(tuple(f"{head}." for head in heads)))
    if head:
        _log.info("%s: its classifier is left out: %s", file, ", ".join(head))
    kept = {name: tensor for name, tensor in tensors.items() if name not in head}
    if not any(name.endswith(_COUNTER) for name in kept):
        kept |= {n: torch.zeros((), dtype=torch.int64) for n in own if n.endswith(_COUNTER)}
    return model, kept


def infer(tensors: Mapping[str, Tensor], source: Path | str) -> ModelConfig:
    """The configuration of a ResNet by its weights' names and shapes; `ValueError` if none of ours."""
    model = _resnet(tensors)
    if model is None:
        raise ValueError(f"{source} holds no ResNet with torchvision's names ({', '.join(RESNETS)})")
    return model


def described(model: ModelConfig, run: Config | None) -> Config:
    """The run's config; where no run is known, the default one with this network and the images it wants."""
    if run is not None:
        return run
    data = DataConfig()
    if model.backbone.startswith(TIMM):
        name = model.backbone.removeprefix(TIMM)
        about, side = description(name), model.image_size or input_size(name)
        data = replace(
            data,
            image_size=side,
            eval_resize=max(side, round(side / about.get("crop_pct", 0.875))),
            mean=tuple(about.get("mean", data.mean)),
            std=tuple(about.get("std", data.std)),
        )
    return replace(Config(), model=model, data=data)


def _model(tensors: Mapping[str, Tensor], file: Path, named: str | None) -> ModelConfig:
    named = named or _named_beside(file)
    if named is None or named in RESNETS:
        model = _resnet(tensors)
        if model is not None:
            return model
    stem = file.name.partition(".")[0].partition("-")[0]
    for name in filter(None, (named, stem)):
        with contextlib.suppress(ValueError):
            description(name)  # there is such a model, and timm itself
            return _of_timm(name, tensors)
    library()  # without it nothing more can be said
    said = (
        f"timm has no {named!r}"
        if named
        else "neither its name nor a config.json beside it names one of timm"
    )
    raise ValueError(
        f"{file} holds no ResNet with torchvision's names ({', '.join(RESNETS)}), and {said} (as "
        "vit_small_patch16_224.safetensors would)"
    )


def _named_beside(file: Path) -> str | None:
    """The architecture in a `config.json` beside the file, which timm's folders on the hub have."""
    try:
        found: Any = durable.read_json(file.with_name("config.json")).get("architecture")
    except (OSError, ValueError):
        return None
    return found if isinstance(found, str) else None


def _of_timm(name: str, tensors: Mapping[str, Tensor]) -> ModelConfig:
    model = ModelConfig(backbone=f"{TIMM}{name}", image_size=own_image_size(name))
    positions, patches = tensors.get("pos_embed"), tensors.get("patch_embed.proj.weight")
    if not model.image_size or positions is None or patches is None or positions.ndim != 3:
        return model
    with torch.device("meta"):
        own = build_backbone(model).state_dict()["pos_embed"]
    # Tokens before those of patches (a class token, registers) are as many at every size.
    before = own.shape[1] - (model.image_size // patches.shape[-1]) ** 2
    side = math.isqrt(max(0, positions.shape[1] - before))
    return replace(model, image_size=side * patches.shape[-1])


def _resnet(tensors: Mapping[str, Tensor]) -> ModelConfig | None:
    blocks = tuple(
        len({name.split(".")[1] for name in tensors if name.startswith(f"layer{stage}.")})
        for stage in range(1, 5)
    )
    stem, inner = tensors.get("conv1.weight"), tensors.get("layer1.0.conv2.weight")
    bottleneck = "layer1.0.conv3.weight" in tensors
    stems = {3: "cifar", 7: "imagenet"}
    if stem is None or stem.dim() != 4 or stem.shape[-1] not in stems or inner is None:
        return None
    wide = bottleneck and inner.shape[0] == 2 * stem.shape[0]
    for name, (block, num_blocks, group) in ARCHITECTURES.items():
        if (num_blocks, block.expansion > 1, group > 64) == (blocks, bottleneck, wide):
            return replace(ModelConfig(), backbone=name, stem=stems[stem.shape[-1]], width=stem.shape[0])
    return None
