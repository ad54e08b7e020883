"""Here: which configs can work: a range for every number, and how numbers must fit each other and the data.

Not here: the fields themselves and their types (config/), what a folder or a machine allows.
"""

from __future__ import annotations

import re
from typing import get_args

from barlow.config import RESNETS, TIMM, Config, ModelConfig, Objective, ObjectiveConfig

RANGES = {
    "data.image_size": "[1, 4096]",  # what the loader's views can be
    "data.crop_scale": "(0, 1]",
    "data.mean": "[0, 1]",
    "data.std": "(0, inf)",
    "data.eval_resize": "[1, 4096]",
    "data.threads": "[0, 4096]",
    "data.prefetch": "[1, 4096]",
    "data.max_replaced": "[0, 1]",
    "model.width": "[1, 4096]",
    "model.image_size": "[0, 4096]",
    "model.projector": "[1, 65536]",  # beyond, the last layer alone may have 16 GiB
    "objective.lambd": "[0, inf)",
    "objective.eps": "[0, inf)",
    "objective.predictor": "[1, 65536]",
    "objective.temperature": "(0, inf)",
    "objective.invariance": "[0, inf)",
    "objective.variance": "[0, inf)",
    "objective.covariance": "[0, inf)",
    "objective.mixed": "[0, inf)",
    "objective.block": "[0, 65536]",
    "objective.sub_batch": "[0, inf)",
    "objective.target_momentum": "[0, 1]",
    "optim.batch_size": "[2, inf)",  # the loss correlates over the batch
    "optim.epochs": "[1, 4294967296)",  # the loader counts them in 32 bits
    "optim.warmup_epochs": "[0, inf)",
    "optim.lr_weights": "(0, inf)",
    "optim.lr_biases": "[0, inf)",
    "optim.lr_final_ratio": "[0, 1]",
    "optim.momentum": "[0, 1)",
    "optim.trust_coefficient": "(0, inf)",
    "optim.weight_decay": "[0, inf)",
    "optim.reference_world_size": "[1, inf)",
    "optim.adamw_lr": "(0, inf)",
    "optim.adamw_weight_decay": "[0, inf)",
    "optim.adamw_betas": "[0, 1)",
    "train.seed": "[0, 9223372036854775808)",
    "train.micro_batch": "[0, inf)",
    "train.steps": "[0, inf)",
    "train.log_every": "[1, inf)",
    "train.lost_after": "[0, inf)",
    "checkpoint.every_epochs": "(0, inf)",
    "checkpoint.every_steps": "[0, inf)",
    "checkpoint.keep": "[1, inf)",
    "checkpoint.keep_every_epochs": "[0, inf)",
    "evaluate.knn_k": "[1, inf)",
    "evaluate.knn_temperature": "(0, inf)",
    "evaluate.linear_epochs": "[1, inf)",
    "evaluate.linear_crops": "[0, inf)",
    "evaluate.linear_lr": "(0, inf)",
    "evaluate.linear_batch_size": "[1, inf)",
    "evaluate.linear_weight_decay": "[0, inf)",
    "evaluate.sweep_lrs": "(0, inf)",
    "evaluate.sweep_held_out": "(0, 1)",
    "evaluate.svm_costs": "(0, inf)",
    "evaluate.svm_folds": "[2, inf)",
    "evaluate.few_shot_ways": "[2, inf)",
    "evaluate.few_shot_shots": "[1, inf)",
    "evaluate.few_shot_queries": "[1, inf)",
    "evaluate.few_shot_episodes": "[2, inf)",
    "evaluate.retrieval_at": "[1, inf)",
    "evaluate.batch_size": "[1, inf)",
    "evaluate.recipe_epochs": "[0, inf)",
    "evaluate.recipe_batch_size": "[0, inf)",
    "evaluate.recipe_lr_factor": "(0, inf)",
    "evaluate.online_every_epochs": "[0, inf)",
    "evaluate.online_images": "[1, inf)",
}
"""Where every number of a config must lie, as intervals; of a tuple, each of its numbers."""
MAY_BE_EMPTY = ("objective.predictor",)

_OF_C = ("barlow_twins", "redundancy_reduction", "feature_normalized", "cross_entropy", "auto_correlation",
         "hsic", "mixed_barlow_twins", "fft")  # fmt: skip
_OWN_BRANCHES = ("mixed_barlow_twins", "byol", "simsiam")
_OF_TWO = tuple(name for name in get_args(Objective) if name not in _OWN_BRANCHES)
PART_IN = {
    "lambd": (*_OF_C, "cross_covariance"),
    "eps": _OF_C,
    "form": ("barlow_twins",),
    "stop_gradient": _OF_TWO,
    "predictor": (*_OF_TWO, "byol", "simsiam"),
    "temperature": ("cross_entropy", "simclr", "infonce"),
    "invariance": ("vicreg",),
    "variance": ("vicreg",),
    "covariance": ("vicreg",),
    "mixed": ("mixed_barlow_twins",),
    "block": ("fft",),
    "sub_batch": ("w_mse",),
    "target_momentum": ("byol",),
}
"""In which objectives each of their settings has a part."""


