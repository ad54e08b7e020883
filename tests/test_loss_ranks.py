"""Every form of the loss in real processes is equations 1 and 2 of the whole batch, in float64, to 1e-10.

Also what the ranks send one another for it, counted where they do.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from barlow.bench.traffic import counted
from barlow.distributed import World
from barlow.objectives import barlow_twins, correlation_summary
from barlow.objectives.forms import FORMS, sent_bytes
from barlow.objectives.gram import gram, gram_features
from processes import run

LAMBD = 0.03
TOLERANCE = 1e-10


class Case(NamedTuple):
    """A batch and who holds which rows of it."""

    num_dims: int
    counts: tuple[int, ...]
    shuffled: bool
    eps: float


CASES = {
    1: [Case(24, (10,), False, 0.0), Case(5, (14,), False, 0.0), Case(7, (7,), False, 0.02)],
    2: [
        Case(24, (5, 5), False, 0.0),  # N < D
        Case(5, (7, 7), True, 0.0),  # N > D; 2 does not divide D
        Case(23, (9, 1), True, 0.0),
        Case(1, (3, 4), False, 0.0),  # a rank without a feature
        Case(24, (1, 9), True, 0.02),
    ],
    4: [
        Case(24, (3, 3, 3, 3), True, 0.0),
        Case(6, (4, 4, 4, 4), True, 0.0),
        Case(22, (1, 7, 2, 1), True, 0.0),
        Case(3, (6, 1, 5, 2), True, 0.0),  # a rank without a feature
        Case(40, (2, 1, 1, 8), True, 0.02),
    ],
}


def batch(case: Case) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Two views of all samples, far from mean 0 and variance 1; the rows of each rank."""
    generator = torch.Generator().manual_seed(case.num_dims)
    num_samples = sum(case.counts)
    shared = torch.randn(num_samples, case.num_dims, generator=generator, dtype=torch.float64)
    z1, z2 = (
        (shared + 0.6 * torch.randn(shared.shape, generator=generator, dtype=torch.float64)) * scale + 3
        for scale in (0.5, 2.0)
    )
    order = torch.randperm(num_samples, generator=generator) if case.shuffled else torch.arange(num_samples)
    return z1, z2, list(order.split(list(case.counts)))


def reference(case: Case) -> dict[str, Tensor]:
    """Equations 1 and 2 with autograd, one process, float64."""
    z1, z2, _ = batch(case)
    z1.requires_grad_()
    z2.requires_grad_()
    a, b = z1 - z1.mean(0), z2 - z2.mean(0)
    extra = len(z1) * case.eps  # eps belongs to the variance, this is the sum of squares
    norms = [(view.square().sum(0) + extra).sqrt() for view in (a, b)]
    c = (a.T @ b) / (norms[0][:, None] * norms[1][None, :])
    on, off = c.diagonal(), c - torch.diag(c.diagonal())
    loss = (1 - on).square().sum() + LAMBD * off.square().sum()
    g1, g2 = torch.autograd.grad(loss, (z1, z2))
    num_off = max(1, case.num_dims * (case.num_dims - 1))
    rms = (off.square().sum() / num_off).sqrt()
    return {"loss": loss.detach(), "g1": g1, "g2": g2, "on": on.mean().detach(), "rms": rms.detach()}


def compute(world: World, cases: list[Case]) -> list[dict[str, Any]]:
    """This rank's part of every case, in every form."""
    results = []
    for case in cases:
        z1, z2, rows = batch(case)
        mine = rows[world.rank]
        z1, z2 = z1[mine].requires_grad_(), z2[mine].requires_grad_()
        for form in (*FORMS, "auto"):
            loss = barlow_twins(z1, z2, LAMBD, form=form, eps=case.eps)
            with counted() as after:
                g1, g2 = torch.autograd.grad(loss, (z1, z2))
            summary = correlation_summary(z1, z2, form=form, eps=case.eps)
            results.append({
                "loss": loss.detach(), "g1": g1, "g2": g2, "on": summary.on_diagonal,
                "rms": summary.off_diagonal_rms, "calls of backward": after.calls,
            })  # fmt: skip
    return results


@pytest.mark.parametrize("size", CASES)
def test_loss_and_gradients_are_those_of_the_equations(size: int) -> None:
    cases = CASES[size]
    ranks = run(compute, size, cases)
    for number, (case, form) in enumerate((case, form) for case in cases for form in (*FORMS, "auto")):
        expected, rows = reference(case), batch(case)[2]
        for rank, results in enumerate(ranks):
            ours, where = results[number], f"{case} {form} rank {rank}"
            assert ours["calls of backward"] == 0
            torch.testing.assert_close(ours["loss"], expected["loss"], rtol=TOLERANCE, atol=0)
            assert torch.equal(ours["loss"], ranks[0][number]["loss"]), where
            for name in ("g1", "g2"):
                # The contract: W times the gradient, of which DistributedDataParallel takes the mean.
                theirs = size * expected[name][rows[rank]]
                atol = TOLERANCE * float(expected[name].abs().max())
                assert atol > 0
                torch.testing.assert_close(
                    ours[name], theirs, rtol=0, atol=atol, msg=lambda m, w=where: w + m
                )
            assert ours["on"] == pytest.approx(expected["on"].item(), rel=TOLERANCE)
            assert ours["rms"] == pytest.approx(expected["rms"].item(), rel=1e-8, abs=1e-9)


