"""What a run is: the fields, the presets, JSON. Nothing is built here."""

from barlow.config.document import flat, from_json, load, model_from_json, to_json
from barlow.config.fields import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    RESNETS,
    TIMM,
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    Objective,
    ObjectiveConfig,
    OptimConfig,
    TrainConfig,
)  # fmt: skip
from barlow.config.presets import PRESETS, cifar10, cifar10_cpu, demo, imagenet

__all__ = [
    "CIFAR10_MEAN",
    "CIFAR10_STD",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "PRESETS",
    "RESNETS",
    "TIMM",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "EvaluateConfig",
    "ModelConfig",
    "Objective",
    "ObjectiveConfig",
    "OptimConfig",
    "TrainConfig",
    "cifar10",
    "cifar10_cpu",
    "demo",
    "flat",
    "from_json",
    "imagenet",
    "load",
    "model_from_json",
    "to_json",
]  # fmt: skip
