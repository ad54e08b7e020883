"""Here: the largest batch of which a GPU's memory holds a whole step, by trying.

Not here: time.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace

import torch

from barlow.bench.step import StepSettings
from barlow.bench.step.ladder import device_of
from barlow.bench.step.report import Report
from barlow.bench.step.rungs import LADDER, Contestant, Rung

GRAIN = 32
"""Batches are multiples of it."""


def largest_batches(names: list[str], settings: StepSettings, report: Report) -> None:
    """Images of a step, for each of these formulations, as part "largest_batch" of the report."""
    device = device_of(settings)
    if device.type != "cuda":
        report.skip("largest batch", "needs a GPU")
        return
    found: dict[str, int] = {}
    for rung in LADDER:
        if rung.name in names and not report.is_late():
            found[rung.name] = largest(lambda n, rung=rung: _fits(rung, settings, n, device), report.is_late)
            report.part("largest_batch", dict(found))


def largest(fits: Callable[[int], bool], is_late: Callable[[], bool] = lambda: False) -> int:
    """The largest multiple of GRAIN that fits, if all smaller ones do; 0 if none does. Doubles, then halves
    the interval; when it gets late, the largest that is known to fit."""
    low, high = 0, GRAIN
    while fits(high):
        low, high = high, 2 * high
        if is_late():
            return low
    while high - low > GRAIN and not is_late():
        middle = (low + high) // (2 * GRAIN) * GRAIN
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _fits(rung: Rung, settings: StepSettings, batch_size: int, device: torch.device) -> bool:
    """Whether two steps, momentum and all, can be taken."""
    contestant = None
    try:
        contestant = Contestant(rung, replace(settings, batch_size=batch_size), device)
        for _ in range(2):
            contestant.step()
        torch.cuda.synchronize()
    except torch.OutOfMemoryError:
        return False
    finally:
        del contestant
        gc.collect()
        torch.cuda.empty_cache()
    return True
