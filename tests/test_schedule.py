"""The learning rate against the official code's formula, and the official flags in true-gradient units."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from barlow.config import OptimConfig
from barlow.optim import LARS, learning_rate, parameter_groups, true_gradient_rates
from test_lars import plain_step

STEPS_PER_EPOCH = 625


def official(step: int, optim: OptimConfig, steps_per_epoch: int) -> float:
    """The official code's factor of a group's rate, over its base batch_size / 256."""
    total, warmup = optim.epochs * steps_per_epoch, 10 * steps_per_epoch
    if step < warmup:
        return step / warmup
    q = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
    return q + 0.001 * (1 - q)


def test_every_step_is_the_official_formula() -> None:
    optim = OptimConfig(epochs=30)
    for step in range(30 * STEPS_PER_EPOCH + 1):
        expected = official(step, optim, STEPS_PER_EPOCH)
        assert learning_rate(step, optim, STEPS_PER_EPOCH) == pytest.approx(expected, rel=1e-12)


def test_rates_of_the_paper_at_start_peak_and_end() -> None:
    official_units = OptimConfig(reference_world_size=1)
    peaks = true_gradient_rates(official_units)
    assert peaks[:2] == pytest.approx((1.6, 0.0384))
    end = official_units.epochs * STEPS_PER_EPOCH
    for step, weights, biases in [(0, 0.0, 0.0), (10 * STEPS_PER_EPOCH, 1.6, 0.0384), (end, 1.6e-3, 3.84e-5)]:
        factor = learning_rate(step, official_units, STEPS_PER_EPOCH)
        assert factor * peaks.lr_weights == pytest.approx(weights)
        assert factor * peaks.lr_biases == pytest.approx(biases)
    assert true_gradient_rates(OptimConfig()).lr_biases == pytest.approx(0.0384 / 32)
    assert true_gradient_rates(OptimConfig()).weight_decay == pytest.approx(1.5e-6 * 32)


def test_edges() -> None:
    short = OptimConfig(epochs=10)  # never leaves the warm-up, as in the official code
    assert learning_rate(10 * 4 - 1, short, 4) == pytest.approx(39 / 40)
    none = OptimConfig(epochs=2, warmup_epochs=0)
    assert learning_rate(0, none, 5) == 1
    assert learning_rate(10, none, 5) == learning_rate(99, none, 5) == pytest.approx(none.lr_final_ratio)
    fraction = OptimConfig(epochs=2, warmup_epochs=0.5)
    assert learning_rate(2, fraction, 5) == pytest.approx(0.8)
    assert 0 < learning_rate(3, fraction, 5) <= 1


def loss_of(model: nn.Module, step: int) -> Tensor:
    x = torch.randn(12, 6, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return model(x).square().sum()


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)).double()


@pytest.mark.parametrize("world_size", [16, 32])
def test_converted_rates_reproduce_the_official_codes_parameters(world_size: int) -> None:
    optim = OptimConfig(batch_size=2048, weight_decay=1e-2, reference_world_size=world_size)
    ours, theirs = network(), network()
    rates = true_gradient_rates(optim)
    weights, biases = parameter_groups(ours)
    weights |= {"lr": rates.lr_weights, "weight_decay": rates.weight_decay}
    biases |= {"lr": rates.lr_biases}
    optimizer = LARS([weights, biases], lr=0.0, momentum=0.9, trust_coefficient=1e-3)
    momenta = [torch.zeros_like(p) for p in theirs.parameters()]
    base = optim.batch_size / 256
    for step in range(6):
        optimizer.zero_grad()
        loss_of(ours, step).backward()
        optimizer.step()
        theirs.zero_grad()
        (
            loss_of(theirs, step) / world_size
        ).backward()  # what an all-reduce without gradient leaves under DDP
        for p, mu in zip(theirs.parameters(), momenta, strict=True):
            if p.ndim == 1:
                plain_step(p, mu, optim.lr_biases * base, 0.9, 0.0, 0.0, False)
            else:
                plain_step(p, mu, optim.lr_weights * base, 0.9, optim.weight_decay, 1e-3, True)
    start = network()
    for mine, official_p, p in zip(ours.parameters(), theirs.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(mine, official_p, rtol=1e-12, atol=1e-14)
        assert not torch.equal(mine, p)
