"""Here: published recipes for training a classifier with, or on top of, a backbone, as plain numbers.

Not here: the training itself (classifier.py), which images have labels (labelled.py).

Sources: the paper (Zbontar et al., ICML 2021), its appendices B.2 (semi-supervised) and on transfer
(Places-205 and iNaturalist-18: "exact settings from PIRL"); facebookresearch/barlowtwins, evaluate.py and
README.md, which later took another schedule and rate for the better weights of June 2021;
facebookresearch/vissl, eval_resnet_8gpu_transfer_*_linear.yaml of its linear image classification.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

BatchNorm = Literal["synchronised", "local", "frozen"]
Source = Literal["official", "paper", "vissl"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """SGD on cross-entropy: everything that the numbers depend on, beside views, seed and precision."""

    source: str
    """Where it is published, in words."""
    epochs: int
    lr_head: float
    """Learning rate of the linear layer (and of its norm), for the mean loss of the batch."""
    lr_backbone: float = 0.0
    """Learning rate of the backbone; 0 leaves it as it is, in evaluation mode."""
    batch_size: int = 256
    """Images of one step over all processes. The rates belong to it and are not rescaled by itself."""
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    """On every trained parameter, biases among them, but for `decay_norms`."""
    decay_norms: bool = True
    """Whether batch norm's scales and offsets decay, too."""
    schedule: Literal["cosine", "steps"] = "cosine"
    """cosine: half a cosine to 0, stepped per epoch; steps: times `drop_factor` after each of `drops`."""
    drops: tuple[int, ...] = ()
    """Epochs, counted from 1, after which the rates drop."""
    drop_factor: float = 0.1
    head_norm: bool = False
    """A batch norm between features and linear layer."""
    batch_norm: BatchNorm = "synchronised"
    """Of a trained backbone. synchronised: statistics of the whole batch, so that the number of processes
    changes nothing; local: of each process's own images (official evaluate.py); frozen: those that came with
    the weights, unchanged."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(
                f"epochs and batch_size must be at least 1, not {self.epochs}, {self.batch_size}"
            )
        if self.lr_head <= 0 or self.lr_backbone < 0 or self.weight_decay < 0:
            raise ValueError("lr_head must be positive, lr_backbone and weight_decay at least 0")

    def adapted(
        self, *, epochs: int = 0, batch_size: int = 0, rate_factor: float = 1.0, batch_norm: BatchNorm
    ) -> Recipe:
        """With other epochs and batches (0: its own) and rates; drops stay where they were in proportion."""
        epochs = epochs or self.epochs
        return replace(
            self,
            epochs=epochs,
            batch_size=batch_size or self.batch_size,
            lr_head=self.lr_head * rate_factor,
            lr_backbone=self.lr_backbone * rate_factor,
            drops=tuple(round(drop * epochs / self.epochs) for drop in self.drops),
            batch_norm=batch_norm,
        )

    def rate_factor(self, epoch: int) -> float:
        """What both learning rates are multiplied by in the whole of epoch `epoch`, counted from 0."""
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
        return self.drop_factor ** sum(epoch >= drop for drop in self.drops)


def _equally_spaced(epochs: int, num_drops: int) -> tuple[int, ...]:
    return tuple(round(epochs * i / (num_drops + 1)) for i in range(1, num_drops + 1))


_OFFICIAL_TUNING = Recipe(
    source="facebookresearch/barlowtwins, README.md and evaluate.py (for the weights of 73.5 %)",
    epochs=20,
    lr_head=0.5,
    lr_backbone=0.005,
)
_PAPER_TUNING = Recipe(
    source="the paper, appendix B.2",
    epochs=20,
    lr_head=0.5,
    lr_backbone=0.002,
    schedule="steps",
    drops=(12, 16),
    drop_factor=0.2,
)


def _transfer(epochs: int) -> Recipe:
    # The rate is 30 times less than the official probe's: it belongs to the normalised features of PIRL's
    # code, whose head is batch norm and a linear layer (VISSL, eval_mlp). The paper does not mention it.
    return Recipe(
        source="the paper's appendix on transfer (PIRL's settings)",
        epochs=epochs,
        lr_head=0.01,
        weight_decay=5e-4,
        schedule="steps",
        drops=_equally_spaced(epochs, 2),
        head_norm=True,
    )


def _vissl(name: str, drops: tuple[int, ...], epochs: int) -> Recipe:
    return Recipe(
        source=f"facebookresearch/vissl, eval_resnet_8gpu_transfer_{name}_linear.yaml",
        epochs=epochs,
        lr_head=0.01,
        nesterov=True,
        weight_decay=5e-4,
        decay_norms=False,
        schedule="steps",
        drops=drops,
        head_norm=True,
    )


RECIPES: dict[str, dict[Source, Recipe]] = {
    "semi-1": {"official": _OFFICIAL_TUNING, "paper": _PAPER_TUNING},
    "semi-10": {"official": _OFFICIAL_TUNING, "paper": _PAPER_TUNING},
    # Nobody published a number of Barlow Twins fine-tuned on all labels with a recipe of the authors': this
    # is evaluate.py --weights finetune --train-percent 100 with the rates of its README.
    "finetune": {"official": _OFFICIAL_TUNING, "paper": _PAPER_TUNING},
    "places205": {"paper": _transfer(14), "vissl": _vissl("places205", (4, 8, 12), 14)},
    "inat18": {"paper": _transfer(84), "vissl": _vissl("inaturalist18", (24, 48, 72), 84)},
}
"""Protocol -> source -> recipe; the first source of each is the default."""
LABELLED_SHARE = {"semi-1": 0.01, "semi-10": 0.1}
"""Share of the training images whose labels a protocol may use; all where it is not named."""


def recipe_of(protocol: str, source: Source | Literal["default"] = "default") -> Recipe:
    """The recipe of a protocol; its default where that source has none for it."""
    choices = RECIPES[protocol]
    return next(iter(choices.values())) if source == "default" or source not in choices else choices[source]
