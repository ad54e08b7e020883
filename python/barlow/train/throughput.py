"""Here: where a run's time goes (loader, host-to-device, compute, communication), what limits, when it ends.

Not here: what a step computes, how many operations that is (flops.py), drawing (progress.py), files.

On a GPU everything is read off the stream of the step by events, which the host only looks at once they have
passed, so that it never waits. The time between two steps is time in which the GPU had nothing to do: the
loader's as far as the host waited for the loader, else the host's own. On a CPU the clock on the wall does.

Communication is measured in one step every few seconds: each collective of batch norm, loss and objective,
and the time from the last gradient to the optimizer, in which only the gradients' reduction is still under
way. Waiting for a slower rank is part of it. What a compiled step sends inside its graphs counts as compute.
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from barlow.distributed import collectives_timed, gather_values
from barlow.train.flops import peak_flops, step_flops
from barlow.train.learner import Learner
from barlow.train.progress import duration

PRINT_EVERY_S = 60.0
_SAMPLE_EVERY_S = 5.0


class Clock:
    """Marks on the time line of a device's work, and seconds between two of them."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"

    def mark(self) -> Any:
        """Now; on a GPU when what has been queued up to now is done."""
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def passed(self, mark: Any) -> bool:
        """Whether it can be read without waiting."""
        return mark.query() if self._on_gpu else True

    def seconds(self, begin: Any, end: Any) -> float:
        """Between two marks that have passed."""
        return begin.elapsed_time(end) / 1e3 if self._on_gpu else end - begin


@dataclass
class Step:
    """The marks of one step."""

    copy: tuple[Any, Any] | None = None
    compute: tuple[Any, Any] | None = None
    collectives: list[tuple[Any, Any]] | None = None
    """None: they were not measured in this step."""


@dataclass
class Totals:
    """Sums over steps, in seconds of the device's time line."""

    steps: int = 0
    wall_s: float = 0.0
    copy_s: float = 0.0
    compute_s: float = 0.0
    sampled_s: float = 0.0
    """Of `compute_s`, in steps whose communication was measured."""
    communication_s: float = 0.0
    """In those."""
    waited_s: float = 0.0
    """The host's, for the loader."""

    def add(self, other: Totals) -> None:
        """Adds every number of another."""
        for part in fields(self):
            setattr(self, part.name, getattr(self, part.name) + getattr(other, part.name))

    def shares(self) -> dict[str, float]:
        """Of the time by stage, 0 to 1; they add up to 1."""
        if not self.wall_s:
            return {}
        talk = self.communication_s / self.sampled_s if self.sampled_s else 0.0
        between_s = max(0.0, self.wall_s - self.copy_s - self.compute_s)
        seconds = {
            "loader": min(between_s, self.waited_s),
            "copy": self.copy_s,
            "compute": self.compute_s * (1 - talk),
            "communication": self.compute_s * talk,
        }
        whole_s = max(self.wall_s, sum(seconds.values()))
        shares = {name: value / whole_s for name, value in seconds.items()}
        return {**shares, "other": max(0.0, 1 - sum(shares.values()))}


@dataclass
class _Window:
    """What has happened since the last look."""

    totals: Totals = field(default_factory=Totals)

    def take(self) -> Totals:
        totals, self.totals = self.totals, Totals()
        return totals


