"""Here: what an examination yields, and by how much tensors differ.

Not here: what is examined, how it is shown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from barlow.distributed import gather_values


@dataclass(frozen=True)
class Finding:
    """One invariant: by how much it is missed, and how much rounding accounts for."""

    invariant: str
    error: float
    """Relative, unless the invariant says otherwise; 0 where bits are compared and equal, inf where not."""
    allowed: float
    detail: str = ""
    """What kind of miss it is; shown only then."""

    @property
    def holds(self) -> bool:
        """Whether the error is one of rounding; NaN is not."""
        return self.error <= self.allowed


def distance(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over that of what is expected; inf where something is not finite."""
    found, expected = found.detach().double(), expected.detach().double()
    scale = float(torch.linalg.vector_norm(expected))
    error = float(torch.linalg.vector_norm(found - expected))
    relative = error / scale if scale > 0 else error
    return relative if math.isfinite(relative) else math.inf


def over_ranks(invariant: str, error: float, allowed: float, detail: str = "") -> Finding:
    """The finding of the rank on which it is worst, the same on all. Every rank calls it."""
    told = gather_values([error if math.isfinite(error) else None, detail])
    errors = [math.inf if worst is None else float(worst) for worst, _ in told]
    rank = max(range(len(errors)), key=errors.__getitem__)
    where = f"rank {rank}: " if len(errors) > 1 and told[rank][1] else ""
    return Finding(invariant, errors[rank], allowed, where + told[rank][1])
