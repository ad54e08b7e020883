"""Here: which device stage is the fastest on this machine, by a short measurement.

Not here: the stages (`staged.py`), who asks (train/loading.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from barlow.data.dali.installed import missing
from barlow.data.device import to_float
from barlow.data.loader import HandOver, Loader
from barlow.data.staged import HAND_OVER, AnyLoader, StageName, endless, staged
from barlow.distributed import barrier, gather_values

SECONDS = 2.0
"""Of measuring for each stage, after its first batches."""
_WARM_UP = 3
"""Batches before that: threads start, memory is found, DALI's first batches are under way."""
_WORTH = 1.05
"""How much faster than no stage DALI must be to be chosen: the measurement is no better than that."""

_log = logging.getLogger("barlow.data")


def fastest(
    make_loader: Callable[[HandOver], Loader],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    dtype: torch.dtype,
    threads: int = 0,
    seconds: float = SECONDS,
) -> tuple[StageName, str]:
    """The stage that gives most images a second, and why: one line with the numbers, which is logged, too.
    `threads` are DALI's (`staged`).

    Every rank calls it at the same time, since they share the machine, and gets the same answer. Nothing but
    loading is measured: on a GPU the stages also take time from training, which is not in the numbers.
    """
    line = missing()
    if any(gather_values(line)):
        reason = line or "another rank has no DALI"
        _log.info("device stage: none: %s", reason)
        return "none", reason
    rates: dict[StageName, float] = {}
    failed: list[str] = []
    for name in ("none", "dali", "dali_decode"):
        barrier()
        try:
            loader = make_loader(HAND_OVER[name])
            batches = staged(loader, mean=mean, std=std, device=device, dtype=dtype, threads=threads)
            floats = partial(to_float, mean=mean, std=std, device=device, dtype=dtype)
            rate = _images_per_s(batches, floats, device, seconds)
        except Exception as error:  # whatever a driver, a codec or an image has to say
            rate = 0.0
            failed.append(f"{name} failed ({str(error).strip().partition(chr(10))[0]})")
        everywhere = gather_values(rate)
        rates[name] = sum(everywhere) if all(everywhere) else 0.0
    best = max(rates, key=lambda name: rates[name])
    chosen: StageName = best if rates[best] > _WORTH * rates["none"] else "none"
    numbers = ", ".join([f"{name} {rate:.0f}" for name, rate in rates.items()])
    reason = "; ".join([f"images/s: {numbers}", *failed])
    _log.info("device stage: %s: %s", chosen, reason)
    return chosen, reason


def _images_per_s(
    loader: AnyLoader,
    floats: Callable[[Sequence[Tensor]], list[Tensor]],
    device: torch.device,
    seconds: float,
) -> float:
    """Of one stage on this rank, from disk to floats on the device."""
    images, begin_s = 0, 0.0
    with loader as batches:
        for number, batch in enumerate(endless(batches)):
            if not batch.views[0].is_floating_point():
                floats(batch.views)
            if number < _WARM_UP:
                begin_s, images = _now_s(device), 0
                continue
            images += len(batch.ids)
            if time.perf_counter() - begin_s > seconds:
                break
        return images / (_now_s(device) - begin_s)


def _now_s(device: torch.device) -> float:
    """When all that was queued on the device so far is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
