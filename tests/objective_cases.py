"""Every objective that isn't Barlow Twins itself, beside its paper's formula written out sample by sample.

    for case in CASES: case.loss(inputs) == case.formula(inputs)

`loss` is ours and may run in several processes, each with its rows of the inputs. `formula` sees the global
batch. Formulas share nothing with the package but the random draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from barlow.objectives.byol import byol
from barlow.objectives.fft import fft_barlow_twins
from barlow.objectives.hsic import hsic
from barlow.objectives.infonce import infonce
from barlow.objectives.mixed_barlow_twins import Mixture, mix_views, mixed_barlow_twins
from barlow.objectives.simclr import simclr
from barlow.objectives.simsiam import simsiam
from barlow.objectives.vicreg import vicreg
from barlow.objectives.w_mse import w_mse

Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """`constants`: leading inputs into which no gradient flows."""

    name: str
    loss: Loss
    formula: Loss
    num_inputs: int = 2
    constants: int = 0
    num_dims: int = 5

    def inputs(self, num_samples: int = 12, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        """Correlated views with means and deviations of their own, the same at every call."""
        generator = torch.Generator().manual_seed(3)
        shape = num_samples, self.num_dims
        shared = torch.randn(shape, generator=generator, dtype=torch.float64)
        mix = torch.eye(self.num_dims, dtype=torch.float64) + 0.3
        views = [
            (shared + 0.6 * torch.randn(shape, generator=generator, dtype=torch.float64)) @ mix * 0.8
            + 0.5 * i
            for i in range(self.num_inputs)
        ]
        return [view.to(dtype).requires_grad_() for view in views]


def seeded(seed: int = 11) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def correlation(a: Tensor, b: Tensor, i: int, j: int) -> Tensor:
    x, y = a[:, i] - a[:, i].mean(), b[:, j] - b[:, j].mean()
    return (x * y).sum() / (x.square().sum() * y.square().sum()).sqrt()


def matrix(a: Tensor, b: Tensor) -> Tensor:
    dims = range(a.shape[1])
    return torch.stack([torch.stack([correlation(a, b, i, j) for j in dims]) for i in dims])


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()


def barlow_formula(a: Tensor, b: Tensor, lambd: float, target: float = 0.0) -> Tensor:
    c = matrix(a, b)
    dims = range(len(c))
    return sum(  # pyright: ignore[reportReturnType]
        (1 - c[i, j]) ** 2 if i == j else lambd * (target - c[i, j]) ** 2 for i in dims for j in dims
    )


def vicreg_formula(a: Tensor, b: Tensor) -> Tensor:
    num_samples, num_dims = a.shape
    loss = 25 * sum((x - y).square().sum() for x, y in zip(a, b, strict=True)) / (num_samples * num_dims)
    for z in (a, b):
        covariance = torch.cov(z.T)
        for i in range(num_dims):
            deviation = (z[:, i].var(correction=1) + 1e-4).sqrt()
            loss = loss + 25 / 2 * torch.clamp(1 - deviation, min=0) / num_dims
            loss = loss + sum(covariance[i, j] ** 2 for j in range(num_dims) if j != i) / num_dims
    return loss  # pyright: ignore[reportReturnType]


def simclr_formula(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    views, half = torch.cat([a, b]), len(a)
    total = a.new_zeros(())
    for i, view in enumerate(views):
        positive = (cosine(view, views[(i + half) % (2 * half)]) / temperature).exp()
        others = sum((cosine(view, other) / temperature).exp() for k, other in enumerate(views) if k != i)
        total = total - (positive / others).log()
    return total / (2 * half)


def infonce_formula(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    total = a.new_zeros(())
    for i, x in enumerate(a):
        others = torch.stack([(cosine(x, y) / temperature).exp() for k, y in enumerate(b) if k != i]).sum()
        total = total - cosine(x, b[i]) / temperature + others.log()
    return total / len(a)


def whitened(z: Tensor, eps: float) -> Tensor:
    covariance = (1 - eps) * torch.cov(z.T) + eps * torch.eye(z.shape[1], dtype=z.dtype)
    inverse = torch.linalg.inv(torch.linalg.cholesky(covariance))
    return torch.stack([inverse @ (row - z.mean(0)) for row in z])


def w_mse_formula(a: Tensor, b: Tensor, size: int, rounds: int, eps: float) -> Tensor:
    generator = seeded()
    total = a.new_zeros(())
    for _ in range(rounds):
        for rows in torch.randperm(len(a), generator=generator).split(size):
            for x, y in zip(whitened(a[rows], eps), whitened(b[rows], eps), strict=True):
                total = total + (x / x.norm() - y / y.norm()).square().sum()
    return total / (rounds * len(a))


def fft_formula(
    a: Tensor, b: Tensor, lambd: float, block: int, exponent: int, permuted: bool = False
) -> Tensor:
    num_dims = a.shape[1]
    c = matrix(a, b)
    order = torch.randperm(num_dims, generator=seeded()).tolist() if permuted else list(range(num_dims))
    loss = (c.diagonal() - 1).square().sum()
    starts = range(0, num_dims, block)
    for g in starts:
        for h in starts:
            for k in range(1 if g == h else 0, block):
                pairs = [(g + m, h + (m + k) % block) for m in range(block)]
                inside = [c[order[i], order[j]] for i, j in pairs if i < num_dims and j < num_dims]
                total = sum(inside) if inside else c.new_zeros(())
                loss = loss + lambd * abs(total) ** exponent
    return loss


def mixture_of(z: Tensor) -> Mixture:
    images = torch.zeros(len(z), 2)
    return mix_views(images, images, generator=seeded())[1]


def mixed_formula(a: Tensor, b: Tensor, m: Tensor, lambd: float, weight: float) -> Tensor:
    mixture = mixture_of(a)
    alpha, shuffled = mixture.alpha, b[mixture.order_N]
    penalty = a.new_zeros(())
    for v in (a, b):
        target = alpha * matrix(a, v) + (1 - alpha) * matrix_of_rows(shuffled, b, v, mixture)
        penalty = penalty + (matrix(m, v) - target).square().sum() / 2
    return barlow_formula(a, b, lambd) + weight * lambd * penalty


def matrix_of_rows(shuffled: Tensor, b: Tensor, v: Tensor, mixture: Mixture) -> Tensor:
    assert not torch.equal(mixture.order_N, torch.arange(len(b)))
    assert torch.equal(shuffled.sort(0).values, b.sort(0).values)
    return matrix(shuffled, v)


def byol_formula(z1: Tensor, z2: Tensor, p1: Tensor, p2: Tensor) -> Tensor:
    total = p1.new_zeros(())
    for p, z in ((p1, z2), (p2, z1)):
        for x, y in zip(p, z.detach(), strict=True):
            total = total + (x / x.norm() - y / y.norm()).square().sum()
    return total / len(p1)


def simsiam_formula(z1: Tensor, z2: Tensor, p1: Tensor, p2: Tensor) -> Tensor:
    pairs = [(p1, z2), (p2, z1)]
    cosines = [cosine(x, y) for p, z in pairs for x, y in zip(p, z.detach(), strict=True)]
    return -torch.stack(cosines).sum() / (2 * len(p1))


def fft_case(block: int, exponent: int, permuted: bool) -> Case:
    def loss(a: Tensor, b: Tensor, **keywords: object) -> Tensor:
        generator = seeded() if permuted else None
        return fft_barlow_twins(a, b, 0.3, block=block, exponent=exponent, generator=generator, **keywords)  # pyright: ignore[reportArgumentType]

    return Case(
        f"fft block {block} exponent {exponent}{' permuted' if permuted else ''}",
        loss,
        lambda a, b: fft_formula(a, b, 0.3, block, exponent, permuted),
        num_dims=7,
    )


def w_mse_case(size: int, rounds: int, eps: float, num_dims: int) -> Case:
    return Case(
        f"w_mse of {size}, {rounds} rounds, eps {eps}",
        lambda a, b, **k: w_mse(a, b, generator=seeded(), sub_batch=size, rounds=rounds, eps=eps, **k),
        lambda a, b: w_mse_formula(a, b, size, rounds, eps),
        num_dims=num_dims,
    )


CASES = [
    Case("hsic", lambda a, b, **k: hsic(a, b, **k), lambda a, b: barlow_formula(a, b, 1 / 5, target=-1)),
    Case("vicreg", lambda a, b, **k: vicreg(a, b, **k), vicreg_formula),
    Case("simclr", lambda a, b, **k: simclr(a, b, 0.2, **k), lambda a, b: simclr_formula(a, b, 0.2)),
    Case("infonce", lambda a, b, **k: infonce(a, b, 0.2, **k), lambda a, b: infonce_formula(a, b, 0.2)),
    w_mse_case(12, 1, 0.0, 5),
    w_mse_case(6, 2, 0.0, 3),
    w_mse_case(4, 1, 0.1, 3),
    fft_case(7, 2, False),
    fft_case(7, 1, True),
    fft_case(3, 2, True),
    fft_case(4, 1, False),
    fft_case(1, 2, False),
    Case(
        "mixed_barlow_twins",
        lambda a, b, m, **k: mixed_barlow_twins(a, b, m, mixture_of(a), 0.3, 1.7, **k),
        lambda a, b, m: mixed_formula(a, b, m, 0.3, 1.7),
        num_inputs=3,
    ),
    Case("byol", lambda *z, **k: byol(*z, **k), byol_formula, num_inputs=4, constants=2),
    Case("simsiam", lambda *z, **k: simsiam(*z, **k), simsiam_formula, num_inputs=4, constants=2),
]
