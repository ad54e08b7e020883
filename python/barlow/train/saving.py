"""Here: a run's newest checkpoint into the learner and the loader, and their state into new ones, beside the
training: copied between two steps, written by a thread.

Not here: what a checkpoint holds (checkpoint.py), when one is due (learner.py), how bytes reach the disk.
"""

from __future__ import annotations

import dataclasses
import threading
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from barlow import durable
from barlow.data import AnyLoader
from barlow.distributed import World, broadcast_value
from barlow.train.beginning import seam
from barlow.train.checkpoint import (
    CHECKPOINTS,
    find_checkpoint,
    load_checkpoint,
    prune,
    read_state,
    state_tensors,
    write_checkpoint,
)
from barlow.train.learner import Learner
from barlow.train.metrics import Metrics

FAILED = 1 << 16
"""What `Saver.poll` answers when the run has to end; more than the number of any signal."""
_PATIENCE_S = 10.0
"""So long a run that ends by an error or Ctrl-C waits for the checkpoint under way: the disk may hang."""
_LONG_WAIT_S = 1.0


class Resumed(NamedTuple):
    """Where a run goes on."""

    step: int
    time_s: float
    """Seconds of training so far."""
    note: str | None
    """What its user should know about that."""


def resume(run: Path, learner: Learner, loader: AnyLoader, world: World) -> Resumed:
    """Loads the run's newest checkpoint that verifies, if there is one; every rank calls it."""
    directory = run / CHECKPOINTS
    found = None
    if world.rank == 0:
        durable.remove_leftovers(run)
        durable.remove_leftovers(directory)
        found = find_checkpoint(directory)
        if found is not None:  # the process before may have died between writing and removing
            plan = learner.plan
            prune(directory, learner.config.checkpoint.keep, plan.keeps, plan.bridges)
    # The first rank verified it; the others take its word rather than read everything twice.
    name = broadcast_value(found.name if found else None)
    if name is None:
        return Resumed(0, 0.0, None)
    state = read_state(directory / name)
    load_checkpoint(directory / name, learner.network, learner.optimizer)
    if state["scaler"]:
        learner.scaler.load_state_dict(state["scaler"])
    loader.load_state_dict(state["loader"])
    note = seam(state["config"], learner.config, state["step"], learner.plan.steps_per_epoch)
    return Resumed(state["step"], state["time_s"], note)


