"""The GPU's form of batch norm against torch.nn.BatchNorm called once per view, its kernels written out.

What this shows is that the right statistics reach the right view, kernel, rank and buffer. That the kernels
themselves are what they are taken for is tested on a GPU (test_gpu.py).
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from barlow.distributed import World
from barlow.model import ViewBatchNorm, ViewBatchNorm1d, ViewBatchNorm2d
from barlow.model.batchnorm import no_advance_of, num_views_of, one_advance_of
from gpu_kernels import kernels_on_cpu
from processes import run


def norms(shape: tuple[int, ...]) -> tuple[ViewBatchNorm, nn.Module]:
    """Ours and torch's with the same parameters and running statistics, none of them trivial."""
    ours, theirs = (
        (ViewBatchNorm2d(5), nn.BatchNorm2d(5))
        if len(shape) == 4
        else (ViewBatchNorm1d(5), nn.BatchNorm1d(5))
    )
    generator = torch.Generator().manual_seed(2)
    for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        if a.is_floating_point():
            a.copy_(torch.rand(a.shape, generator=generator) + 0.5)
            b.copy_(a)
    return ours.double(), theirs.double()


def values(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 + 3
    return x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x


def backward(y: Tensor, x: Tensor, norm: nn.Module) -> list[Tensor]:
    return [y.detach(), *torch.autograd.grad((y**3).sum(), (x, *norm.parameters()))]


def same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3, 4)])
@pytest.mark.parametrize("num_views", [1, 2, 3])
def test_each_view_is_normalised_by_itself_and_counted_once(shape: tuple[int, ...], num_views: int) -> None:
    ours, theirs = norms(shape)
    x = values(shape).requires_grad_()
    expected = backward(torch.cat([theirs(view) for view in x.chunk(num_views)]), x, theirs)
    with kernels_on_cpu(), num_views_of(ours, num_views):
        y = ours(x)
        assert y.stride() == x.stride()
        same(backward(y, x, ours), expected)
    same(list(ours.buffers()), list(theirs.buffers()))


def test_statistics_of_parts_advance_together_and_repeats_do_not() -> None:
    shape = (8, 5, 2, 2)
    ours, theirs = norms(shape)
    x = values(shape)
    for view in x.chunk(2):
        theirs(view)
    with kernels_on_cpu(), num_views_of(ours, 2):
        parts = [torch.cat([half[:1], half[4:5]]) for half in (x, x[1:], x[2:], x[3:])]
        with one_advance_of(ours):
            for part in parts:
                ours(part)
        with no_advance_of(ours):
            ours(parts[0])
    same(list(ours.buffers()), list(theirs.buffers()))


def on_two_ranks(world: World) -> list[list[Tensor]]:
    """Two views of 2 rows on the first rank and 3 on the second."""
    shape = (4 + 2 * world.rank, 5, 2, 3)
    ours, _ = norms(shape)
    x = values(shape, world.rank).requires_grad_()
    with kernels_on_cpu(), num_views_of(ours, 2):
        result = backward(ours(x), x, ours)
        with no_advance_of(ours):
            again = ours(x).detach()
    return [result, [again], list(ours.buffers())]


def test_statistics_are_those_of_all_ranks() -> None:
    (one, again_1, buffers_1), (two, again_2, buffers_2) = run(on_two_ranks, 2)
    xs = [values((4 + 2 * rank, 5, 2, 3), rank).chunk(2) for rank in (0, 1)]
    _, theirs = norms((1, 1, 1, 1))
    x = torch.cat([torch.cat([xs[0][view], xs[1][view]]) for view in (0, 1)]).requires_grad_()
    expected = backward(torch.cat([theirs(view) for view in x.chunk(2)]), x, theirs)
    rows = [torch.tensor([0, 1, 5, 6]), torch.tensor([2, 3, 4, 7, 8, 9])]
    for result, again, buffers, own in (
        (one, again_1, buffers_1, rows[0]),
        (two, again_2, buffers_2, rows[1]),
    ):
        same(result[:2], [expected[0][own], expected[1][own]])
        same(again, result[:1])
        same(buffers, list(theirs.buffers()))
    same([a + b for a, b in zip(one[2:], two[2:], strict=True)], expected[2:])
