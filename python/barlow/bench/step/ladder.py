"""Here: the ladder: every formulation's rate, peak memory and operators, and whether all compute one loss.

Not here: the formulations (rungs.py), the largest batch and real images (largest.py, end_to_end.py), layout.

Rounds of all formulations alternate, so that a machine that slows down slows them all. Each keeps its weights
on the device; activations do not outlive a step.
"""

from __future__ import annotations

import gc
import math
import time
from dataclasses import replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from barlow.bench.step import StepSettings
from barlow.bench.step.report import Report
from barlow.bench.step.rungs import LADDER, Contestant, Rung, losses, runnable

_SAME = 2e-3
"""Relative difference of float32 losses that the order of sums explains."""


def device_of(settings: StepSettings) -> torch.device:
    """Where to measure; `ValueError` for a GPU that is not there."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: there is no GPU")
    on_gpu = settings.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def chosen(settings: StepSettings, report: Report, device: torch.device) -> list[Rung]:
    """The rungs that are asked for and can run; the others are noted with the reason."""
    names = [name.strip() for name in settings.only.split(",") if name.strip()]
    known = [rung.name for rung in LADDER]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"--only: there is no {', '.join(unknown)}, only {', '.join(known)}")
    rungs = [rung for rung in LADDER if not names or rung.name in names]
    for rung in rungs:
        if reason := runnable(rung, device):
            report.skip(rung.name, reason)
    return [rung for rung in rungs if not runnable(rung, device)]


def climb(settings: StepSettings, report: Report) -> None:
    """Everything that belongs to the ladder, into the report."""
    device = device_of(settings)
    if device.type == "cuda":
        # As the official script has it, and as training does: sizes never change.
        torch.backends.cudnn.benchmark = True
    rungs = chosen(settings, report, device)
    agree(rungs, settings, report, device)
    contestants: dict[str, Contestant] = {}
    steps: dict[str, int] = {}
    for rung in rungs:
        if report.is_late():
            report.skip(rung.name, "no time left")
            continue
        try:
            contestants[rung.name], steps[rung.name] = _prepared(rung, settings, report, device)
        except Exception as error:  # one that fails stops none of the others
            report.fail(rung.name, error)
        _forget(device)
    _take_turns(contestants, steps, settings, report, device)
    if device.type == "cuda" and not report.is_late():
        # Last of all: a profiler that has been at work once can slow down every launch after it.
        for name, contestant in contestants.items():
            _count_kernels(name, contestant, report)


def _take_turns(
    contestants: dict[str, Contestant],
    steps: dict[str, int],
    settings: StepSettings,
    report: Report,
    device: torch.device,
) -> None:
    for turn in range(settings.rounds):
        for name, contestant in contestants.items():
            if report.is_late():
                return
            seconds = _timed(contestant, steps[name], device)
            report.round(name, 2 * settings.batch_size * steps[name] / seconds)
            _forget(device)
        report.say(f"round {turn + 1} of {settings.rounds}")


def agree(rungs: list[Rung], settings: StepSettings, report: Report, device: torch.device) -> None:
    """Compares the losses of a few small steps in float32 with the first rung's."""
    small = replace(
        settings,
        batch_size=min(settings.batch_size, 16),
        image_size=min(settings.image_size, 64),
        projector=tuple(min(size, 64) for size in settings.projector),
    )
    expected: list[float] = []
    # A GPU convolves float32 in TF32, which other layouts round otherwise; trials of algorithms take longer
    # here than the steps.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
        for rung in rungs:
            if rung.compile:  # minutes to compile, only for this; tests/test_step_options.py compares it
                continue
            found = losses(rung, small, device)
            expected = expected or found
            same = all(math.isclose(a, b, rel_tol=_SAME) for a, b in zip(found, expected, strict=True))
            report.agreement(rung.name, found, same)
    report.say("losses in float32 " + ("agree" if report.well else "DISAGREE"))


def _prepared(
    rung: Rung, settings: StepSettings, report: Report, device: torch.device
) -> tuple[Contestant, int]:
    """Built, warmed up, with its memory and operators counted; and how many steps a round has."""
    before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    contestant = Contestant(rung, settings, device)
    facts: dict[str, Any] = {}
    begin_s = time.perf_counter()
    contestant.step()
    finish(device)
    facts["first_step_s"] = time.perf_counter() - begin_s
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        contestant.step()
    one_s = _timed(contestant, 1, device)
    if device.type == "cuda":
        facts["peak_bytes"] = torch.cuda.max_memory_allocated() - before
    if not rung.compile and rung.lars != "fused":
        with Operators() as operators:
            contestant.step()
        facts["operators"] = operators.count
    report.rung(rung.name, rung.title, facts)
    return contestant, max(1, round(settings.round_s / one_s))


class Operators(TorchDispatchMode):
    """Counts the calls of operators inside, on all threads that inherit it."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One more."""
        self.count += 1
        return func(*args, **(kwargs or {}))


def _count_kernels(name: str, contestant: Contestant, report: Report) -> None:
    """What the GPU is given to do in one step: kernels, copies and fills. Machines may forbid to look."""
    from torch._C._autograd import DeviceType  # where the public name is from
    from torch.profiler import ProfilerActivity, profile

    try:
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            contestant.step()
            torch.cuda.synchronize()
        count = sum(event.device_type == DeviceType.CUDA for event in profiled.events() or ())
    except RuntimeError as error:
        report.skip(f"kernels of {name}", str(error).partition("\n")[0])
        return
    if count:
        report.kernels(name, count)


def _timed(contestant: Contestant, num_steps: int, device: torch.device) -> float:
    """Seconds of so many steps in a row; the first after a pause is not among them."""
    contestant.step()
    finish(device)
    begin_s = time.perf_counter()
    for _ in range(num_steps):
        contestant.step()
    finish(device)
    return time.perf_counter() - begin_s


def finish(device: torch.device) -> None:
    """Returns when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def _forget(device: torch.device) -> None:
    """Gives memory back that one formulation's sizes have left in pieces."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
