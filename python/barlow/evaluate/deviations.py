"""Here: the protocol of an evaluation in words and numbers, and where it leaves the published one.

Not here: running it.
"""

from __future__ import annotations

from typing import Any

import torch

from barlow.config import Config, EvaluateConfig
from barlow.evaluate import linear

_OFFICIAL = EvaluateConfig()
"""The defaults are the official evaluate.py's."""
_OFFICIAL_SIZE, _OFFICIAL_RESIZE = 224, 256


def protocol(
    config: Config, dtype: torch.dtype, baseline_factors: tuple[float, ...] | None, *, labelled: bool
) -> dict[str, Any]:
    """Every setting that the numbers depend on, and `deviations` from the official protocol as text.

    Without labels there are no probes, so neither they nor their rates deviate from anything.
    """
    settings, data = config.evaluate, config.data
    return {
        "knn": {
            "k": settings.knn_k,
            "temperature": settings.knn_temperature,
            "similarity": "cosine",
            "weight": "exp(similarity / temperature)",
        },
        "linear": {
            "epochs": settings.linear_epochs,
            "learning_rate": settings.linear_lr,
            "schedule": "cosine per epoch",
            "momentum": linear.MOMENTUM,
            "weight_decay": settings.linear_weight_decay,
            "batch_size": settings.linear_batch_size,
            "init_std": linear.INIT_STD,
            "cached_crops": settings.linear_crops,
            "standardized": settings.linear_standardize,
            "training_view": f"random resized crop to {data.image_size} px (bilinear), flip",
        },
        "test_view": f"shorter side to {data.eval_resize} px (bilinear), centre crop of {data.image_size} px",
        "precision": str(dtype).removeprefix("torch."),
        "baselines": None
        if baseline_factors is None or not labelled
        else {
            "untrained": "the weights and batch-norm statistics that the run began with",
            "learning_rate_factors": list(baseline_factors),
            "note": "the best of these rates on the test images counts, in the baselines' favour",
        },
        "deviations": (_probe_deviations(config) if labelled else []) + _view_deviations(config, dtype),
    }


def _probe_deviations(config: Config) -> list[str]:
    settings, told = config.evaluate, []
    for field, words in (
        ("linear_epochs", "epochs"),
        ("linear_lr", "learning rate"),
        ("linear_batch_size", "images per step"),
        ("linear_weight_decay", "weight decay"),
    ):
        ours, official = getattr(settings, field), getattr(_OFFICIAL, field)
        if ours != official:
            told.append(f"linear probe: {words} {ours:g} instead of {official:g}")
    if settings.linear_crops and settings.linear_crops < settings.linear_epochs:
        told.append(
            f"linear probe: {settings.linear_crops} augmented views of each training image, cached and "
            "cycled over, instead of new ones every epoch"
        )
    if settings.linear_standardize:
        told.append("linear probe: every feature is standardised by the training images")
    return told


def _view_deviations(config: Config, dtype: torch.dtype) -> list[str]:
    data, told = config.data, []
    if (data.image_size, data.eval_resize) != (_OFFICIAL_SIZE, _OFFICIAL_RESIZE):
        told.append(
            f"views: {data.image_size} px after a resize to {data.eval_resize} px instead of "
            f"{_OFFICIAL_SIZE} px after {_OFFICIAL_RESIZE} px"
        )
    if dtype != torch.float32:
        told.append(f"features are computed in {str(dtype).removeprefix('torch.')}, not float32")
    return told
