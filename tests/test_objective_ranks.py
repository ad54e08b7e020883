"""Objectives in 2 and 4 real processes: the loss of the global batch, and W times its gradient's rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from barlow.distributed import World, all_reduce
from barlow.objectives.mixed_barlow_twins import mix_views
from barlow.objectives.rows import gather_rows, permute_rows, row_counts
from barlow.objectives.w_mse import w_mse
from objective_cases import CASES, Case, seeded
from processes import run

NUM_SAMPLES = 12


def split(sizes: list[int], order: list[int] | None = None) -> list[list[int]]:
    return [rows.tolist() for rows in torch.tensor(order or list(range(NUM_SAMPLES))).split(sizes)]


def losses_and_gradients(
    world: World, rows: list[list[int]], groups: list[list[int]] | None = None
) -> dict[str, Any]:
    """Of every case, on this rank's rows; within this rank's group of ranks if there are groups."""
    made = [dist.new_group(ranks) for ranks in groups or []]
    mine = [group for ranks, group in zip(groups or [], made, strict=True) if world.rank in ranks]
    keywords = {"group": mine[0]} if mine else {}
    results = {}
    for case in CASES:
        if mine and case.num_inputs == 3:
            continue  # its mixture is of all ranks
        local = [z.detach()[rows[world.rank]].requires_grad_() for z in case.inputs()]
        loss = case.loss(*local, **keywords)
        results[case.name] = loss.detach(), torch.autograd.grad(loss, local[case.constants :])
    return results


def expected(case: Case, order: list[int]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The formula of the global batch in the order of the ranks' rows."""
    inputs = [z.detach()[order].requires_grad_() for z in case.inputs()]
    loss = case.formula(*inputs)
    return loss.detach(), torch.autograd.grad(loss, inputs[case.constants :])


def assert_global(results: list[dict[str, Any]], rows: list[list[int]], cases: list[Case]) -> None:
    order = [row for part in rows for row in part]
    for case in cases:
        loss, gradients = expected(case, order)
        for rank, own in enumerate(split([len(part) for part in rows])):
            mine, my_gradients = results[rank][case.name]
            assert mine == results[0][case.name][0], "the loss must be the same to the last bit on all ranks"
            torch.testing.assert_close(
                mine, loss, rtol=1e-11, atol=1e-12, msg=lambda m, c=case: f"{c.name}: {m}"
            )
            for ours, whole in zip(my_gradients, gradients, strict=True):
                torch.testing.assert_close(
                    ours,
                    len(rows) * whole[own],
                    rtol=1e-10,
                    atol=1e-10,
                    msg=lambda m, c=case: f"{c.name}: {m}",
                )


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(split([6, 6]), id="2 equal"),
        pytest.param(split([3, 9], [5, 0, 8, 1, 9, 2, 11, 4, 3, 10, 6, 7]), id="2 unequal and shuffled"),
        pytest.param(split([4, 1, 2, 5]), id="4 unequal, one with a single sample"),
    ],
)
def test_ranks_compute_the_global_loss_and_w_times_their_rows_of_its_gradient(rows: list[list[int]]) -> None:
    assert_global(run(losses_and_gradients, len(rows), rows), rows, CASES)


def test_a_group_of_ranks_is_a_world_of_its_own() -> None:
    rows, groups = split([2, 7, 10, 5], [*range(12), *range(12)]), [[0, 2], [1, 3]]
    results = run(losses_and_gradients, 4, rows, groups)
    cases = [case for case in CASES if case.num_inputs != 3]
    for ranks in groups:
        assert_global([results[rank] for rank in ranks], [rows[rank] for rank in ranks], cases)


def collectives_of_backward(world: World) -> dict[str, int]:
    """How many collectives the backward pass of each case takes."""
    counts = {}
    for case in CASES:
        local = [z.detach().split(6)[world.rank].requires_grad_() for z in case.inputs()]
        loss = case.loss(*local)
        calls: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            for name in ("all_reduce", "all_gather_into_tensor", "all_to_all_single"):
                patch.setattr(dist, name, counted(getattr(dist, name), name, calls))
            loss.backward()
        counts[case.name] = len(calls)
    return counts


def counted(collective: Callable[..., Any], name: str, calls: list[str]) -> Callable[..., Any]:
    def call(*arguments: Any, **keywords: Any) -> Any:
        calls.append(name)
        return collective(*arguments, **keywords)

    return call


def test_backward_takes_no_more_collectives_than_promised() -> None:
    """None where the loss sees the batch only by sums; else one, for the gathered rows or the means."""
    none = ("vicreg", "w_mse", "byol", "simsiam")
    for counts in run(collectives_of_backward, 2):
        assert len(counts) == len(CASES)
        for name, count in counts.items():
            # The mixture: the rows that were moved, and the means of the three views.
            promised = 0 if name.startswith(none) else 2 if name.startswith("mixed") else 1
            assert count == promised, name


