"""The paper's other losses against their formulas, entry by entry in float64, and in 1, 2 and 4 processes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from barlow.distributed import World
from barlow.objectives.auto_correlation import auto_correlation as our_auto_correlation
from barlow.objectives.cross_covariance import cross_covariance as our_cross_covariance
from barlow.objectives.cross_entropy import cross_entropy as our_cross_entropy
from barlow.objectives.feature_normalized import feature_normalized as our_feature_normalized
from barlow.objectives.redundancy_reduction import redundancy_reduction as our_redundancy_reduction
from processes import run
from test_objective import pair, with_gradients

OURS: dict[str, Callable[..., Tensor]] = {
    "auto_correlation": our_auto_correlation,
    "cross_covariance": our_cross_covariance,
    "cross_entropy": our_cross_entropy,
    "feature_normalized": our_feature_normalized,
    "redundancy_reduction": our_redundancy_reduction,
}

LAMBD, TEMPERATURE = 0.3, 0.25


def standardized(z: Tensor) -> Tensor:
    return (z - z.mean(0)) / z.var(0, correction=0).sqrt()


def summed(c: Tensor, on: Callable[[Tensor], Tensor], off: Callable[[Tensor], Tensor]) -> Tensor:
    """The sum over the entries of C, one at a time."""
    total = c.new_zeros(())
    for i in range(len(c)):
        for j in range(len(c)):
            total = total + (on(c[i, j]) if i == j else off(c[i, j]))
    return total


def nothing(c: Tensor) -> Tensor:
    return 0 * c


def equation_1(c: Tensor) -> Tensor:
    return summed(c, lambda c_ii: (1 - c_ii) ** 2, lambda c_ij: LAMBD * c_ij**2)


def redundancy_reduction(z1: Tensor, z2: Tensor) -> Tensor:
    c = standardized(z1).T @ standardized(z2) / len(z1)
    return LAMBD * summed(c, nothing, torch.square)


def feature_normalized(z1: Tensor, z2: Tensor) -> Tensor:
    c = z1.new_zeros(z1.shape[1], z1.shape[1])
    for x, y in zip(standardized(z1), standardized(z2), strict=True):
        c = c + torch.outer(x, y) * len(x) / (x.square().sum() * y.square().sum()).sqrt() / len(z1)
    return equation_1(c)


def cross_covariance(z1: Tensor, z2: Tensor) -> Tensor:
    both = torch.cov(torch.cat([z1, z2], 1).T, correction=0)
    return equation_1(both[: z1.shape[1], z1.shape[1] :])


def cross_entropy(z1: Tensor, z2: Tensor) -> Tensor:
    c = standardized(z1).T @ standardized(z2) / len(z1)
    on = summed(c, lambda c_ii: (c_ii / TEMPERATURE).exp(), nothing)
    off = summed(c, nothing, lambda c_ij: (c_ij.clamp(min=0) / TEMPERATURE).exp())
    return -on.log() + LAMBD * off.log()


def auto_correlation(z1: Tensor, z2: Tensor) -> Tensor:
    c = standardized(z1).T @ standardized(z2) / len(z1)
    own = [standardized(z).T @ standardized(z) / len(z) for z in (z1, z2)]
    redundancy = [summed(a, nothing, torch.square) for a in own]
    return summed(c, lambda c_ii: (1 - c_ii) ** 2, nothing) + LAMBD * (redundancy[0] + redundancy[1]) / 2


FORMULAS = {
    f.__name__: f
    for f in (redundancy_reduction, feature_normalized, cross_covariance, cross_entropy, auto_correlation)
}


def ours(name: str, z1: Tensor, z2: Tensor) -> Tensor:
    keywords = {"temperature": TEMPERATURE} if name == "cross_entropy" else {}
    return OURS[name](z1, z2, LAMBD, **keywords)


@pytest.mark.parametrize("shape", [(16, 5), (6, 12), (2, 3)])
@pytest.mark.parametrize("name", FORMULAS)
def test_loss_and_gradients_are_those_of_the_formula(name: str, shape: tuple[int, int]) -> None:
    z1, z2 = pair(*shape)
    for mine, theirs in zip(
        with_gradients(ours(name, z1, z2), z1, z2),
        with_gradients(FORMULAS[name](z1, z2), z1, z2),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def on_ranks(world: World, name: str, rows: list[list[int]]) -> list[Tensor]:
    z1, z2 = (z.detach()[rows[world.rank]].requires_grad_() for z in pair(14, 9))
    return list(with_gradients(ours(name, z1, z2), z1, z2))


@pytest.mark.parametrize("sizes", [[3, 11], [4, 1, 3, 6]])
def test_several_processes_have_the_gradient_of_one(sizes: list[int]) -> None:
    """Unequal shares in any order: each rank has its rows of W times the gradient."""
    order = torch.randperm(14, generator=torch.Generator().manual_seed(len(sizes)))
    rows = [part.tolist() for part in order.split(sizes)]
    results = run(every_variant_on_ranks, len(sizes), rows)
    for name in FORMULAS:
        z1, z2 = pair(14, 9)
        expected = with_gradients(FORMULAS[name](z1, z2), z1, z2)
        for rank, result in enumerate(results):
            loss, *gradients = result[name]
            torch.testing.assert_close(loss, expected[0], rtol=1e-10, atol=0)
            for mine, theirs in zip(gradients, expected[1:], strict=True):
                torch.testing.assert_close(mine, len(sizes) * theirs[rows[rank]], rtol=1e-9, atol=1e-10)


def every_variant_on_ranks(world: World, rows: list[list[int]]) -> dict[str, list[Tensor]]:
    return {name: on_ranks(world, name, rows) for name in FORMULAS}


@pytest.mark.parametrize("name", FORMULAS)
def test_half_precision_and_autocast_compute_in_float32(name: str) -> None:
    z1, z2 = (z.detach().bfloat16().requires_grad_() for z in pair(32, 12))
    with torch.autocast("cpu", torch.bfloat16):
        loss, grad, _ = with_gradients(ours(name, z1, z2), z1, z2)
    f1, f2 = (z.detach().float().requires_grad_() for z in (z1, z2))
    exact, exact_grad, _ = with_gradients(ours(name, f1, f2), f1, f2)
    assert loss.dtype == torch.float32
    assert loss == exact
    assert grad.dtype == torch.bfloat16
    assert (grad.float() - exact_grad).norm() < 5e-3 * exact_grad.norm()


@pytest.mark.parametrize("name", sorted(FORMULAS.keys() - {"cross_covariance"}))
@pytest.mark.parametrize("value", [0.0, 0.1, 1e5 / 3])
def test_a_constant_dimension_counts_as_uncorrelated(name: str, value: float) -> None:
    """It is 0 in x, as if the formula's standardisation had put it there, and gets no gradient."""
    z1, z2 = pair(12, 4)
    z1 = z1.detach().index_fill(1, torch.tensor(2), value).requires_grad_()
    loss, grad, _ = with_gradients(ours(name, z1, z2), z1, z2)
    assert loss.isfinite()
    assert grad.isfinite().all()
    assert grad[:, 2].abs().max() == 0
    assert grad[:, 1].abs().max() > 1e-4


