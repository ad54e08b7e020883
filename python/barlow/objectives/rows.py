"""Here: rows of the global batch that cross ranks, with gradients: all gathered, or put in another order.

Not here: sums over ranks (barlow.distributed), what the rows mean.

The rows of the global batch are those of rank 0, then those of rank 1, and so on; the ranks may hold
different many. Gradients follow the convention of `barlow.distributed.all_reduce`: on each rank W times its
share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from barlow.distributed import all_gather, all_reduce_, all_to_all, rank_in, world_size

Group = dist.ProcessGroup | None


def row_counts(
    x: Tensor,
    generator: torch.Generator | None = None,
    group: Group = None,
    known: Sequence[int] | None = None,
) -> list[int]:
    """How many rows each rank holds, by rank.

    Several ranks tell each other, and their hosts wait for their devices, unless the caller has `known` it
    before: then only this rank's own number is checked (`ValueError`). With a generator, whose state stays,
    ranks that tell each other also check that all will draw the same: `ValueError` on every rank if not.
    Permutations that differ would leave the ranks waiting for one another.
    """
    if known is not None:
        if len(known) != world_size(group) or known[rank_in(group)] != len(x):
            raise ValueError(f"{list(known)} are not the rows of each rank: this one has {len(x)}")
        return list(known)
    if world_size(group) == 1:
        return [len(x)]
    draw = 0 if generator is None else _next_draw(generator)
    gathered_R2 = all_gather(torch.tensor([len(x), draw], device=x.device), group).tolist()
    if len({draw for _, draw in gathered_R2}) > 1:
        raise ValueError("the random generators of the ranks are not in the same state")
    return [count for count, _ in gathered_R2]


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """x of the CPU on a device; from page-locked memory, so that the host does not wait for a GPU."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x


def _next_draw(generator: torch.Generator) -> int:
    twin = torch.Generator()
    twin.set_state(generator.get_state())
    return int(torch.randint(2**62, (1,), generator=twin))


def gather_rows(x_NX: Tensor, counts: Sequence[int], group: Group = None, *, alike: bool = False) -> Tensor:
    """The global batch [sum(counts), ...] on every rank, with gradient. `counts` is that of `row_counts`.

    Backward sums the gradients of the ranks. With `alike` the caller promises that all ranks do the same with
    the result: then it needs no collective.
    """
    return x_NX if world_size(group) == 1 else _GatherRows.apply(x_NX, tuple(counts), group, alike)  # pyright: ignore[reportReturnType]


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NX: Tensor, counts: tuple[int, ...], group: Group, alike: bool) -> Tensor:
        ctx.counts, ctx.group, ctx.alike = counts, group, alike
        padded = x_NX.new_zeros((max(counts), *x_NX.shape[1:]))
        padded[: len(x_NX)] = x_NX
        return torch.cat(
            [rows[:count] for rows, count in zip(all_gather(padded, group), counts, strict=True)]
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not ctx.alike:
            grad = all_reduce_(grad.clone(memory_format=torch.contiguous_format), ctx.group)
        mine = grad.split(ctx.counts)[rank_in(ctx.group)]
        return (mine * world_size(ctx.group) if ctx.alike else mine.clone()), None, None, None


def permute_rows(x_NX: Tensor, order_N: Tensor, counts: Sequence[int], group: Group = None) -> Tensor:
    """This rank's rows of x[order] with x the global batch, with gradient: each rank receives what it keeps.

    `order_N` is a permutation of all rows, int64 on the CPU, the same on every rank. `ValueError` if `counts`
    are not those of x and of the permutation.
    """
    mine, total = counts[rank_in(group)], sum(counts)
    if len(counts) != world_size(group) or len(x_NX) != mine or len(order_N) != total:
        raise ValueError(f"{len(x_NX)} rows are not the {mine} of a batch of {total} on this rank")
    return _PermuteRows.apply(x_NX, order_N, tuple(counts), group)  # pyright: ignore[reportReturnType]


class _PermuteRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NX: Tensor, order_N: Tensor, counts: tuple[int, ...], group: Group) -> Tensor:
        ctx.order_N, ctx.counts, ctx.group = order_N, counts, group
        return _exchange(x_NX, order_N, counts, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _exchange(grad, ctx.order_N.argsort(), ctx.counts, ctx.group), None, None, None


def _exchange(x_NX: Tensor, order_N: Tensor, counts: tuple[int, ...], group: Group) -> Tensor:
    if world_size(group) == 1:
        return x_NX[to_device(order_N, x_NX.device)]
    rank = rank_in(group)
    wanted = order_N.split(counts)
    start = sum(counts[:rank])
    # What rank r wants of mine goes to it in the order in which it wants it.
    mine = [rows[(rows >= start) & (rows < start + counts[rank])] - start for rows in wanted]
    ends = torch.tensor(counts).cumsum(0)
    owner_N = torch.searchsorted(ends, wanted[rank], right=True)
    from_each = torch.bincount(owner_N, minlength=len(counts))
    sent = x_NX[to_device(torch.cat(mine), x_NX.device)]
    size = sent[0].numel()
    # Indexing keeps the layout of channels-last images; they travel in the order of their dimensions.
    received = all_to_all(
        sent.flatten(), [len(rows) * size for rows in mine], (from_each * size).tolist(), group
    )
    out = torch.empty_like(sent)
    out[to_device(owner_N.argsort(stable=True), x_NX.device)] = received.view(sent.shape)
    return out
