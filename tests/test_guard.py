"""What is not finite never reaches a weight: the masked update to the bit, the late answer, fp16's patience,
and two ranks of which one alone went wrong."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import processes
from barlow.distributed import World
from barlow.optim import LARS, parameter_groups, step_norms
from barlow.train.guard import PATIENCE, Guard, NotFinite
from barlow.train.learner import Learner, Plan
from tiny_run import tiny_config

CPU = torch.device("cpu")
BAD = [math.nan, math.inf, -math.inf]


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4))


def optimizer_of(model: nn.Module, **settings: object) -> LARS:
    groups = parameter_groups(model)
    return LARS(groups, lr=0.3, weight_decay=1e-2, **settings)  # pyright: ignore[reportArgumentType]


def give_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


def state(model: nn.Module, optimizer: LARS) -> list[Tensor]:
    parameters = list(model.parameters())
    return [t.detach().clone() for p in parameters for t in (p, *optimizer.state[p].values())]


@pytest.mark.parametrize("variant", ["lars", "larc"])
@pytest.mark.parametrize("bad", BAD)
def test_a_masked_update_changes_no_bit(variant: str, bad: float) -> None:
    model = network()
    optimizer = optimizer_of(model, variant=variant)
    give_gradients(model, 1)
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    before = state(model, optimizer)
    give_gradients(model, 2)
    for p in model.parameters():
        assert p.grad is not None
        p.grad.flatten()[0] = bad
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(state(model, optimizer), before, strict=True))


@pytest.mark.parametrize("variant", ["lars", "larc"])
def test_an_unmasked_update_is_the_plain_one(variant: str) -> None:
    model = network()
    plain = copy.deepcopy(model)
    optimizers = optimizer_of(model, variant=variant), optimizer_of(plain, variant=variant)
    for seed in range(3):
        give_gradients(model, seed)
        give_gradients(plain, seed)
        optimizers[0].found_inf = torch.tensor(0.0)
        optimizers[0].step()
        optimizers[1].step()
    for left, right in zip(state(model, optimizers[0]), state(plain, optimizers[1]), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_guard_that_answers_at_once(where: str, bad: float) -> None:
    guard, good = Guard(CPU, 1), [torch.randn(3, 4), torch.randn(5)]
    assert guard.examine(1, torch.tensor(2.0), good, []) is None
    loss, gradients = torch.tensor(2.0), [good[0], good[1].clone()]
    if where == "loss":
        loss = torch.tensor(bad)
    else:
        gradients[1][2] = bad
    views = [torch.zeros(1, dtype=torch.uint8)]
    with pytest.raises(NotFinite, match=rf"{where} is .*step 2; no weight was changed") as caught:
        guard.examine(2, loss, gradients, views)
    assert caught.value.step == 2
    assert caught.value.views_u8 is views


def test_a_number_whose_square_overflows_is_finite() -> None:
    assert Guard(CPU, 1).examine(1, torch.tensor(1.0), [torch.full((4,), 1e30)], []) is None


def test_a_guard_that_answers_late_lets_no_later_update_pass() -> None:
    guard, good, bad = Guard(CPU, 1, late=True), [torch.ones(3)], [torch.tensor([1.0, math.nan])]
    views = [[torch.full((1,), step, dtype=torch.uint8)] for step in range(4)]
    loss = torch.tensor(1.0)
    assert not guard.examine(1, loss, good, views[1])
    skip = guard.examine(2, loss, bad, views[2])  # nobody has waited: it is not raised yet
    assert skip is not None
    assert skip.item()
    with pytest.raises(NotFinite) as caught:
        guard.examine(3, loss, good, views[3])  # all is good again, but the step before was not
    assert (caught.value.step, caught.value.views_u8) == (2, views[2])
    guard = Guard(CPU, 1, late=True)
    guard.examine(2, loss, bad, views[2])
    with pytest.raises(NotFinite, match="step 2"):
        guard.settle()
    guard.settle()  # said once


def test_fp16_may_skip_now_and_then_but_not_for_ever() -> None:
    guard, bad, good = Guard(CPU, PATIENCE), [torch.tensor([math.inf])], [torch.tensor([1.0])]
    loss = torch.tensor(1.0)
    for step in range(1, PATIENCE):
        skip = guard.examine(step, loss, bad, [])
        assert skip is not None
        assert skip.item()
    assert not guard.examine(PATIENCE, loss, good, [])  # a good one in between: the count begins again
    for step in range(1, PATIENCE):
        guard.examine(step, loss, bad, [])
    with pytest.raises(NotFinite, match=f"gradient is not finite at {PATIENCE} steps in a row"):
        guard.examine(99, loss, bad, [])


def one_rank_goes_wrong(world: World, late: bool) -> tuple[int, bool, bool]:
    """Steps of a real learner; before the third, rank 1 spoils a gradient of its own."""
    config = tiny_config()
    learner = Learner(config, Plan(10, 30, 30, 100, 100), world)
    learner._guard = Guard(world.device, 1, late=late)
    generator = torch.Generator().manual_seed(world.rank)

    def views() -> list[Tensor]:
        return [
            torch.randint(0, 256, (6, 3, 16, 16), generator=generator, dtype=torch.uint8) for _ in range(2)
        ]

    for step in (1, 2):
        learner.step(step, views(), check=False)
    before = {name: t.detach().clone() for name, t in learner.network.named_parameters()}
    momenta = {
        name: learner.optimizer.state[p]["mu"].clone() for name, p in learner.network.named_parameters()
    }
    spoil = world.rank == 1

    def spoiled(grad: Tensor) -> Tensor:
        return torch.full_like(grad, math.nan) if spoil else grad

    learner.twins.backbone.conv1.weight.register_hook(spoiled)
    stopped_at = 0
    for step in (3, 4):
        try:
            learner.step(step, views(), check=False)
        except NotFinite as found:
            stopped_at = found.step
            break
        spoil = False
    parameters = dict(learner.network.named_parameters())
    kept = all(torch.equal(parameters[name], before[name]) for name in before)
    return (
        stopped_at,
        kept,
        all(torch.equal(learner.optimizer.state[parameters[name]]["mu"], momenta[name]) for name in momenta),
    )


@pytest.mark.parametrize("late", [False, True])
def test_what_goes_wrong_on_one_rank_stops_both_before_any_weight_moves(late: bool) -> None:
    assert processes.run(one_rank_goes_wrong, 2, late) == [(3, True, True)] * 2


def test_step_norms_are_those_of_the_step() -> None:
    """By an independent reckoning: ratios from the weights before, movement from the weights after."""
    model = network()
    optimizer = optimizer_of(model, trust_coefficient=0.02)
    for seed in range(2):
        give_gradients(model, seed)
        optimizer.step()
    give_gradients(model, 2)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    found = step_norms(optimizer)
    squares = sum(float(p.grad.double().square().sum()) for p in model.parameters() if p.grad is not None)
    assert found.grad_norm == pytest.approx(math.sqrt(squares), rel=1e-5)
    ratios, moved = [], []
    for p, was in zip(model.parameters(), before, strict=True):
        if p.ndim > 1:
            assert p.grad is not None
            ratios.append(float(0.02 * was.norm() / (p.grad + 1e-2 * was).norm()))
            moved.append(float((p.detach() - was).norm() / was.norm()))
    assert found.trust_ratio_min == pytest.approx(min(ratios), rel=1e-4)
    assert found.trust_ratio_max == pytest.approx(max(ratios), rel=1e-4)
    assert found.update_ratio == pytest.approx(max(moved), rel=1e-4)
    assert min(ratios) < max(ratios)


def test_a_learner_of_one_process_stops_before_its_optimizer() -> None:
    learner = Learner(tiny_config(), Plan(10, 30, 30, 100, 100), World(0, 1, 0, CPU))
    views = [torch.zeros(12, 3, 16, 16, dtype=torch.uint8) for _ in range(2)]
    with torch.no_grad():
        learner.twins.projector[0].weight.fill_(math.nan)  # pyright: ignore
    before = learner.twins.backbone.conv1.weight.detach().clone()
    with pytest.raises(NotFinite):
        learner.step(1, views, check=False)
    assert torch.equal(learner.twins.backbone.conv1.weight, before)
