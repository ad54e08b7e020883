"""What belongs to one objective alone: limits of parameters, BYOL's target, predictors, whitening."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from barlow.distributed import World
from barlow.model import ViewBatchNorm1d, build_predictor
from barlow.model.batchnorm import num_views_of
from barlow.model.parallel import data_parallel
from barlow.objectives import barlow_twins
from barlow.objectives.byol import advance_target_, byol, target_momentum
from barlow.objectives.fft import fft_barlow_twins
from barlow.objectives.global_batch import standardize
from barlow.objectives.hsic import hsic
from barlow.objectives.infonce import infonce
from barlow.objectives.mixed_barlow_twins import Mixture, mix_views, mixed_barlow_twins, mixing_penalty
from barlow.objectives.rows import permute_rows
from barlow.objectives.simclr import simclr
from barlow.objectives.simsiam import simsiam
from barlow.objectives.vicreg import vicreg
from barlow.objectives.w_mse import _whiten, w_mse
from objective_cases import seeded
from processes import run


def pair(num_samples: int = 12, num_dims: int = 5) -> list[Tensor]:
    generator = seeded(2)
    shared = torch.randn(num_samples, num_dims, generator=generator, dtype=torch.float64)
    return [
        shared + 0.5 * torch.randn(shared.shape, generator=generator, dtype=torch.float64) for _ in range(2)
    ]


def test_blocks_of_one_dimension_are_barlow_twins() -> None:
    z1, z2 = pair(num_dims=9)
    exact = barlow_twins(z1, z2, 0.3)
    torch.testing.assert_close(fft_barlow_twins(z1, z2, 0.3, block=1), exact)
    torch.testing.assert_close(fft_barlow_twins(z1, z2, 0.3, block=1, generator=seeded()), exact)
    assert not torch.isclose(fft_barlow_twins(z1, z2, 0.3, block=3), exact)


def test_each_call_draws_a_new_order_of_dimensions() -> None:
    z1, z2 = pair(num_dims=9)
    generator = seeded()
    first, second = (fft_barlow_twins(z1, z2, 0.3, generator=generator) for _ in range(2))
    assert first != second
    assert first == fft_barlow_twins(z1, z2, 0.3, generator=seeded())


def test_a_constant_dimension_counts_as_uncorrelated() -> None:
    z1, z2 = pair(num_dims=4)
    z1[:, 1] = 1 / 3
    assert hsic(z1, z2, 0.0).item() == pytest.approx(barlow_twins(z1, z2, 0.0).item())
    torch.testing.assert_close(fft_barlow_twins(z1, z2, 0.3, block=1), barlow_twins(z1, z2, 0.3))
    z1.requires_grad_()
    for loss in (hsic(z1, z2), fft_barlow_twins(z1, z2, 0.3, block=2)):
        (grad,) = torch.autograd.grad(loss, z1)
        assert grad[:, 1].abs().max() == 0
        assert grad.isfinite().all()


def test_standardised_views_have_the_gradient_of_batch_norm() -> None:
    z = torch.stack(pair()).requires_grad_()
    weights = torch.rand(z.shape, generator=seeded(), dtype=torch.float64)
    x, count = standardize(z, 1e-3)
    reference = torch.stack(
        [nn.functional.batch_norm(view, None, None, training=True, eps=1e-3) for view in z]
    )
    assert count == 12
    torch.testing.assert_close(x, reference)
    mine, theirs = (torch.autograd.grad((x.exp() * weights).sum(), z)[0] for x in (x, reference))
    torch.testing.assert_close(mine, theirs)
    with pytest.raises(ValueError, match="eps"):
        standardize(z, -1.0)


def test_correlations_do_not_see_scale_and_shift() -> None:
    z1, z2 = pair()
    for loss in (hsic, fft_barlow_twins):
        torch.testing.assert_close(loss(z1 * 3 - 1, z2 * 0.1 + 7), loss(z1, z2))


def test_vicreg_hinges_at_a_deviation_of_one() -> None:
    z1, z2 = (10 * z for z in pair())
    torch.testing.assert_close(vicreg(z1, z2, variance=7.0), vicreg(z1, z2, variance=0.0))
    small = [z / 100 for z in pair()]
    assert vicreg(small[0], small[1], 0.0, 7.0, 0.0) > 6
    torch.testing.assert_close(vicreg(z1, z1, 1.0, 0.0, 0.0), z1.new_zeros(()))


def test_vicreg_has_second_derivatives_in_one_process() -> None:
    z1, z2 = (0.5 * z[:, :3] for z in pair(6))
    torch.autograd.gradgradcheck(lambda z: vicreg(z, z2), (z1.requires_grad_(),))


def test_simclr_is_cross_entropy_over_the_other_views() -> None:
    z1, z2 = pair()
    x = nn.functional.normalize(torch.cat([z1, z2]))
    logits = (x @ x.T / 0.1).fill_diagonal_(-torch.inf)
    labels = torch.arange(24).roll(12)
    torch.testing.assert_close(simclr(z1, z2), nn.functional.cross_entropy(logits, labels))


def test_whitened_sub_batches_have_the_identity_as_covariance() -> None:
    z = torch.stack([pair(10, 4)[0], 3 * pair(10, 4)[1] + 5])
    for part in _whiten(z, 0.0):
        torch.testing.assert_close(torch.cov(part.T), torch.eye(4, dtype=torch.float64))
        torch.testing.assert_close(part.mean(0), torch.zeros(4, dtype=torch.float64))


def test_whitening_takes_twice_the_dimensions_by_default() -> None:
    z1, z2 = pair(20, 5)
    by_default = w_mse(z1, z2, generator=seeded())
    assert by_default == w_mse(z1, z2, generator=seeded(), sub_batch=10)
    assert by_default != w_mse(z1, z2, generator=seeded(), sub_batch=20)
    assert by_default != w_mse(z1, z2, generator=seeded(12))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"sub_batch": 5}, "more samples than the 5 dimensions"),
        ({"sub_batch": 8}, "divide the global batch of 20"),
        ({"rounds": 0}, "rounds"),
        ({"eps": 1.0}, "eps"),
        ({"eps": -0.1}, "eps"),
    ],
)
def test_w_mse_refuses(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        w_mse(*pair(20, 5), generator=seeded(), **keywords)


def test_w_mse_names_a_singular_covariance_and_eps_helps() -> None:
    z1, z2 = (z.index_fill(1, torch.tensor(2), 0.0) for z in pair(20, 5))
    with pytest.raises(ValueError, match="10 samples in 5 dimensions has a singular"):
        w_mse(z1, z2, generator=seeded())
    assert w_mse(z1, z2, generator=seeded(), eps=0.01).isfinite()


def test_parameters_that_can_not_be_are_refused() -> None:
    z1, z2 = pair()
    one = z1[:1]
    for call, message in [
        (lambda: simclr(z1, z2, 0.0), "temperature"),
        (lambda: infonce(z1, z2, math.nan), "temperature"),
        (lambda: infonce(one, one), "at least 2 samples"),
        (lambda: vicreg(one, one), "at least 2 samples"),
        (lambda: vicreg(z1, z2, eps=0.0), "eps must be positive"),
        (lambda: fft_barlow_twins(z1, z2, block=0), "block"),
        (lambda: fft_barlow_twins(z1, z2, block=6), "block"),
        (lambda: fft_barlow_twins(z1, z2, exponent=3), "exponent"),
        (lambda: fft_barlow_twins(z1, z2, -1.0), "lambd"),
        (lambda: fft_barlow_twins(z1, z2, eps=-1.0), "eps"),
        (lambda: hsic(z1, z2, -1.0), "lambd"),
        (lambda: mix_views(z1, z2[1:], generator=seeded()), "one shape"),
        (lambda: mix_views(z1, z2.float(), generator=seeded()), "one dtype"),
        (lambda: mix_views(z1.byte(), z2.byte(), generator=seeded()), "floating point"),
        (lambda: permute_rows(z1, torch.arange(12), [11]), "not the 11"),
        (lambda: permute_rows(z1, torch.arange(11), [12]), "batch of 12"),
        (lambda: mixing_penalty(z1, z2, z1, Mixture(0.5, torch.arange(9), (9,))), "not the 9"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_the_mixing_penalty_is_zero_where_mixing_changes_nothing() -> None:
    z1, z2 = pair()
    z1, z2 = ((z - z.mean(0)) / z.std(0, correction=0) for z in (z1, z2))
    _, mixture = mix_views(z1, z2, generator=seeded())
    mixed = mixture.alpha * z1 + (1 - mixture.alpha) * z2[mixture.order_N]
    assert mixing_penalty(z1, z2, mixed, mixture) > 0.01  # the mixture's deviation is less than 1
    same = Mixture(0.25, torch.arange(12), (12,))
    assert mixing_penalty(z1, z1, z1, same).item() == pytest.approx(0, abs=1e-20)
    torch.testing.assert_close(mixed_barlow_twins(z1, z1, z1, same), barlow_twins(z1, z1))


def test_alpha_is_uniform() -> None:
    generator, image = seeded(), torch.zeros(1, 1)
    alphas = torch.tensor([mix_views(image, image, generator=generator)[1].alpha for _ in range(2000)])
    assert alphas.mean().item() == pytest.approx(1 / 2, abs=0.02)
    assert alphas.var().item() == pytest.approx(1 / 12, abs=0.005)


def test_the_target_momentum_rises_from_its_base_to_one() -> None:
    assert target_momentum(0, 1000) == 0.996
    assert target_momentum(500, 1000) == pytest.approx(0.998)
    assert target_momentum(1000, 1000) == 1
    assert target_momentum(250, 1000, 0.9) == pytest.approx(1 - 0.1 * (math.sqrt(2) / 2 + 1) / 2)
    for step, steps, base in [(-1, 10, 0.9), (11, 10, 0.9), (0, 0, 0.9), (1, 10, 1.1)]:
        with pytest.raises(ValueError, match="no momentum"):
            target_momentum(step, steps, base)


def test_the_target_follows_parameters_and_keeps_its_statistics() -> None:
    online, target = build_predictor(3, 6, bias=True), build_predictor(3, 6, bias=True)
    online(torch.randn(8, 3, generator=seeded()))
    before = copy.deepcopy(target)
    advance_target_(target, online, 0.9)
    for new, old, theirs in zip(target.parameters(), before.parameters(), online.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * theirs)
        assert new.requires_grad
    for new, old in zip(target.buffers(), before.buffers(), strict=True):
        assert torch.equal(new, old)
    with pytest.raises(ValueError, match="differ in their parameters"):
        advance_target_(target, build_predictor(3, 6, bias=False), 0.9)
    with pytest.raises(ValueError, match="differ in their parameters"):
        advance_target_(target, build_predictor(3, 7, bias=True), 0.9)


class Branches(nn.Module):
    """A network in small: one layer, then the predictor."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(4)
            self.trunk = nn.Linear(4, 6)
            self.predictor = build_predictor(6, 10, bias=True)
        self.double()

    def forward(self, views: list[Tensor]) -> list[Tensor]:
        z = [self.trunk(view) for view in views]
        with num_views_of(self, 2):
            return [*z, *self.predictor(torch.cat(z)).chunk(2)]


