"""Here: at which size the paper's experiments can be repeated, and what each size takes the place of.

Not here: the experiments (experiments.py), the recipes that sizes start from (config/presets.py).

A scale is a recipe of its own and sizes in the place of ImageNet's: how wide a projector is "8192", which
batch is "2048". What it changes beside that is said in `notes`, which every table repeats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from barlow.config import Config, cifar10, cifar10_cpu, imagenet


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A size at which all experiments run."""

    title: str
    """What it is, in a line."""
    make: Callable[[], Config]
    """The baseline's recipe; its projector is what stands for 8192-8192-8192."""
    widths: tuple[int, ...]
    """Of all three layers of the projector, for figure 4; ascending, the baseline's among them."""
    batches: tuple[int, ...]
    """Images of a step, for figure 2; ascending, the baseline's among them."""
    batch_of_2048: int
    """The batch whose rate stands for the authors' at 2048, of which figure 2 takes the others' ratios."""
    blurs: bool = True
    """Whether the recipe's views have blur; without, figure 3 has no row of crops and blur."""
    train_images: int = 0
    """Images that are trained on, spread evenly over the classes; 0 is all of them."""
    bank_images: int = 0
    """Training images that the probes learn from; 0 is all of them."""
    test_images: int = 0
    """Held-out images that are classified; 0 is all of them."""
    seeds: int = 3
    """Runs of each row where the command line names no number."""
    notes: tuple[str, ...] = ()
    """How it differs from the paper, in sentences."""

    @property
    def width(self) -> int:
        """Of the baseline's projector."""
        return self.make().model.projector[-1]


def _paper() -> Config:
    base = imagenet()
    return replace(base, optim=replace(base.optim, epochs=300))


def _cifar10() -> Config:
    base = cifar10()
    return replace(
        base,
        optim=replace(base.optim, epochs=100),
        # One classification at the end of each run is enough, and `barlow eval` makes it.
        evaluate=replace(base.evaluate, online_every_epochs=0.0, linear_crops=10, linear_epochs=100),
    )


def _cifar10_cpu() -> Config:
    base = cifar10_cpu()
    return replace(base, evaluate=replace(base.evaluate, online_every_epochs=0.0))


def _cifar10_minute() -> Config:
    base = _cifar10_cpu()
    return replace(
        base,
        model=replace(base.model, width=16, projector=(512, 512, 512)),
        optim=replace(base.optim, batch_size=64, epochs=1, warmup_epochs=0.1),
        train=replace(base.train, log_every=50),
        checkpoint=replace(base.checkpoint, every_steps=50, keep=1),
        evaluate=replace(base.evaluate, linear_crops=1, linear_epochs=20),
    )


def _cifar10_five_minutes() -> Config:
    base = _cifar10_minute()
    return replace(base, optim=replace(base.optim, epochs=2))


_SMALL_VIEWS = "views without blur, as usual at 32 px; crops of at least a fifth of the picture"

SCALES: dict[str, Scale] = {
    "paper": Scale(
        title="ImageNet, ResNet-50, 300 epochs, as in the paper",
        make=_paper,
        widths=(16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384),
        batches=(128, 256, 512, 1024, 2048, 4096),
        batch_of_2048=2048,
        seeds=1,
    ),
    "cifar10": Scale(
        title="CIFAR-10, ResNet-18, 100 epochs, one GPU",
        make=_cifar10,
        widths=(16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192),
        batches=(64, 128, 256, 512, 1024, 2048),
        batch_of_2048=1024,
        blurs=False,
        notes=("preset cifar10 for 100 epochs: LARC and its rates", "views without blur, as usual at 32 px"),
    ),
    "cifar10-cpu": Scale(
        title="CIFAR-10, ResNet-10 of width 32, 300,000 image pairs, two CPU cores",
        make=_cifar10_cpu,
        widths=(16, 32, 64, 128, 256, 512, 1024, 2048),
        batches=(32, 64, 128, 256, 512),
        batch_of_2048=512,
        blurs=False,
        notes=("preset cifar10-cpu: six epochs, half an hour for each cell", _SMALL_VIEWS),
    ),
    "cifar10-five-minutes": Scale(
        title="CIFAR-10, ResNet-10 of width 16, 100,000 image pairs, about five minutes on one CPU core",
        make=_cifar10_five_minutes,
        widths=(16, 64, 256, 512, 1024),
        batches=(16, 32, 64, 128, 256),
        batch_of_2048=256,
        blurs=False,
        bank_images=20_000,
        notes=(
            "two epochs over all 50,000 images; the paper has 300 epochs over 1.28 million",
            _SMALL_VIEWS,
            "probes learn from 20,000 images (one augmented view of each) and are tested on all 10,000",
        ),
    ),
    "cifar10-minute": Scale(
        title="CIFAR-10, ResNet-10 of width 16, 20,000 image pairs, about a minute on one CPU core",
        make=_cifar10_minute,
        widths=(16, 64, 256, 512, 1024),
        batches=(16, 32, 64, 128, 256),
        batch_of_2048=256,
        blurs=False,
        train_images=20_000,
        bank_images=10_000,
        test_images=5_000,
        notes=(
            "one epoch over 20,000 images, so that every image is seen once; the paper has 300 epochs over "
            "1.28 million",
            _SMALL_VIEWS,
            "probes learn from 10,000 images (one augmented view of each) and are tested on 5,000",
        ),
    ),
}  # fmt: skip
"""By the name on the command line, the largest first."""
