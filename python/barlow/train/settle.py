"""Here: what a config leaves to its backbone: the optimizer, and the size of a network that is built for one.

Not here: the rules themselves (optim/adamw.py, model/timm_models.py), other checks of a config.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

from barlow.config import RESNETS, TIMM, Config
from barlow.validation import validate_backbone


def settled(config: Config) -> Config:
    """The config with the choices made that `auto` and 0 leave to the backbone; a settled one stays as it is.

    A run's config.json is settled, so that later versions of the rules, or of timm, do not change it.
    `ValueError` for a
    backbone that there is none of, or one that can't take the images of `data.image_size`. A warning if LARS
    was asked for where it is known to fail.
    """
    validate_backbone(config.model)
    name = config.model.backbone
    if name in RESNETS:  # they leave nothing open: auto is LARS, as it was before there was a choice
        return config
    import torch

    from barlow.model import build_backbone
    from barlow.model.timm_models import own_image_size
    from barlow.optim import choose_optimizer, doubts

    if own_image_size(name.removeprefix(TIMM)):
        size = config.data.image_size
        if config.model.image_size not in (0, size):
            raise ValueError(
                f"--model.image-size {config.model.image_size} is not --data.image-size {size}, and {name} "
                "takes images of one size"
            )
        config = replace(config, model=replace(config.model, image_size=size))
    with torch.device("meta"):
        backbone = build_backbone(config.model)
    if doubt := doubts(config.optim, backbone):
        warnings.warn(doubt, stacklevel=2)
    optimizer, _ = choose_optimizer(config.optim, backbone)
    return replace(config, optim=replace(config.optim, optimizer=optimizer))
