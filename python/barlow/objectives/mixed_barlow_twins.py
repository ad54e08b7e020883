"""Here: Mixed Barlow Twins (Bandara et al., 2023, arXiv 2312.02151): the mixing of images across the global
batch, and the regulariser that asks the embedding of a mixture to be the mixture of the embeddings.

Not here: the third pass through the network, from the mixed images to their embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from barlow.distributed import all_reduce
from barlow.objectives.barlow_twins import barlow_twins
from barlow.objectives.global_batch import Group, embeddings, full_precision, standardize
from barlow.objectives.rows import permute_rows, row_counts


@dataclass(frozen=True)
class Mixture:
    """How a batch was mixed, the same on every rank: m = alpha * y1 + (1 - alpha) * y2[order].

    `order_N` permutes the samples of all ranks (int64, on the CPU), `counts` are the samples of each rank.
    """

    alpha: float
    order_N: Tensor
    counts: tuple[int, ...]


def mix_views(
    y1_NX: Tensor,
    y2_NX: Tensor,
    *,
    generator: torch.Generator,
    group: Group = None,
    counts: Sequence[int] | None = None,
) -> tuple[Tensor, Mixture]:
    """This rank's mixed images, of the shape and dtype of the views, and how they were mixed.

    `y1_NX`, `y2_NX`: this rank's images of the two views, [n, ...] floating point, n may differ between
    ranks. `generator`, a CPU generator in the same state on every rank (`ValueError` if not), draws alpha
    from Beta(1, 1), which is uniform (wgcban/mix-bt, main.py), and the permutation of the global batch. Each
    rank receives only the n images that it mixes in. `counts`: see `barlow_twins`.
    """
    if y1_NX.shape != y2_NX.shape or y1_NX.dim() == 0 or len(y1_NX) == 0:
        raise ValueError(
            f"views must have one shape [N, ...], not {list(y1_NX.shape)} and {list(y2_NX.shape)}"
        )
    if y1_NX.dtype != y2_NX.dtype or not y1_NX.is_floating_point():
        raise ValueError(f"views must be floating point of one dtype, not {y1_NX.dtype} and {y2_NX.dtype}")
    counts = tuple(row_counts(y1_NX, generator, group, counts))
    alpha = torch.rand((), generator=generator, dtype=torch.float64).item()
    mixture = Mixture(alpha, torch.randperm(sum(counts), generator=generator), counts)
    return torch.lerp(permute_rows(y2_NX, mixture.order_N, counts, group), y1_NX, alpha), mixture


def mixed_barlow_twins(
    z1_ND: Tensor,
    z2_ND: Tensor,
    zm_ND: Tensor,
    mixture: Mixture,
    lambd: float = 0.0051,
    weight: float = 1.0,
    *,
    eps: float = 0.0,
    group: Group = None,
) -> Tensor:
    """`barlow_twins(z1, z2, lambd)` + weight * lambd * `mixing_penalty`, a scalar on every rank.

    Defaults: wgcban/mix-bt, main_imagenet.py (there `weight` rises from 0 over the first 10 epochs). Its
    scripts for CIFAR, Tiny ImageNet and STL-10 leave out the factor 1/2 of the penalty: their weights of 4, 4
    and 2 are 8, 8 and 4 here. Gradient, precision and errors as in `barlow_twins`.
    """
    # Converted once: gradients of half precision would be rounded in each of the two terms.
    z1_ND, z2_ND, zm_ND = embeddings(z1_ND, z2_ND, zm_ND)
    penalty = mixing_penalty(z1_ND, z2_ND, zm_ND, mixture, eps=eps, group=group)
    return (
        barlow_twins(z1_ND, z2_ND, lambd, eps=eps, group=group, counts=mixture.counts)
        + weight * lambd * penalty
    )


def mixing_penalty(
    z1_ND: Tensor, z2_ND: Tensor, zm_ND: Tensor, mixture: Mixture, *, eps: float = 0.0, group: Group = None
) -> Tensor:
    """(|C(m, 1) - T1|^2 + |C(m, 2) - T2|^2) / 2, squared Frobenius norms, a scalar on every rank.

    C(a, b) is the cross-correlation of standardised a and b over the global batch; Tv = alpha * C(1, v) +
    (1 - alpha) * C(2[order], v) is what it would be if the standardised embedding of a mixture were the
    mixture of the standardised embeddings. (Not even a linear network gets to 0, since a mixture of
    standardised embeddings has a deviation below 1.) `z1_ND`, `z2_ND` and `zm_ND` are this rank's embeddings
    of the views and of their mixture, [n, D] floating point. The gradient flows into all three, as in
    wgcban/mix-bt, main.py. That code takes the unbiased deviation; main_imagenet.py also mixes within each
    rank and has C(2, 2) in place of C(1, 2) in T2.

    C is linear in its first argument, so each difference is C(m - alpha * 1 - (1 - alpha) * 2[order], v): two
    products of D x D, not six. `ValueError` if the embeddings are not of the batch that was mixed.
    """
    views = embeddings(z1_ND, z2_ND, zm_ND)
    with full_precision(z1_ND):
        x_3ND, count = standardize(torch.stack(views), eps, group)
        shuffled_ND = permute_rows(x_3ND[1], mixture.order_N, mixture.counts, group)
        excess_ND = x_3ND[2] - torch.lerp(shuffled_ND, x_3ND[0], mixture.alpha)
        # Both products side by side: one collective.
        excess_DD2 = all_reduce(excess_ND.T @ torch.cat([x_3ND[0], x_3ND[1]], 1), group, alike=True) / count
        return excess_DD2.square().sum() / 2
