"""Here: the predictor that BYOL and SimSiam put behind the projector of one branch.

Not here: projectors, the losses that need a predictor.
"""

from __future__ import annotations

from torch import nn

from barlow.model.batchnorm import ViewBatchNorm1d


def build_predictor(num_dims: int, num_hidden: int, *, bias: bool) -> nn.Sequential:
    """Linear, batch norm, ReLU, linear: [N, num_dims] to the same; `bias` is that of the last layer.

    SimSiam: 2048 dimensions, 512 hidden, with bias (facebookresearch/simsiam, builder.py). BYOL: 256, 4096,
    without (google-deepmind/deepmind-research, byol/utils/networks.py; its first layer has a bias that batch
    norm takes out again). Views are normalised apart: call it per view, or under `num_views_of`.
    """
    return nn.Sequential(
        nn.Linear(num_dims, num_hidden, bias=False),
        ViewBatchNorm1d(num_hidden),
        nn.ReLU(inplace=True),
        nn.Linear(num_hidden, num_dims, bias=bias),
    )