def mixed_images(world: World, rows: list[list[int]], dtype: torch.dtype) -> tuple[Tensor, float, Tensor]:
    y1, y2 = (y[rows[world.rank]] for y in images(dtype))
    mixed, mixture = mix_views(y1, y2, generator=seeded())
    return mixed, mixture.alpha, mixture.order_N


def images(dtype: torch.dtype) -> list[Tensor]:
    """Channels last, as a loader's images are that go into convolutions."""
    generator = torch.Generator().manual_seed(1)
    views = [torch.randn(NUM_SAMPLES, 3, 4, 5, generator=generator).to(dtype) for _ in range(2)]
    return [view.contiguous(memory_format=torch.channels_last) for view in views]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_images_are_mixed_across_ranks(dtype: torch.dtype) -> None:
    sizes = [4, 1, 2, 5]
    parts = run(mixed_images, 4, split(sizes), dtype)
    _, alpha, order = parts[0]
    assert 0 < alpha < 1
    assert sorted(order.tolist()) == list(range(NUM_SAMPLES))
    owner = torch.repeat_interleave(torch.arange(4), torch.tensor(sizes))
    assert (owner != owner[order]).any(), "the case should move images between ranks"
    y1, y2 = (y.double() for y in images(dtype))
    mixed = torch.cat([part[0] for part in parts])
    assert mixed.dtype == dtype
    assert all(part[0].is_contiguous(memory_format=torch.channels_last) for part in parts)
    torch.testing.assert_close(
        mixed.double(), alpha * y1 + (1 - alpha) * y2[order], rtol=0, atol=4 * torch.finfo(dtype).eps
    )
    one = World(0, 1, 0, torch.device("cpu"))
    alone, same_alpha, same_order = mixed_images(one, split([NUM_SAMPLES]), dtype)
    assert torch.equal(alone, mixed)
    assert same_alpha == alpha
    assert torch.equal(same_order, order)


def weighted_rows(world: World, sizes: list[int], alike: bool) -> list[Tensor]:
    """Rows gathered and permuted; then each rank weighs them its own way, or all the same way."""
    rows = torch.arange(float(sum(sizes) * 2), dtype=torch.float64).view(-1, 2).split(sizes)
    x = rows[world.rank].clone().requires_grad_()
    counts = row_counts(x)
    assert counts == sizes
    gathered = gather_rows(x, counts, alike=alike)
    weights = torch.arange(1.0, 1 + sum(sizes), dtype=torch.float64)[:, None] * (
        1 if alike else world.rank + 1
    )
    total = (gathered * weights).sum()
    loss = total if alike else all_reduce(total)
    (grad,) = torch.autograd.grad(loss, x)
    order = torch.randperm(sum(sizes), generator=seeded())
    return [gathered.detach(), grad, permute_rows(x, order, counts).detach(), order]


@pytest.mark.parametrize("alike", [False, True])
def test_rows_gathered_and_permuted(alike: bool) -> None:
    sizes = [2, 5, 1]
    whole = torch.arange(16.0, dtype=torch.float64).view(8, 2)
    results = run(weighted_rows, 3, sizes, alike)
    # The loss is the sum over ranks of what each rank weighs by 1 + rank, or what all compute alike.
    slope = torch.arange(1.0, 9, dtype=torch.float64)[:, None].expand(8, 2) * (1 if alike else 1 + 2 + 3)
    for rank, own in enumerate(torch.arange(8).split(sizes)):
        gathered, grad, permuted, order = results[rank]
        assert torch.equal(gathered, whole)
        assert torch.equal(grad, 3 * slope[own])
        assert torch.equal(permuted, whole[order][own])


def different_generators(world: World) -> list[str]:
    z = torch.randn(8, 2, dtype=torch.float64)
    messages = []
    for call in (
        lambda generator: w_mse(z, z, generator=generator),
        lambda generator: mix_views(z, z, generator=generator),
    ):
        try:
            call(seeded(world.rank))
        except ValueError as error:
            messages.append(str(error))
    return messages


def test_generators_that_differ_are_an_error_on_every_rank() -> None:
    for messages in run(different_generators, 2):
        assert len(messages) == 2
        assert all("not in the same state" in message for message in messages)


def unfit_sizes(world: World) -> str:
    z = torch.randn(3 + world.rank, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="divide the global batch of 7") as error:
        w_mse(z, z, generator=seeded(), sub_batch=3)
    return str(error.value)


def test_a_global_batch_that_can_not_be_cut_is_an_error_on_every_rank() -> None:
    assert len(set(run(unfit_sizes, 2))) == 1
