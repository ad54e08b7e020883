"""Here: the predictor that BYOL and SimSiam put behind the projector of one branch.

Not here: projectors, the losses that need a predictor.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from barlow.model.projector import build_projector


def build_predictor(num_dims: int, num_hidden: int | Sequence[int], *, bias: bool) -> nn.Sequential:
    """Linear, batch norm, ReLU, linear: [N, num_dims] to the same; `bias` is that of the last layer.

    Several numbers are as many hidden layers, each with batch norm and ReLU.

    SimSiam: 2048 dimensions, 512 hidden, with bias (facebookresearch/simsiam, builder.py). BYOL: 256, 4096,
    without (google-deepmind/deepmind-research, byol/utils/networks.py; its first layer has a bias that batch
    norm takes out again). Views are normalised apart: call it per view, or under `num_views_of`.
    """
    hidden = (num_hidden,) if isinstance(num_hidden, int) else num_hidden
    return build_projector(num_dims, (*hidden, num_dims), bias=bias)
