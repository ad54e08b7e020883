"""Here: the largest batch of which a GPU's memory holds a whole step, by trying.

Not here: time.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace

import torch

from barlow.bench.step import StepSettings
from barlow.bench.step.ladder import device_of, finish
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
            found[rung.name] = _largest_of(rung, settings, device, report.is_late)
            report.part("largest_batch", dict(found))


def _largest_of(rung: Rung, settings: StepSettings, device: torch.device, is_late: Callable[[], bool]) -> int:
    # One network for all sizes, as drawing its weights takes longer than the steps; and no trials of
    # algorithms, which every size would begin anew.
    contestant = Contestant(rung, replace(settings, batch_size=GRAIN), device)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False):
        return largest(lambda batch_size: _fits(contestant, batch_size), is_late)


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


def _fits(contestant: Contestant, batch_size: int) -> bool:
    """Whether two steps, momentum and all, can be taken on so many images."""
    views: list[torch.Tensor] = []
    try:
        for one in contestant.images:
            more = one.repeat(batch_size // len(one), 1, 1, 1)
            views.append(more.contiguous(memory_format=_layout(one)))
        for _ in range(2):
            contestant.step(views)
        finish(views[0].device)
    except torch.OutOfMemoryError:
        return False
    finally:
        views.clear()
        contestant.forget()
        gc.collect()
        torch.cuda.empty_cache()
    return True


def _layout(images: torch.Tensor) -> torch.memory_format:
    last = images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format