def step(world: World, sizes: list[int], name: str) -> list[Tensor]:
    """Loss and gradients of one step of BYOL or SimSiam through DistributedDataParallel."""
    branches = Branches()
    ddp = data_parallel(branches)
    z1, z2, p1, p2 = ddp([view.split(sizes)[world.rank] for view in pair(11, 4)])
    loss = {"byol": byol, "simsiam": simsiam}[name](z1, z2, p1, p2)
    loss.backward()
    return [loss.detach(), *(p.grad for p in branches.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", ["byol", "simsiam"])
def test_a_step_with_a_predictor_is_that_of_one_process(name: str) -> None:
    """And that of torch's own batch norm, one pass per view, with the cosine written out."""
    branches = Branches()
    linear, norm, relu, last = branches.predictor
    assert isinstance(norm, ViewBatchNorm1d)
    reference = nn.BatchNorm1d(10).double()
    reference.weight, reference.bias = norm.weight, norm.bias
    z1, z2 = (branches.trunk(view) for view in pair(11, 4))
    p1, p2 = (last(relu(reference(linear(z)))) for z in (z1, z2))
    cosines = [nn.functional.cosine_similarity(p, z.detach(), dim=1).mean() for p, z in ((p1, z2), (p2, z1))]
    loss = -sum(cosines) / 2 if name == "simsiam" else 4 - 2 * sum(cosines)
    loss.backward()  # pyright: ignore[reportAttributeAccessIssue]
    expected = [loss.detach(), *(p.grad for p in branches.parameters())]  # pyright: ignore[reportAttributeAccessIssue]
    for ours in [step(World(0, 1, 0, torch.device("cpu")), [11], name), *run(step, 3, [3, 7, 1], name)]:
        assert len(ours) == len(expected) == 1 + len(list(branches.parameters()))
        for mine, theirs in zip(ours, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_predictors_have_the_layers_of_the_papers() -> None:
    simsiams, byols = build_predictor(2048, 512, bias=True), build_predictor(256, 4096, bias=False)
    assert sum(p.numel() for p in simsiams.parameters()) == 2 * 2048 * 512 + 2 * 512 + 2048
    assert sum(p.numel() for p in byols.parameters()) == 2 * 256 * 4096 + 2 * 4096
    assert list(dict(byols.named_parameters())) == ["0.weight", "1.weight", "1.bias", "3.weight"]
