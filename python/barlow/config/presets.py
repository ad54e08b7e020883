"""Here: the recipes that `--preset` names, as functions that make a config.

Not here: what a field means (fields.py), changes that ablations make to a recipe (barlow.ablations).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from barlow.config.fields import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    OptimConfig,
)  # fmt: skip


def imagenet() -> Config:
    """The paper's recipe: ResNet-50, 8192-8192-8192, batch 2048, 1000 epochs (section 2.2)."""
    return Config()


def cifar10() -> Config:
    """ResNet-18 with the CIFAR stem on one GPU, 1000 epochs.

    Source: solo-learn's CIFAR-10 configuration for Barlow Twins (batch 256, projector 2048 x 3,
    LARC 0.3 per 256 images with trust coefficient 0.02, weight decay 1e-4, no blur); 92.1 % online linear
    top-1 published. Its loss scale of 0.1 is in lr_biases; docs/recipes.md says what else it did.
    """
    return Config(
        data=DataConfig(
            image_size=32,
            augmentation="barlow_twins_small",
            mean=CIFAR10_MEAN,
            std=CIFAR10_STD,
            eval_resize=32,
        ),
        model=ModelConfig(backbone="resnet18", stem="cifar", projector=(2048, 2048, 2048)),
        optim=OptimConfig(
            batch_size=256,
            variant="larc",
            lr_weights=0.3,
            lr_biases=0.03,
            trust_coefficient=0.02,
            weight_decay=1e-4,
            reference_world_size=1,
        ),
        checkpoint=CheckpointConfig(every_epochs=20),
        evaluate=EvaluateConfig(knn_k=200, knn_temperature=0.1, linear_crops=10, linear_standardize=True),
    )


def cifar10_cpu() -> Config:
    """CIFAR-10 on two CPU cores in less than 30 minutes: a narrow ResNet-10.

    Chosen here: crops of at least a fifth of the picture and small batches learn more in few steps.
    """
    base = cifar10()
    return replace(
        base,
        data=replace(base.data, crop_scale=(0.2, 1.0)),
        model=ModelConfig(backbone="resnet10", stem="cifar", width=32, projector=(512, 512, 512)),
        optim=replace(
            base.optim, variant="lars", lr_weights=0.4, batch_size=128, epochs=6, warmup_epochs=0.5
        ),
        checkpoint=CheckpointConfig(every_epochs=1),
        evaluate=replace(base.evaluate, linear_crops=2, linear_epochs=30),
    )


def demo() -> Config:
    """The run of `make demo`, six minutes on two CPU cores: a plain ResNet-18 on 48-pixel views.

    Chosen on the synthetic shapes: crops of at least a fifth of the picture still show its figure.
    """
    return Config(
        data=DataConfig(
            image_size=48,
            augmentation="barlow_twins_small",
            crop_scale=(0.2, 1.0),
            eval_resize=48,
        ),
        model=ModelConfig(backbone="resnet18", projector=(512, 512, 512)),
        optim=OptimConfig(
            batch_size=128,
            epochs=5,
            warmup_epochs=0.4,
            lr_weights=0.3,
            lr_biases=0.03,
            trust_coefficient=0.02,
            weight_decay=1e-4,
            reference_world_size=1,
        ),
        evaluate=EvaluateConfig(linear_epochs=30, linear_crops=2, linear_standardize=True),
    )


PRESETS: dict[str, Callable[[], Config]] = {
    "imagenet": imagenet,
    "cifar10": cifar10,
    "cifar10-cpu": cifar10_cpu,
    "demo": demo,
}
