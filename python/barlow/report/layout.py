"""Here: features of many dimensions as points in the plane: PCA, and t-SNE from there.

Not here: whose features they are (gallery.py), drawing points (maps.py).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_STEPS, _EXAGGERATED_STEPS, _EXAGGERATION = 400, 100, 12.0
"""Of t-SNE's descent, and how it begins: attraction that many times too strong, so that clusters form."""


def pca(x_NF: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """The two directions of largest variance: points [N, 2], and the share of the variance along each.

    Of each direction the end with the larger points is positive, so that the same features give the same
    picture on every machine.
    """
    centred_NF = x_NF.double() - x_NF.double().mean(0)
    u_NK, s_K, _ = torch.linalg.svd(centred_NF, full_matrices=False)
    points_N2 = u_NK[:, :2] * s_K[:2]
    if points_N2.shape[1] < 2:
        points_N2 = torch.nn.functional.pad(points_N2, (0, 2 - points_N2.shape[1]))
    extremes_2 = points_N2.gather(0, points_N2.abs().argmax(0, keepdim=True))[0]
    points_N2 = points_N2 * torch.where(extremes_2 < 0, -1.0, 1.0)
    total = s_K.square().sum().item()
    shares = [s.item() ** 2 / total if total else 0.0 for s in s_K[:2]] + [0.0, 0.0]
    return points_N2.float(), (shares[0], shares[1])


def tsne(x_NF: Tensor, perplexity: float = 30.0) -> Tensor:
    """Points [N, 2] whose neighbourhoods are those of the rows; exact, for some hundreds of rows.

    Source: van der Maaten & Hinton, JMLR 2008, with early exaggeration, momentum and gains as in the
    authors' code. It starts from `pca` rather than from noise, so it is a function of its input.
    """
    num_rows = len(x_NF)
    p_NN = affinities(x_NF, min(perplexity, (num_rows - 1) / 3))
    y_N2 = pca(x_NF)[0].double()
    y_N2 = 1e-2 * y_N2 / y_N2.std(0).clamp_min(1e-12)
    velocity_N2, gains_N2 = torch.zeros_like(y_N2), torch.ones_like(y_N2)
    rate = max(num_rows / _EXAGGERATION / 4, 50.0)
    for step in range(_STEPS):
        early = step < _EXAGGERATED_STEPS
        slope_N2 = gradient(p_NN * (_EXAGGERATION if early else 1.0), y_N2)
        onward_N2 = slope_N2.sign() == velocity_N2.sign()
        gains_N2 = torch.where(onward_N2, gains_N2 * 0.8, gains_N2 + 0.2).clamp_min(0.01)
        velocity_N2 = (0.5 if early else 0.8) * velocity_N2 - rate * gains_N2 * slope_N2
        y_N2 = y_N2 + velocity_N2
        y_N2 = y_N2 - y_N2.mean(0)
    return y_N2.float()


def affinities(x_NF: Tensor, perplexity: float) -> Tensor:
    """Joint probabilities [N, N] of being neighbours: Gaussians as wide as the perplexity asks, float64."""
    squares_NN = torch.cdist(x_NF.double(), x_NF.double()).square()
    squares_NN.fill_diagonal_(math.inf)
    # Of each row the nearest is at 0: it changes no probability and no exponential underflows everywhere.
    squares_NN = squares_NN - squares_NN.min(1, keepdim=True).values
    beta_N1 = torch.ones(len(x_NF), 1, dtype=torch.float64)
    low_N1, high_N1 = torch.zeros_like(beta_N1), torch.full_like(beta_N1, math.inf)
    p_NN = squares_NN
    for _ in range(64):
        p_NN = torch.softmax(-squares_NN * beta_N1, 1)
        too_wide_N1 = torch.special.entr(p_NN).sum(1, keepdim=True) > math.log(perplexity)
        low_N1 = torch.where(too_wide_N1, beta_N1, low_N1)
        high_N1 = torch.where(too_wide_N1, high_N1, beta_N1)
        beta_N1 = torch.where(high_N1.isinf(), 2 * beta_N1, (low_N1 + high_N1) / 2)
    return (p_NN + p_NN.T) / (2 * len(p_NN))


def gradient(p_NN: Tensor, y_N2: Tensor) -> Tensor:
    """Of the Kullback-Leibler divergence of the points' affinities from `p_NN`, at the points [N, 2]."""
    close_NN = 1 / (1 + torch.cdist(y_N2, y_N2).square())
    close_NN.fill_diagonal_(0)
    pull_NN = (p_NN - close_NN / close_NN.sum()) * close_NN
    return 4 * (pull_NN.sum(1, keepdim=True) * y_N2 - pull_NN @ y_N2)
