"""Here: the projector, which maps representations to the embeddings that the loss compares.

Not here: the backbone, the normalisation of embeddings (that belongs to the loss).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from barlow.model.batchnorm import ViewBatchNorm1d


def build_projector(
    num_features: int,
    sizes: Sequence[int],
    norm: Literal["hidden", "none", "all"] = "hidden",
    *,
    bias: bool = False,
) -> nn.Sequential:
    """Linear layers without biases, batch norm and ReLU after all but the last: [N, num_features] to [N, D].

    Indices, and so state-dict keys, are those of the official code. It gives no layer a bias: batch norm or
    the loss's standardisation would take it out again. `norm="none"` leaves the batch norms out and keeps the
    indices; "all" adds one without scale and offset to the end, as SimSiam has it. `bias`: of the last layer.
    """
    layers: list[nn.Module] = []
    inputs = num_features
    for size in sizes[:-1]:
        between = nn.Identity() if norm == "none" else ViewBatchNorm1d(size)
        layers += [nn.Linear(inputs, size, bias=False), between, nn.ReLU(inplace=True)]
        inputs = size
    layers.append(nn.Linear(inputs, sizes[-1], bias=bias))
    if norm == "all":
        last = ViewBatchNorm1d(sizes[-1])
        last.weight.requires_grad_(False)
        last.bias.requires_grad_(False)
        layers.append(last)
    return nn.Sequential(*layers)
