"""Here: the projector, which maps representations to the embeddings that the loss compares.

Not here: the backbone, the normalisation of embeddings (that belongs to the loss).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from barlow.model.batchnorm import ViewBatchNorm1d


def build_projector(num_features: int, sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers without biases, batch norm and ReLU after all but the last: [N, num_features] to [N, D].

    Indices, and so state-dict keys, are those of the official code. It gives no layer a bias: batch norm or
    the loss's standardisation would take it out again.
    """
    layers: list[nn.Module] = []
    inputs = num_features
    for size in sizes[:-1]:
        layers += [nn.Linear(inputs, size, bias=False), ViewBatchNorm1d(size), nn.ReLU(inplace=True)]
        inputs = size
    return nn.Sequential(*layers, nn.Linear(inputs, sizes[-1], bias=False))
