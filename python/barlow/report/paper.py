"""Here: what others have published for a recipe, where a run's recipe and data are theirs.

Not here: the recipes (config/presets.py, ablations.py), a run's own results (results.py).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any

from barlow.ablations import ABLATIONS
from barlow.config import Config, cifar10, imagenet

_IMAGENET_IMAGES, _CIFAR10_IMAGES = 1_281_167, 50_000
# What does not change what is learned, so that no comparison hangs on it.
_EXECUTION = {
    "data": ("threads", "prefetch", "on_error", "max_replaced", "device_stage"),
    "objective": ("form",),
}


@dataclass(frozen=True)
class Published:
    """Percent of the test images that a linear probe classifies rightly, and who says so."""

    source: str
    linear_top1: float
    linear_top5: float | None = None


def published(config: Config | None, num_images: Any) -> Published | None:
    """Of the run's recipe, if it is one that others have numbers of and the data have as many images."""
    if config is None:
        return None
    if num_images == _CIFAR10_IMAGES and _recipe(config) == _recipe(cifar10()):
        return Published("solo-learn's CIFAR-10 recipe, online probe", 92.1)
    if num_images != _IMAGENET_IMAGES:
        return None
    if _recipe(config) == _recipe(imagenet()):
        return Published("Zbontar et al. 2021, table 1", 73.2, 91.0)
    base = imagenet()
    base = replace(base, optim=replace(base.optim, epochs=300))
    for name, change in ABLATIONS.items():
        if _recipe(change.applied(base)) == _recipe(config):
            try:
                theirs = (
                    change.source if "et al" in change.source else f"Zbontar et al. 2021, {change.source}"
                )
                return Published(f"{theirs}: {name}, 300 epochs", float(change.result))
            except ValueError:  # "-", or words
                return None
    return None


def _recipe(config: Config) -> dict[str, Any]:
    """What decides what is learned."""
    parts = {
        name: dataclasses.asdict(getattr(config, name)) for name in ("data", "model", "objective", "optim")
    }
    for section, names in _EXECUTION.items():
        for name in names:
            parts[section].pop(name, None)
    return parts
