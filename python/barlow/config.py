"""Here: what a run is: frozen dataclasses whose defaults are the paper's, the presets, JSON.

Not here: which settings can work (validation.py), reading the command line, building anything from a config,
environment variables.

Sources: the paper (Zbontar et al., ICML 2021, sections 2 and 3, appendix A) and the official code
(facebookresearch/barlowtwins, main.py). Where the two differ, the field says which one it follows.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """From shards to uint8 views on the device."""

    image_size: int = 224
    """Side of a view in pixels."""
    augmentation: str = "barlow_twins"
    """The two views: barlow_twins is the paper's, barlow_twins_small the same without blur for images of
    about 32 pixels; anything else is read as the text of two views (docs/views.md)."""
    without: tuple[Literal["flip", "jitter", "grey", "blur", "solarize"], ...] = ()
    """Operations that are left out of both views (paper, figure 3)."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Range of a crop's area, as a fraction of the image; views given as text have their own."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean of each channel (of [0, 1]) subtracted before the network."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation of each channel (of [0, 1]) divided out before the network."""
    eval_resize: int = 256
    """Shorter side in pixels before the centre crop of `image_size` in evaluation."""
    threads: int = 0
    """Loader threads of each process; 0 shares the machine's cores among the processes."""
    prefetch: int = 3
    """Batches prepared ahead of the one being trained on."""
    on_error: Literal["raise", "replace"] = "raise"
    """What a damaged image does: end the run, or be replaced by another one, the same on every resumption."""
    max_replaced: float = 0.01
    """Largest share of an epoch's images that may be replaced; more end the run."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Backbone and projector (paper, section 2.2)."""

    backbone: Literal["resnet10", "resnet18", "resnet34", "resnet50"] = "resnet50"
    """torchvision's ResNet; resnet10 is resnet18 with one block in each stage."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """imagenet: 7x7 stride 2 and max-pool; cifar: 3x3 stride 1 and no pool."""
    width: int = 64
    """Channels of the first stage; 64 is torchvision's."""
    projector: tuple[int, ...] = (8192, 8192, 8192)
    """Output sizes of the projector's linear layers; the last one is the embedding's."""
    projector_norm: Literal["hidden", "none", "all"] = "hidden"
    """Where the projector has batch norm: after hidden layers (paper), nowhere (table 5), or after the last
    one, too, there without scale and offset (SimSiam)."""