class Saver:
    """Checkpoints of a run that trains on meanwhile; a context manager, entered by every rank.

    `save` copies the state and returns; a thread checks the copy, flushes the metrics that belong to it,
    writes, and prunes. One checkpoint is under way at most: a save that comes before it is done waits for it,
    so none that was planned is left out, and there is one copy of the state. `make_room` keeps what a death
    at any moment may cost to an interval (`Plan.save_every`). The first rank does all this.
    An error is its own until all ranks have agreed on it: through `poll`, whose answer is to be shared
    between steps, or in `finish`.
    """

    def __init__(
        self, run: Path, learner: Learner, metrics: Metrics | None, world: World, resumed_step: int = 0
    ) -> None:
        """`metrics` is None on the ranks that only follow; `resumed_step` is where the run goes on, or 0."""
        self._directory, self._learner, self._metrics = run / CHECKPOINTS, learner, metrics
        self._is_first = world.rank == 0
        self._buffers: dict[str, Tensor] = {}
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._has_told_of_waiting = False
        self._begun = resumed_step or -1
        self.newest = resumed_step or -1
        """Step of the newest checkpoint that is on the disk; -1: there is none."""

    def make_room(self, step: int) -> None:
        """Before step `step`: waits for the checkpoint under way if more than an interval would be at stake
        without it. Of one that fails `poll` tells."""
        if self._is_first and step - max(self.newest, 0) > self._learner.plan.save_every:
            self._wait_for_the_one_before(step)

    def save(self, step: int, loader: AnyLoader, time_s: float) -> None:
        """Begins a checkpoint of this moment, after step `step`. Nothing if an earlier one has failed, or if
        this one is there."""
        if not self._is_first:
            return
        if step == self._begun:
            self._join()
        if step == self.newest:
            return
        self._wait_for_the_one_before(step)
        if self.poll():
            return
        self._begun, learner = step, self._learner
        model, optimizer = (self._copies(of) for of in state_tensors(learner.network, learner.optimizer))
        copied = None
        if learner.device.type == "cuda":
            copied = torch.cuda.Event()
            copied.record()  # the next step's kernels queue behind the copies: only the thread waits
        state = {
            "loader": loader.state_dict(),
            "scaler": learner.scaler.state_dict(),
            "time_s": time_s,
            "config": dataclasses.asdict(learner.config),
        }
        self._thread = threading.Thread(
            target=self._write, args=(step, model, optimizer, state, copied), name="barlow-save", daemon=True
        )
        self._thread.start()

    def poll(self) -> int:
        """0, or `FAILED` if a save has failed for which the run must end. Returns at once.

        A failure that the run is to survive (`--checkpoint.on-error warn`) becomes a warning here.
        """
        error = self._failure
        if error is None:
            return 0
        if not isinstance(error, OSError) or self._learner.config.checkpoint.on_error == "raise":
            return FAILED
        self._failure = None
        kept = f"that of step {self.newest} is the newest" if self.newest >= 0 else "there is none yet"
        warnings.warn(f"step {self._begun} could not be saved ({_described(error)}); {kept}", stacklevel=2)
        return 0

    def finish(self, *, needed: bool) -> None:
        """Waits for the checkpoint under way; every rank calls it, and all raise if it has failed.

        One that is `needed`, such as the last of a run, is not survived: without it the work is lost.
        """
        self._join()
        failed = needed and self._failure is not None
        if broadcast_value(failed or bool(self.poll())):
            self.raise_failure()

    def raise_failure(self) -> None:
        """Raises the first rank's error on every rank; all call it once one has seen `FAILED`."""
        error = self._failure
        number, text, name = broadcast_value(_parts(error) if error else None)
        if error is not None:
            raise error
        if number is None:
            raise FloatingPointError(text)
        raise OSError(number, text, name)

    def _write(
        self,
        step: int,
        model: dict[str, Tensor],
        optimizer: dict[str, Tensor],
        state: dict[str, Any],
        copied: torch.cuda.Event | None,
    ) -> None:
        learner = self._learner
        try:
            if copied is not None:
                copied.synchronize()
            if not all(bool(model[name].isfinite().all()) for name, _ in learner.network.named_parameters()):
                raise FloatingPointError(
                    f"a weight is not finite after step {step}; no checkpoint is written"
                )
            if self._metrics:
                self._metrics.sync()  # no checkpoint may be there without the lines up to it
            keep, plan = learner.config.checkpoint.keep, learner.plan
            write_checkpoint(self._directory, step, model, optimizer, state, keep, plan.keeps, plan.bridges)
            self.newest = step
        except BaseException as error:
            self._failure = error

    def _copies(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies in memory of the host, which is kept: pages cost more when they are new."""
        return {name: self._copy(name, tensor.detach()) for name, tensor in tensors.items()}

    def _copy(self, name: str, tensor: Tensor) -> Tensor:
        buffer = self._buffers.get(name)
        if buffer is None or (buffer.shape, buffer.dtype) != (tensor.shape, tensor.dtype):
            # As the tensor lies in memory: to turn channels_last into rows can wait for the thread.
            buffer = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            self._buffers[name] = buffer
        return buffer.copy_(tensor, non_blocking=True)

    def _wait_for_the_one_before(self, step: int) -> None:
        began_s = time.perf_counter()
        self._join()
        waited_s = time.perf_counter() - began_s
        if waited_s > _LONG_WAIT_S and not self._has_told_of_waiting:
            self._has_told_of_waiting = True
            warnings.warn(
                f"step {step} waited {waited_s:.1f} s for the checkpoint before it: they come faster than "
                "the disk takes them (--checkpoint.every-steps, --checkpoint.every-epochs)",
                stacklevel=3,
            )

    def _join(self, timeout_s: float | None = None) -> None:
        if self._thread is not None:
            self._thread.join(timeout_s)

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Whatever ends the run: the state that was copied is good, and its bytes are on their way.
        self._join(_PATIENCE_S)
        if error is not None and self._failure not in (None, error):
            warnings.warn(
                f"step {self._begun} could not be saved ({_described(self._failure)})", stacklevel=2
            )


def _described(error: BaseException | None) -> str:
    number, text, name = _parts(error) if error else (None, "", None)
    return text if number is None else f"{name}: {text}"


def _parts(error: BaseException) -> tuple[int | None, str, str | None]:
    """What JSON can carry of an error to the other ranks: of an `OSError` number, text, path; else a text."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno, error.strerror or "", str(error.filename)
    return None, str(error), None