def validate_ranges(config: Config) -> None:
    """Raises `ValueError` naming the flag for a number outside its range; NaN is outside of all."""
    for name, interval in RANGES.items():
        section, field_name = name.split(".")
        flag, value = f"--{name.replace('_', '-')}", getattr(getattr(config, section), field_name)
        numbers = value if isinstance(value, tuple) else (value,)
        if not numbers and name not in MAY_BE_EMPTY:
            raise ValueError(f"{flag} needs at least one value")
        for number in numbers:
            if not _within(number, interval):
                raise ValueError(f"{flag} must lie in {interval}, not {number}")
    validate_backbone(config.model)


def validate_backbone(model: ModelConfig) -> None:
    """`ValueError` for a name that no backbone can have, or settings that have no part in it.

    Whether timm has a model of the name, and of which size, is known when it is built.
    """
    name, default = model.backbone, ModelConfig()
    if name.startswith(TIMM):
        if not re.fullmatch(r"\w+(\.\w+)?", name.removeprefix(TIMM), re.ASCII):
            raise ValueError(f"--model.backbone {name!r} names no model of timm: {TIMM}vit_small_patch16_224")
        for field in ("stem", "width"):
            value, usual = getattr(model, field), getattr(default, field)
            if value != usual:
                raise ValueError(
                    f"--model.{field} {value} is for the ResNets and has no part in {name}: add "
                    f"--model.{field} {usual}"
                )
    elif name not in RESNETS:
        raise ValueError(f"--model.backbone {name!r} must be one of {', '.join(RESNETS)} or {TIMM}NAME")
    elif model.image_size:
        raise ValueError(f"--model.image-size has no part in {name}, which takes images of any size")


def _within(number: float, interval: str) -> bool:
    low, high = map(float, interval[1:-1].split(","))
    above = low <= number if interval.startswith("[") else low < number
    return above and (number <= high if interval.endswith("]") else number < high)


def validate(config: Config, *, num_samples: int, world_size: int) -> None:
    """Raises `ValueError` naming the flag for any setting that cannot work on this data and world."""
    validate_ranges(config)
    _validate_objective(config)
    data, batch_size = config.data, config.optim.batch_size
    low, high = data.crop_scale
    if low > high:
        raise ValueError(f"--data.crop-scale must be a low and a high end, not {low} {high}")
    if data.eval_resize < data.image_size:
        raise ValueError(
            f"--data.eval-resize {data.eval_resize} is smaller than --data.image-size {data.image_size}"
        )
    if batch_size > num_samples:
        raise ValueError(
            f"--optim.batch-size {batch_size} is larger than the data set ({num_samples} images)"
        )
    if batch_size % world_size:
        raise ValueError(f"--optim.batch-size {batch_size} is not divisible by the {world_size} processes")
    images, parts = batch_size // world_size, num_micro_batches(config, world_size)
    if parts > 1 and images // parts * world_size < 2:
        raise ValueError(
            f"--train.micro-batch {config.train.micro_batch} leaves batch norm a single image to average over"
        )


def num_micro_batches(config: Config, world_size: int) -> int:
    """Parts of a step's batch that pass through the backbone one after the other; 1 is the whole batch."""
    images = config.optim.batch_size // world_size
    return -(-images // (config.train.micro_batch or images))


def _validate_objective(config: Config) -> None:
    objective, default = config.objective, ObjectiveConfig()
    for field, names in PART_IN.items():
        flag = f"--objective.{field.replace('_', '-')}"
        if getattr(objective, field) != getattr(default, field) and objective.name not in names:
            raise ValueError(f"{flag} has no part in {objective.name}, only in {', '.join(names)}")
    num_dims, batch_size = config.model.projector[-1], config.optim.batch_size
    if objective.block > num_dims:
        raise ValueError(f"--objective.block {objective.block} is larger than the embedding ({num_dims})")
    if objective.name == "w_mse":
        whitened = objective.sub_batch or 2 * num_dims
        if whitened <= num_dims or batch_size % whitened:
            raise ValueError(
                f"--objective.sub-batch {whitened} (by default twice the embedding's {num_dims} dimensions) "
                f"must be more than them and divide --optim.batch-size {batch_size}"
            )
    if objective.name == "cross_entropy" and num_dims < 2:
        raise ValueError("--objective.name cross_entropy needs an embedding of at least 2 dimensions")
