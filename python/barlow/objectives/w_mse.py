"""Here: W-MSE (Ermolov et al., ICML 2021, arXiv 2007.06346): distance of views after hard whitening.

Not here: more than two views, running statistics (the method has none).

A view of the batch is cut into sub-batches at random, each is whitened by the Cholesky factor of its own
covariance, and the loss is the distance of the two whitened views of a sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from barlow.objectives.global_batch import Group, embeddings, full_precision
from barlow.objectives.rows import gather_rows, row_counts, to_device


def w_mse(
    z1_ND: Tensor,
    z2_ND: Tensor,
    *,
    generator: torch.Generator,
    sub_batch: int | None = None,
    rounds: int = 1,
    eps: float = 0.0,
    group: Group = None,
    counts: Sequence[int] | None = None,
) -> Tensor:
    """The mean over all samples of |w1 - w2|^2, w of length 1 after whitening, a scalar on every rank.

    `z1_ND`, `z2_ND`: this rank's embeddings, [n, D] floating point, n may differ between ranks. `sub_batch`
    samples are whitened together, 2D by default (the paper's batch slicing); they must be more than D and
    divide the global batch. Both views are cut alike, by a permutation of the global batch that `generator`,
    a CPU generator in the same state on every rank (`ValueError` if not), draws anew in each of `rounds`
    rounds, whose losses are averaged. The covariance is the unbiased one, shrunk to (1 - eps) * covariance +
    eps * identity (htdt/self-supervised, methods/whitening.py; its README has D = 64 and sub-batches of 128
    for CIFAR, D = 128, 256 and 4 rounds for STL-10 and Tiny ImageNet).

    `counts`: see `barlow_twins`. The host waits for the device once, to learn whether it could be whitened.
    Every rank gathers the embeddings and whitens all: D is small. Computed in float32 (float64 for float64);
    backward gives W times the gradient of the global batch at this rank's rows, without a collective.
    `ValueError` on every rank for sizes that don't fit and where a covariance is singular.
    """
    views = embeddings(z1_ND, z2_ND)
    with full_precision(z1_ND):
        counts = row_counts(z1_ND, generator, group, counts)
        num_samples, num_dims = sum(counts), z1_ND.shape[1]
        size = 2 * num_dims if sub_batch is None else sub_batch
        if rounds < 1 or not 0 <= eps < 1:
            raise ValueError(f"rounds must be at least 1 and 0 <= eps < 1, not {rounds} and {eps}")
        if size <= num_dims or num_samples % size:
            raise ValueError(
                f"sub-batches of {size} samples must have more samples than the {num_dims} dimensions "
                f"and divide the global batch of {num_samples}"
            )
        all_M2D = gather_rows(torch.stack(views, 1), counts, group, alike=True)
        losses = []
        for _ in range(rounds):
            order_M = to_device(torch.randperm(num_samples, generator=generator), z1_ND.device)
            sliced_2KSD = all_M2D[order_M].transpose(0, 1).unflatten(1, (-1, size))
            w1_KSD, w2_KSD = F.normalize(_whiten(sliced_2KSD, eps), dim=-1)
            losses.append((w1_KSD - w2_KSD).square().sum(-1).mean())
        return torch.stack(losses).mean()


def _whiten(z_XSD: Tensor, eps: float) -> Tensor:
    """Each [S, D] with mean 0 and, for eps = 0, unbiased covariance I: x L^-T with covariance L L'."""
    x_XSD = z_XSD - z_XSD.mean(-2, keepdim=True)
    covariance_XDD = x_XSD.mT @ x_XSD / (x_XSD.shape[-2] - 1)
    identity_DD = torch.eye(x_XSD.shape[-1], dtype=x_XSD.dtype, device=x_XSD.device)
    factor_XDD, failures = torch.linalg.cholesky_ex((1 - eps) * covariance_XDD + eps * identity_DD)
    if failures.any():
        raise ValueError(
            f"a sub-batch of {x_XSD.shape[-2]} samples in {x_XSD.shape[-1]} dimensions has a singular "
            "covariance or one that is not finite; larger sub-batches or eps > 0 may help"
        )
    return torch.linalg.solve_triangular(factor_XDD, x_XSD.mT, upper=False).mT
