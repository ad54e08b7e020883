"""Here: what the collectives of a piece of code send, counted as they are called.

Not here: what they ought to send (`objectives/forms.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import Tensor


@dataclass
class Traffic:
    """Collectives called by this rank and the bytes that it sends in them, by ring algorithms."""

    calls: int = 0
    sent_bytes: float = 0.0


@contextlib.contextmanager
def counted() -> Iterator[Traffic]:
    """Counts all_reduce, all_gather_into_tensor and all_to_all_single of torch.distributed until its end.

    A ring all-reduce of S bytes sends 2 (W - 1)/W S, an all-gather W - 1 times what a rank puts in, an
    all-to-all what is for others.
    """
    traffic = Traffic()

    def count(sent_bytes: float) -> None:
        traffic.calls += 1
        traffic.sent_bytes += sent_bytes

    reduce, gather, exchange = dist.all_reduce, dist.all_gather_into_tensor, dist.all_to_all_single

    def all_reduce(x: Tensor, *args: Any, group: Any = None, **options: Any) -> Any:
        size = dist.get_world_size(group)
        count(2 * (size - 1) / size * x.nbytes)
        return reduce(x, *args, group=group, **options)

    def all_gather_into_tensor(out: Tensor, x: Tensor, group: Any = None, **options: Any) -> Any:
        count((dist.get_world_size(group) - 1) * x.nbytes)
        return gather(out, x, group=group, **options)

    def all_to_all_single(
        out: Tensor, x: Tensor, receive: list[int], send: list[int], group: Any = None, **options: Any
    ) -> Any:
        count((len(x) - send[dist.get_rank(group)]) * x.element_size())
        return exchange(out, x, receive, send, group=group, **options)

    counting = (all_reduce, all_gather_into_tensor, all_to_all_single)
    try:
        for function in counting:
            setattr(dist, function.__name__, function)
        yield traffic
    finally:
        for function in (reduce, gather, exchange):
            setattr(dist, function.__name__, function)
