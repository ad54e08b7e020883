"""Here: a backbone as safetensors for this package: any backbone, and it describes itself.

Not here: files for other libraries.
"""

from __future__ import annotations

from pathlib import Path

from barlow.config import ModelConfig
from barlow.export.format import Features, Format, Source
from barlow.model import weights


def encode(source: Source) -> bytes:
    """Names of torchvision or timm; the metadata hold the network's config and the run's."""
    return weights.encode(source.backbone.state_dict(), source.model, source.run)


def _load(file: Path, model: ModelConfig) -> Features:
    return weights.load_backbone(file)[0]


def _recipe(model: ModelConfig, file_name: str) -> str:
    return f'from barlow.model import load_backbone\n\nnetwork, model, _ = load_backbone("{file_name}")\n'


SAFETENSORS = Format(
    suffix=".safetensors",
    refuse=lambda model: None,
    encode=encode,
    load=_load,
    recipe=_recipe,
    promise="Its metadata let barlow rebuild the network.",
)
