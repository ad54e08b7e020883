"""Here: what every format of export has to say of itself.

Not here: the formats (a file each), writing and checking (write.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from barlow.config import Config, ModelConfig
from barlow.model import Backbone

Features = Callable[[Tensor], Tensor]
"""Normalised images float32 [N, 3, S, S] on the CPU to features [N, F]."""


@dataclass(frozen=True)
class Source:
    """What is exported."""

    backbone: Backbone
    """In evaluation mode, on the CPU."""
    model: ModelConfig
    run: Config | None
    """The config of the run that made it, if it is known."""
    image_size: int
    """Side in pixels of the images that it was trained on."""


@dataclass(frozen=True)
class Format:
    """One way to write a backbone, and the way in which its readers read it."""

    suffix: str
    refuse: Callable[[ModelConfig], None]
    """`ValueError` for a backbone that the format can't hold, with one that can, or a missing package."""
    encode: Callable[[Source], bytes]
    load: Callable[[Path, ModelConfig], Features]
    """By the library that the file is for: what the recipe says, done."""
    recipe: Callable[[ModelConfig, str], str]
    """Python that loads the file of this name."""
    promise: str
    """One sentence on what the file is."""
    tolerance: float = 1e-5
    """Largest difference of a feature, relative to the largest feature: other kernels round otherwise."""


WIDTH = 64
"""Channels of the first stage in every library's ResNets."""


def refuse_other_widths(model: ModelConfig, library: str) -> None:
    """`ValueError` for a ResNet whose first stage has not 64 channels."""
    if model.width != WIDTH:
        raise ValueError(
            f"{library}'s ResNets begin with {WIDTH} channels and this backbone with {model.width}, so none "
            "of them can hold it: use --format safetensors or onnx"
        )
