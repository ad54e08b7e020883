"""Here: how the ranks share the work of an evaluation: who does which part, and putting the parts together.

Not here: the collectives themselves (barlow.distributed), what is computed.

All ranks call the same functions in the same order; a single process has all of every part.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from barlow.distributed import all_gather, all_reduce_, gather_values, rank_in, world_size

T = TypeVar("T")


def own_part(num_items: int) -> slice:
    """The consecutive items of `num_items` that this rank does; the parts differ by one at most."""
    rank, size = rank_in(), world_size()
    return slice(num_items * rank // size, num_items * (rank + 1) // size)


def total(count: int, device: torch.device) -> int:
    """The sum of every rank's count."""
    return int(all_reduce_(torch.tensor(count, device=device)).item())


def sum_of(own: Tensor) -> float:
    """The sum of every rank's number."""
    return all_reduce_(own.clone()).item()


def own_items(items: Sequence[T]) -> Sequence[T]:
    """The items that this rank does: they go round the ranks, as neighbours often cost alike."""
    return items[rank_in() :: world_size()]


def owner(position: int) -> int:
    """The rank among whose `own_items` the one at this position is."""
    return position % world_size()


def of_all(own: Sequence[Any]) -> list[Any]:
    """The results of all items in their order, of each rank's for its `own_items`; anything JSON carries."""
    by_rank = gather_values(list(own))
    size, num_items = len(by_rank), sum(map(len, by_rank))
    return [by_rank[i % size][i // size] for i in range(num_items)]


def rows_of_all(own_BF: Tensor, most_rows: int) -> Tensor:
    """The rows of all ranks in rank order; a rank has `most_rows` or fewer."""
    if world_size() == 1:
        return own_BF
    padded_BF = own_BF.new_zeros(most_rows, own_BF.shape[1])
    padded_BF[: len(own_BF)] = own_BF
    is_row_B = torch.arange(most_rows, device=own_BF.device) < len(own_BF)
    return all_gather(padded_BF).flatten(0, 1)[all_gather(is_row_B).flatten()]


def own_cores() -> int:
    """Cores of this machine for each rank on it, at least 1."""
    host = socket.gethostname()
    return max(1, len(os.sched_getaffinity(0)) // gather_values(host).count(host))
