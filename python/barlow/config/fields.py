"""Here: what a run is: frozen dataclasses whose defaults are the paper's.

Not here: other recipes (presets.py), which settings can work (validation.py), reading and writing configs
(document.py), building anything from one.

Sources: the paper (Zbontar et al., ICML 2021, sections 2 and 3, appendix A) and the official code
(facebookresearch/barlowtwins, main.py). Where the two differ, the field says which one it follows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
RESNETS = (
    "resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
    "wide_resnet50_2", "wide_resnet101_2",
)  # fmt: skip
"""Backbones that need no other package than torchvision."""
TIMM = "timm:"
"""What stands before the name of a model of timm."""


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
    device_stage: Literal["none", "dali", "dali_decode", "auto"] = "none"
    """Where decoded crops become normalised views: none does all in Rust; dali applies the operations that
    Rust drew on the device; dali_decode has DALI decode there, too (its resize is a little different); auto
    measures for some seconds. docs/dali.md says what it needs."""
    on_error: Literal["raise", "replace"] = "raise"
    """What a damaged image does: end the run, or be replaced by another one, the same on every resumption."""
    max_replaced: float = 0.01
    """Largest share of an epoch's images that may be replaced; more end the run."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Backbone and projector (paper, section 2.2)."""

    backbone: str = "resnet50"
    """resnet10 (resnet18 with one block in each stage), 18, 34, 50, 101, 152, wide_resnet50_2 or 101_2, all
    torchvision's; or timm:NAME, any model of timm (docs/backbones.md; needs timm)."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """Of the ResNets. imagenet: 7x7 stride 2 and max-pool; cifar: 3x3 stride 1 and no pool."""
    width: int = 64
    """Of the ResNets: channels of the first stage; 64 is torchvision's."""
    image_size: int = 0
    """Side in pixels of the images that a model of timm is built for, if it is for one size, as a ViT with
    its positions is; 0: data.image_size in training. All others take any size: 0."""
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
    """LARS or AdamW, and their schedule (paper, section 2.2; official main.py).

    Learning rates are those of the official flags: the peak is rate * batch_size / 256. The official
    code's gradient is 1/W of the true one (W processes); `reference_world_size` is that W. It divides
    `lr_biases` and multiplies `weight_decay`, so that the exact gradient of this trainer gives the
    official run's steps on any number of processes. Set it to 1 to state rates for the true gradient.
    """

    batch_size: int = 2048
    """Images of one optimizer step, over all processes."""
    epochs: int = 1000
    """Passes over the data."""
    optimizer: Literal["auto", "lars", "adamw"] = "auto"
    """auto: adamw for backbones with layer norm or without any batch norm (ViT, Swin, ConvNeXt), on which
    LARS is known to collapse; lars for all others (docs/backbones.md)."""
    variant: Literal["lars", "larc"] = "lars"
    """Of LARS. lars: the official code's; larc: apex's with clipping, as in solo-learn's CIFAR recipes."""
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
    adamw_lr: float = 5e-4
    """Learning rate of AdamW, per 256 images (stable-pretraining's for ViT-S). AdamW has only these three,
    not the rates, decay, momentum and trust of LARS."""
    adamw_weight_decay: float = 0.05
    """Decoupled weight decay of AdamW, on weights of two dimensions and more (the choice of DeiT and MAE)."""
    adamw_betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's means of gradients and of their squares."""


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
    compile: bool = False
    """Compile backbone and projector (torch.compile), and the optimizer's step: minutes at the start, then
    faster steps that are the same to rounding (docs/speed.md). Needs what fused_lars needs."""
    channels_last: bool = True
    """Keep activations and convolutions' weights with the channels of a pixel side by side, which is what
    matrix units read; off only to measure what it is worth."""
    gradient_compression: Literal["none", "bf16"] = "none"
    """bf16 halves the bytes of gradients between processes, and rounds them; for slow networks."""
    deterministic: bool = False
    """Only algorithms that give the same bits each time, so that a run on a GPU that is stopped and goes on
    is the unbroken one bit for bit, as on a CPU; slower (docs/speed.md)."""
    log_every: int = 20
    """Steps between two lines of metrics."""
    lost_after: float = 30.0
    """Seconds without a sign of life of a process after which the others end; 0: they wait for it."""
    wandb: str = ""
    """Project of Weights & Biases that the metrics are also sent to; needs wandb. Empty is none."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Checkpoints: folders that are valid only if their manifest verifies."""

    every_epochs: float = 1.0
    """Epochs between checkpoints; the end of the run always writes one. It is also the most that a death at
    any moment costs: halfway to the next there is one that is removed when that is written."""
    every_steps: int = 0
    """Steps between checkpoints and the most that a death costs, instead of `every_epochs`; 0 leaves it at
    those. 1 has every step wait for the disk."""
    keep: int = 2
    """Newest checkpoints kept, beside one of halfway to the next."""
    keep_every_epochs: int = 0
    """Of every so many epochs a checkpoint is written and kept for good, besides; 0 is none."""
    on_error: Literal["raise", "warn"] = "raise"
    """What a checkpoint that can't be written does: end the run, or be left out with a warning, and lines of
    metrics then wait in memory. The last checkpoint of a run is needed anyway."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """The protocols of `barlow eval` (docs/evaluation.md); the defaults are the published numbers."""

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
    sweep_lrs: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    """Learning rates of the linear sweep, all in one pass over cached features; its other settings are those
    of the linear probe."""
    sweep_held_out: float = 0.1
    """Share of each class of the training images by which the rate of the sweep is chosen."""
    svm_costs: tuple[float, ...] = (0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0)
    """C of the SVMs, chosen for each class by cross-validation (VISSL's list)."""
    svm_folds: int = 3
    """Folds of that cross-validation."""
    few_shot_ways: int = 5
    """Classes of an episode."""
    few_shot_shots: tuple[int, ...] = (1, 5)
    """Labelled images of each class of an episode; each number has a result of its own."""
    few_shot_queries: int = 15
    """Images of each class that an episode classifies."""
    few_shot_episodes: int = 600
    """Episodes that are averaged over."""
    retrieval_at: tuple[int, ...] = (1, 5, 10)
    """Neighbours among which one of the same class must be, for the recall of retrieval."""
    batch_size: int = 256
    """Images of one forward pass of each process when features are computed."""
    recipe: Literal["default", "official", "paper", "vissl"] = "default"
    """Whose numbers semi-1, semi-10 and finetune (official or paper), places205 and inat18 (paper or vissl)
    train by; default is the first one named, also where a protocol has none of the one asked for."""
    recipe_epochs: int = 0
    """Epochs of these protocols instead of the recipe's own; 0 is those. Drops of the rate move along."""
    recipe_batch_size: int = 0
    """Images of one of their steps, of all processes; 0 is the recipe's own, 256."""
    recipe_lr_factor: float = 1.0
    """Factor of their learning rates, as for other batches than 256."""
    recipe_batch_norm: Literal["synchronised", "local", "frozen"] = "synchronised"
    """What batch norm of a backbone in training averages over: the whole batch, each process's own images
    (official code), or nothing: the weights' own statistics stay."""
    semi_1_list: str = ""
    """File with the names of semi-1's labelled images, one a line (SimCLR's imagenet_subsets/1percent.txt);
    without it 1 % of each class is drawn."""
    semi_10_list: str = ""
    """The same for semi-10."""
    online_every_epochs: float = 10.0
    """Epochs between two kNN classifications while a run trains, beside one at its end; only where images
    have labels. 0 is never."""
    online_images: int = 4096
    """Most labelled images that vote in it; a quarter as many held-out images are classified."""


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