Objective = Literal[
    "barlow_twins", "redundancy_reduction", "feature_normalized", "cross_covariance", "cross_entropy",
    "auto_correlation", "hsic", "mixed_barlow_twins", "fft", "vicreg", "w_mse", "simclr", "infonce", "byol",
    "simsiam",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The loss, and what some methods have between the embeddings and it; docs/ablations.md.

    barlow_twins to auto_correlation are the paper's (its variations: table 5, section 5), hsic to w_mse came
    after it, the others are what it is compared with. A setting that has no part in the chosen objective must
    be left at its default.
    """

    name: Objective = "barlow_twins"
    """Which loss; barlow_twins is equation 1 of the paper."""
    lambd: float = 0.0051
    """Weight of the redundancy-reduction term (official code; the paper rounds to 5e-3). --method sets the
    authors' 1/D for hsic and 2^-11 for fft. Not in vicreg, w_mse, simclr, infonce, byol, simsiam."""
    eps: float = 0.0
    """Added to the variance of each embedding dimension; 0 is equation 2, 1e-5 the official code. Where lambd
    is, but for cross_covariance."""
    form: Literal["auto", "correlation", "gram", "gram_features"] = "auto"
    """How barlow_twins is computed: by the correlation matrix (dimensions squared), by the Gram matrices of
    the batch (samples squared; sharded over the samples or the features), or whichever is cheapest."""
    stop_gradient: bool = False
    """No gradient into the second view's embeddings (paper, table 6). byol and simsiam have it anyway."""
    predictor: tuple[int, ...] = ()
    """Hidden sizes of a predictor on the first view's embedding (paper, table 6: 8192). Empty is none; in
    byol and simsiam, where it is on both views, it is 4096 and a quarter of the embedding (their papers)."""
    temperature: float = 0.1
    """Of cross_entropy (the paper names none), simclr and infonce (0.1 is that of SimCLR's code)."""
    invariance: float = 25.0
    """Weight of vicreg's mean squared distance of the views (Bardes et al., section 4.2)."""
    variance: float = 25.0
    """Weight of vicreg's hinge on the deviations (same)."""
    covariance: float = 1.0
    """Weight of vicreg's squared covariances (same)."""
    mixed: float = 1.0
    """Weight of the mixed images in mixed_barlow_twins, times lambd (its authors: 1 or 2 on ImageNet)."""
    block: int = 0
    """Dimensions of a block of fft; 0 is one block, the cheapest; its authors have 128, too."""
    sub_batch: int = 0
    """Samples that w_mse whitens together; 0 is twice the embedding's dimensions (its authors)."""
    target_momentum: float = 0.996
    """Share of byol's target network that the first step keeps; all of it at the end (Grill et al., section
    3.2: for 1000 epochs; their code has 0.99 for 300)."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """LARS and its schedule (paper, section 2.2; official main.py).

    Learning rates are those of the official flags: the peak is rate * batch_size / 256. The official
    code's gradient is 1/W of the true one (W processes); `reference_world_size` is that W. It divides
    `lr_biases` and multiplies `weight_decay`, so that the exact gradient of this trainer gives the
    official run's steps on any number of processes. Set it to 1 to state rates for the true gradient.
    """

    batch_size: int = 2048
    """Images of one optimizer step, over all processes."""
    epochs: int = 1000
    """Passes over the data."""
    variant: Literal["lars", "larc"] = "lars"
    """lars: the official code's; larc: apex's with clipping, as in solo-learn's CIFAR recipes."""
    warmup_epochs: float = 10
    """Linear warm-up from 0, in epochs, stepped every step."""
    lr_weights: float = 0.2
    """Learning rate of weights, per 256 images."""
    lr_biases: float = 0.0048
    """Learning rate of biases and batch-norm parameters, per 256 images."""
    lr_final_ratio: float = 1e-3
    """Learning rate at the end of the cosine, as a fraction of the peak."""
    momentum: float = 0.9
    """Momentum of LARS."""
    trust_coefficient: float = 1e-3
    """LARS eta: a step's norm as a fraction of the weight's, at learning rate 1."""
    weight_decay: float = 1.5e-6
    """Weight decay of weights, inside the trust ratio (paper; the official code's default is 1e-6)."""
    reference_world_size: int = 32
    """Processes of the run that the rates above were tuned on (the paper's 32)."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the run executes; none of it but batch norm's groups changes what is learned beyond rounding."""

    seed: int = 0
    """Seed of the initialisation, the order and the augmentations."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast of backbone and projector; auto is bf16 where the hardware has it (GPUs, CPUs with AMX),
    else fp16 on a GPU and fp32 on a CPU."""
    micro_batch: int = 0
    """Images per process and forward pass of the backbone; 0 is the whole batch. For batches that don't
    fit into memory: the gradient is still that of the whole batch through projector and loss, for one more
    forward pass of the backbone (about a third more time). The backbone's batch norm then averages over
    this many images of each process instead of the batch."""
    steps: int = 0
    """Stop after so many optimizer steps in all; 0 runs every epoch. The schedule does not change."""
    fused_lars: bool = False
    """Compile the optimizer's step into few kernels: needs Triton on a GPU, a C++ compiler on a CPU."""
    log_every: int = 20
    """Steps between two lines of metrics."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Checkpoints: folders that are valid only if their manifest verifies."""

    every_epochs: float = 1.0
    """Epochs between checkpoints; the end of the run always writes one."""
    keep: int = 2
    """Newest checkpoints kept."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """kNN and linear probe (paper, section 3.1 and appendix B.1; official evaluate.py)."""

    knn_k: int = 20
    """Neighbours that vote (DINO's choice)."""
    knn_temperature: float = 0.07
    """Votes weigh exp(cosine / temperature)."""
    linear_epochs: int = 100
    """Epochs of the linear probe."""
    linear_crops: int = 0
    """Augmented views of each training image that are cached as features and cycled over;
    0 draws new ones every epoch, which is the official protocol and needs a forward pass each."""
    linear_lr: float = 0.3
    """Peak learning rate of SGD with momentum 0.9, cosine per epoch."""
    linear_batch_size: int = 256
    """Images of one step of the probe."""
    linear_weight_decay: float = 1e-6
    """Weight decay of the probe."""
    linear_standardize: bool = False
    """Standardise each feature by the training set first: rates then suit features of any scale."""
    batch_size: int = 256
    """Images of one forward pass when features are computed."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. The defaults are the paper's ImageNet recipe."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)


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


def to_json(config: Config | ModelConfig) -> str:
    """The resolved config, or the network's part of it, as indented JSON, every field written out."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """Reads `to_json`'s output; an unknown, missing or ill-typed field is a `ValueError` naming it."""
    return _build(Config, _parsed(text), "config")


def load(path: Path) -> Config:
    """Reads a file of `to_json`; `OSError`, or a `ValueError` that names the file and what is wrong in it."""
    try:
        return from_json(path.read_bytes().decode())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def model_from_json(text: str) -> ModelConfig:
    """Reads `to_json`'s output of a ModelConfig, as strictly."""
    return _build(ModelConfig, _parsed(text), "model")


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error


def _build(cls: type[Any], raw: Any, where: str) -> Any:
    if not isinstance(raw, dict):
        raise ValueError(f"{where} must be an object, not {raw!r}")
    hints = typing.get_type_hints(cls)
    names = {f.name for f in dataclasses.fields(cls)}
    for unknown in sorted(raw.keys() - names):
        raise ValueError(f"{where}.{unknown} is not a known field")
    for missing in sorted(names - raw.keys()):
        raise ValueError(f"{where}.{missing} is missing")
    return cls(**{name: _value(hints[name], raw[name], f"{where}.{name}") for name in names})


def _value(hint: Any, raw: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), raw, where)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if raw not in args:
            raise ValueError(f"{where} must be one of {', '.join(map(str, args))}, not {raw!r}")
        return raw
    if origin is tuple:
        if not isinstance(raw, list) or (args[-1] is not Ellipsis and len(raw) != len(args)):
            raise ValueError(f"{where} must be a list of {len(args)} values, not {raw!r}")
        kinds = [args[0]] * len(raw)
        return tuple(_value(kind, item, where) for kind, item in zip(kinds, raw, strict=True))
    if hint is float and isinstance(raw, int) and not isinstance(raw, bool):
        return float(raw)
    if (
        isinstance(hint, types.UnionType)
        or not isinstance(raw, hint)
        or (hint is int and isinstance(raw, bool))
    ):
        raise ValueError(f"{where} must be {getattr(hint, '__name__', hint)}, not {raw!r}")
    return raw