class Throughput:
    """Measures the steps of a run on this rank, whose loader has made it wait `waited_s()` seconds in all.

    Each step is `with meter.step():` and in it `with meter.stage("copy"):`, `with meter.stage("compute"):`.
    """

    def __init__(
        self, learner: Learner, last_step: int, world_size: int, waited_s: Callable[[], float]
    ) -> None:
        config, device = learner.config, learner.device
        self._clock, self._last_step, self._on_gpu = Clock(device), last_step, device.type == "cuda"
        self._size, self._num_backwards = world_size, learner.num_micro_batches
        self._peak = None
        if self._on_gpu:
            self._peak = peak_flops(torch.cuda.get_device_name(device), learner.autocast_dtype)
        self._flops = step_flops(config, world_size, learner.form) if self._peak else 0.0
        self._now = Step()
        self._under_way: deque[Step] = deque()
        self._last_end: Any = None
        self._waiting_s, self._waited_s = waited_s, 0.0
        self._lap, self._minute = _Window(), _Window()
        self._printed_s = self._sampled_s = time.monotonic()
        self._slowest_loader = 0.0
        self._backwards = 0
        self._tail: Any = None
        # The first layer's gradient is the last one that a backward pass computes.
        first = next(p for p in learner.twins.parameters() if p.requires_grad)
        first.register_hook(self._after_backward)
        learner.optimizer.register_step_pre_hook(self._before_update)

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Around everything that is one step, but for taking the batch."""
        self._now, self._backwards, self._tail = Step(), 0, None
        due = self._size > 1 and time.monotonic() - self._sampled_s >= _SAMPLE_EVERY_S
        with collectives_timed(self._collective) if due else contextlib.nullcontext():
            if due:
                self._now.collectives, self._sampled_s = [], time.monotonic()
            yield
        self._under_way.append(self._now)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Around the "copy" of a batch to the device or the "compute" of a step."""
        begin = self._clock.mark()
        yield
        setattr(self._now, name, (begin, self._clock.mark()))

    @contextlib.contextmanager
    def _collective(self) -> Iterator[None]:
        pairs = self._now.collectives
        begin = self._clock.mark()
        yield
        if pairs is not None and self._tail is None:  # what comes after the tail's begin is part of it
            pairs.append((begin, self._clock.mark()))

    def _after_backward(self, _gradient: Tensor) -> None:
        self._backwards += 1
        if self._now.collectives is not None and self._backwards == self._num_backwards:
            self._tail = self._clock.mark()

    def _before_update(self, *_arguments: Any) -> None:
        if self._now.collectives is not None and self._tail is not None:
            self._now.collectives.append((self._tail, self._clock.mark()))

    def lap(self, step: int) -> dict[str, float]:
        """For a line of metrics: shares of the time since the last lap, `mfu` where the GPU's peak is known,
        `ends_at_s` (Unix time). `loader_share_max` is that of the rank that waits most for its loader. Every
        rank calls it."""
        self._read()
        totals = self._lap.take()
        shares = totals.shares()
        self._slowest_loader = max(gather_values(shares.get("loader", 0.0)))
        line = {f"{name}_share": share for name, share in shares.items()}
        if shares:
            line["loader_share_max"] = self._slowest_loader
            line["ends_at_s"] = time.time() + self._left_s(step, totals)
            line |= self._utilisation(totals)
        return line

    def every_minute(self, step: int) -> str | None:
        """A sentence on what limits this rank, once a minute; else None."""
        now_s = time.monotonic()
        if now_s - self._printed_s < PRINT_EVERY_S:
            return None
        self._read()
        self._printed_s = now_s
        totals = self._minute.take()
        shares = totals.shares()
        if not shares:
            return "no step was finished in this minute"
        compute = "GPU" if self._on_gpu else "CPU"
        names = {"loader": "loader", "copy": "host-to-device", "compute": compute,
                 "communication": "communication", "other": "other"}  # fmt: skip
        listed = [f"{names[name]} {share:.0%}" for name, share in shares.items()]
        if self._size > 1:
            listed[0] += f" (up to {max(self._slowest_loader, shares['loader']):.0%} on some rank)"
        utilisation = "".join(f"; MFU {value:.0%}" for value in self._utilisation(totals).values())
        left_s = self._left_s(step, totals)
        end = datetime.datetime.now() + datetime.timedelta(seconds=left_s)
        limit = max(shares, key=lambda name: shares[name])
        return (
            f"{names[limit]} limits: {', '.join(listed)}{utilisation}; "
            f"ends about {end:%Y-%m-%d %H:%M}, in {duration(left_s)}"
        )

    def _left_s(self, step: int, totals: Totals) -> float:
        return (self._last_step - step) * totals.wall_s / totals.steps

    def _utilisation(self, totals: Totals) -> dict[str, float]:
        if self._peak is None:
            return {}
        return {"mfu": self._flops * totals.steps / (totals.wall_s * self._peak)}

    def _read(self) -> None:
        """Takes the steps that have passed into both windows."""
        before_s, self._waited_s = self._waited_s, self._waiting_s()
        totals = Totals(waited_s=self._waited_s - before_s)
        while self._under_way:
            step = self._under_way[0]
            assert step.copy is not None
            assert step.compute is not None
            if not self._clock.passed(step.compute[1]):
                break
            self._under_way.popleft()
            compute_s = self._clock.seconds(*step.compute)
            begin = self._last_end or step.copy[0]
            self._last_end = step.compute[1]
            totals.add(
                Totals(
                    steps=1,
                    wall_s=self._clock.seconds(begin, step.compute[1]),
                    copy_s=self._clock.seconds(*step.copy),
                    compute_s=compute_s,
                    sampled_s=compute_s if step.collectives is not None else 0.0,
                    communication_s=sum(self._clock.seconds(*pair) for pair in step.collectives or ()),
                )
            )
        self._lap.totals.add(totals)
        self._minute.totals.add(totals)