GROUPS = ([0, 2], [1, 3])


def in_groups(world: World, case: Case) -> list[list[Tensor]]:
    """Every form among the ranks of this one's group, which have the case's batch to themselves."""
    made: list[Any] = [dist.new_group(ranks) for ranks in GROUPS]
    place = world.rank // 2
    z1, z2, rows = batch(case)
    z1, z2 = z1[rows[place]].requires_grad_(), z2[rows[place]].requires_grad_()
    results = []
    for form in (*FORMS, "auto"):
        loss = barlow_twins(z1, z2, LAMBD, form=form, group=made[world.rank % 2])
        results.append([loss.detach(), *torch.autograd.grad(loss, (z1, z2))])
    return results


@pytest.mark.parametrize("case", CASES[2][1:3])
def test_a_group_of_ranks_is_a_world_of_its_own(case: Case) -> None:
    expected, rows = reference(case), batch(case)[2]
    for rank, results in enumerate(run(in_groups, 4, case)):
        mine = rows[rank // 2]
        for loss, g1, g2 in results:
            torch.testing.assert_close(loss, expected["loss"], rtol=TOLERANCE, atol=0)
            for ours, theirs in ((g1, expected["g1"]), (g2, expected["g2"])):
                torch.testing.assert_close(ours, 2 * theirs[mine], rtol=TOLERANCE, atol=TOLERANCE)


def constant_dimension(world: World) -> list[list[Tensor]]:
    z1, z2, rows = batch(Case(9, (3, 4), False, 0.0))
    z1[:, 4] = 0.1
    z1, z2 = z1[rows[world.rank]].requires_grad_(), z2[rows[world.rank]].requires_grad_()
    results = []
    for form in FORMS:
        loss = barlow_twins(z1, z2, LAMBD, form=form)
        results.append([loss.detach(), *torch.autograd.grad(loss, (z1, z2))])
    return results


def test_a_dimension_that_is_constant_over_all_ranks_counts_as_uncorrelated() -> None:
    for by_form in run(constant_dimension, 2):
        for loss, g1, g2 in by_form:
            assert g1[:, 4].abs().max() == 0
            assert g2[:, 4].abs().min() > 0, "only the first view is constant there"
            for theirs, ours in zip(by_form[0], (loss, g1, g2), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=TOLERANCE, atol=1e-12)


TRAFFIC = (32, 64)
CALLS = {"correlation": 3, "gram": 4, "gram_features": 4}


def traffic(world: World, dtype: torch.dtype) -> list[tuple[float, int, bool]]:
    generator = torch.Generator().manual_seed(world.rank)
    rows, num_dims = TRAFFIC[0] // world.size, TRAFFIC[1]
    z1, z2 = (torch.randn(rows, num_dims, generator=generator).to(dtype).requires_grad_() for _ in range(2))
    results = []
    for form in FORMS:
        with counted() as sent:
            barlow_twins(z1, z2, LAMBD, form=form).backward()
        results.append((sent.sent_bytes, sent.calls))
    return results


@pytest.mark.parametrize("size", [2, 4])
def test_the_ranks_send_what_the_choice_of_a_form_counts_with(size: int) -> None:
    for results in run(traffic, size, torch.float32):
        for form, (sent, calls) in zip(FORMS, results, strict=True):
            assert sent == pytest.approx(sent_bytes(form, *TRAFFIC, size)), form
            assert calls == CALLS[form]


def test_half_precision_embeddings_go_out_in_two_bytes() -> None:
    sent, _ = run(traffic, 2, torch.bfloat16)[0][FORMS.index("gram_features")]
    assert sent == pytest.approx(sent_bytes("gram_features", *TRAFFIC, 2, 2))


HALF = Case(2048, (32, 32), True, 0.0)


def half(world: World, dtype: torch.dtype) -> list[Tensor]:
    z1, z2, rows = batch(HALF)
    z1, z2 = z1[rows[world.rank]].to(dtype), z2[rows[world.rank]].to(dtype)
    results = []
    for compute_form in (gram, gram_features):
        _, exact = compute_form(z1.float(), z2.float(), LAMBD, 0.0, None, True)
        with counted() as sent:
            _, dz = compute_form(z1, z2, LAMBD, 0.0, None, True, dtype)
        assert exact is not None
        assert dz is not None
        assert dz.dtype == torch.float32
        assert sent.sent_bytes < 0.8 * sent_bytes(compute_form.__name__, 64, HALF.num_dims, 2)
        results.append(torch.stack([exact, dz]))
    return results


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_of_halves_as_on_a_gpu_cost_less_than_half_a_percent(dtype: torch.dtype) -> None:
    ranks = run(half, 2, dtype)
    for form in (0, 1):
        exact, ours = torch.cat([results[form] for results in ranks], dim=2)
        error = float((ours - exact).norm() / exact.norm())
        assert 1e-5 < error < 5e-3
