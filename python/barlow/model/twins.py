"""Here: the model that trains: backbone and projector applied to all views in one pass.

Not here: what the parts are made of, the loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from barlow.config import ModelConfig
from barlow.model.backbone import Backbone, build_backbone
from barlow.model.batchnorm import num_views_of
from barlow.model.projector import build_projector


class Twins(nn.Module):
    """The two twins share every weight, so one pass over the concatenated views computes both.

    Batch norm keeps the views apart (see batchnorm.py): the result is that of one pass per view.
    """

    def __init__(self, backbone: Backbone, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def forward(self, views: Sequence[Tensor], *, project: bool = True) -> list[Tensor]:
        """Views, each [N, 3, H, W] float, to their embeddings, each [N, D].

        Without `project` it is `represent`, which data parallelism can only reach through this method.
        """
        representations = self.represent(views)
        return self.project(representations) if project else representations

    def represent(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Views, each [N, 3, H, W] float, to their representations, each [N, backbone.num_features]."""
        return _by_view(self.backbone, views)

    def project(self, representations: Sequence[Tensor]) -> list[Tensor]:
        """Representations of the views, each [N, backbone.num_features], to their embeddings, each [N, D]."""
        return _by_view(self.projector, representations)


def _by_view(module: nn.Module, views: Sequence[Tensor]) -> list[Tensor]:
    with num_views_of(module, len(views)):
        return list(module(_concatenate(views)).chunk(len(views)))


def _concatenate(views: Sequence[Tensor]) -> Tensor:
    if len({view.shape for view in views}) != 1:
        raise ValueError(f"views must have one shape, not {[list(view.shape) for view in views]}")
    return torch.cat(list(views)) if len(views) > 1 else views[0]


def build_model(config: ModelConfig, seed: int) -> Twins:
    """The model with weights that are a function of (config, seed) alone; global random state stays."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: it reseeds the GPUs' generators too, and fork_rng restores only this one.
        torch.default_generator.manual_seed(seed)
        backbone = build_backbone(config)
        return Twins(
            backbone, build_projector(backbone.num_features, config.projector, config.projector_norm)
        )