def test_the_two_halves_add_up_to_barlow_twins() -> None:
    from barlow.objectives import barlow_twins

    z1, z2 = pair(9, 6)
    halves = barlow_twins(z1, z2, 0.0) + our_redundancy_reduction(z1, z2, LAMBD)
    torch.testing.assert_close(barlow_twins(z1, z2, LAMBD), halves)


def test_auto_correlation_of_equal_views_is_barlow_twins() -> None:
    from barlow.objectives import barlow_twins

    z, _ = pair(9, 6)
    torch.testing.assert_close(our_auto_correlation(z, z, LAMBD), barlow_twins(z, z, LAMBD))


def test_a_sample_at_the_mean_stays_there() -> None:
    z1, z2 = (z.detach() for z in pair(4, 3))
    centred = torch.cat([z1 - z1.mean(0), torch.zeros(1, 3, dtype=z1.dtype)]).requires_grad_()
    other = torch.cat([z2 - z2.mean(0), torch.zeros(1, 3, dtype=z2.dtype)])
    loss, grad = with_gradients(our_feature_normalized(centred, other), centred)
    assert loss.isfinite()
    assert grad.isfinite().all()


@pytest.mark.parametrize("name", FORMULAS)
def test_errors(name: str) -> None:
    loss = OURS[name]
    z = torch.randn(4, 3)
    for z1, z2, message in [(z, z[:3], "one shape"), (z[0], z[0], "one shape"), (z.long(), z, "floating")]:
        with pytest.raises(ValueError, match=message):
            loss(z1, z2)
    with pytest.raises(ValueError, match="negative"):
        loss(z, z, -1.0)


def test_errors_of_the_cross_entropy() -> None:
    z = torch.randn(4, 3)
    with pytest.raises(ValueError, match="temperature"):
        our_cross_entropy(z, z, temperature=0.0)
    with pytest.raises(ValueError, match="2 dimensions"):
        our_cross_entropy(z[:, :1], z[:, :1])
    assert math.isfinite(our_cross_entropy(z, z, temperature=1e-3).item())
