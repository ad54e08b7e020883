"""RankMe and alpha-ReQ against their definitions on features whose spectrum is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from barlow.objectives.spectrum import effective_rank, power_law_exponent, spectrum
from barlow.train.health import of_embeddings


def features(variances: Tensor, num_samples: int, seed: int = 0) -> Tensor:
    """Centred samples whose covariance has exactly these eigenvalues, in directions of no axis."""
    generator = torch.Generator().manual_seed(seed)
    count = len(variances)
    raw = torch.randn(num_samples, count, generator=generator, dtype=torch.float64)
    scores, _ = torch.linalg.qr(raw - raw.mean(0))
    directions, _ = torch.linalg.qr(torch.randn(count, count, generator=generator, dtype=torch.float64))
    return scores * (num_samples * variances).sqrt() @ directions + 3.0


@pytest.mark.parametrize("num_samples", [40, 400])
def test_the_spectrum_is_that_of_numpys_covariance(num_samples: int) -> None:
    z_ND = torch.randn(num_samples, 100, dtype=torch.float64) @ torch.randn(100, 100, dtype=torch.float64)
    expected = np.linalg.eigvalsh(np.cov(z_ND.numpy().T, bias=True))[::-1][: min(num_samples, 100)]
    found = spectrum(z_ND.float())
    assert found.shape == (min(num_samples, 100),)
    torch.testing.assert_close(found, torch.tensor(expected.copy()), rtol=1e-4, atol=1e-4 * expected[0])


@pytest.mark.parametrize("num_samples", [30, 300])
def test_rank_me_is_its_equation(num_samples: int) -> None:
    z_ND = torch.randn(num_samples, 50, dtype=torch.float64).cumsum(1)
    centred = (z_ND - z_ND.mean(0)).numpy()
    singular = np.linalg.svd(centred, compute_uv=False)
    shares = singular / singular.sum()
    expected = math.exp(-sum(p * math.log(p) for p in shares if p > 1e-14))
    assert effective_rank(spectrum(z_ND)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.3])
@pytest.mark.parametrize(("num_samples", "num_dims"), [(600, 300), (60, 40)])
def test_a_power_law_is_found_again(alpha: float, num_samples: int, num_dims: int) -> None:
    variances = torch.arange(1, num_dims + 1, dtype=torch.float64) ** -alpha
    z_ND = features(variances, num_samples)
    assert power_law_exponent(spectrum(z_ND)) == pytest.approx(alpha, rel=1e-6)
    assert of_embeddings(z_ND)["alpha_req"] == pytest.approx(alpha, rel=1e-6)


def test_the_law_is_that_of_the_places_from_10_to_100() -> None:
    """Nine directions above the law, and all after the hundredth below it, do not count."""
    places = torch.arange(1, 301, dtype=torch.float64)
    variances = places**-1.5
    variances[:9] *= 100
    variances[100:] *= 1e-3
    assert power_law_exponent(spectrum(features(variances, 700))) == pytest.approx(1.5, rel=1e-6)


def test_too_few_directions_have_no_law() -> None:
    assert power_law_exponent(spectrum(torch.randn(7, 7))) is None
    assert power_law_exponent(spectrum(torch.zeros(50, 50))) is None


def test_numbers_that_are_not_finite_give_none_that_are() -> None:
    z_ND = torch.randn(20, 30)
    z_ND[3, 4] = math.inf
    assert spectrum(z_ND).isnan().all()
    assert power_law_exponent(spectrum(z_ND)) is None
    assert math.isnan(effective_rank(spectrum(z_ND)))


def test_spread_and_dead_dimensions() -> None:
    z_ND = torch.randn(64, 10) * 2
    z_ND[:, 3] = 1.5
    z_ND[:, 7] = 0.0
    health = of_embeddings(z_ND)
    assert health["dead_dimensions"] == 2
    expected = (z_ND.var(0, unbiased=False).mean() / z_ND.square().mean()).sqrt().item()
    assert health["spread"] == pytest.approx(expected, rel=1e-5)
    constant = of_embeddings(torch.full((64, 10), 3.0))
    assert (constant["dead_dimensions"], constant["spread"], constant["rank_me"]) == (10, 0.0, 1.0)
    zeros = of_embeddings(torch.zeros(64, 10))
    assert (zeros["dead_dimensions"], zeros["spread"]) == (10, 0.0)
