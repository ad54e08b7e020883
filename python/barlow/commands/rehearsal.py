"""Here: what `barlow train --dry-run` prints.

Not here: finding it out (train/rehearsal.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from barlow.config import Config, flat

if TYPE_CHECKING:
    from barlow.train.rehearsal import Rehearsal

_HOW = {
    "weights": "counted, with running statistics",
    "gradients": "counted",
    "optimizer": "counted after the first step",
    "activations": "kept for the backward pass; ",
    "batches": "views prepared ahead, in the host's memory; estimated",
}


def show(data: Path, config: Config, run: Path, nproc: int) -> None:
    """Rehearses a run and prints its config, parameters, memory, steps and projected time, in this order."""
    from barlow.train.rehearsal import rehearse

    found = rehearse(data, config, run, nproc=nproc)
    if found is not None:
        print("\n".join(lines(config, found)))


def lines(config: Config, found: Rehearsal) -> list[str]:
    """What is printed."""
    from barlow.train.progress import duration

    total = sum(found.parameters.values())
    images = config.optim.batch_size
    told = ["config", *_columns([(name, value, "") for name, value in flat(config)])]
    told += ["", "parameters"]
    told += _columns([(name, f"{n:,}", "") for name, n in [*found.parameters.items(), ("together", total)]])
    whose = "the process" if found.processes == 1 else f"each of {found.processes} processes"
    told += ["", f"memory of {whose}, on {found.device}"]
    sizes = [(name, size(n), _how(name, found)) for name, n in found.memory.items()]
    told += _columns([*sizes, (_most(found), size(_together(found)), f"of {size(found.capacity)}")])
    epochs = found.last_step / found.steps_per_epoch
    steps = f"{found.last_step:,}: {epochs:,.4g} epochs of {found.steps_per_epoch:,}, {images:,} images each"
    if found.resumes_at:
        steps += f"; {found.resumes_at:,} are done"
    told += ["", f"steps  {steps}"]
    if not found.measured:
        return [*told, "time   not measured: the run has a single step", "nothing was written"]
    speed = f"{found.step_s:.3g} s a step, {images / found.step_s:,.4g} images/s"
    waiting = f"waiting for data {100 * found.wait_share:.0f} %"
    measured = f"measured over {found.measured} steps: {speed}, {waiting}"
    return [
        *told,
        f"time   {duration(found.remaining_s)} without evaluations and checkpoints; {measured}",
        "nothing was written",
    ]


def _how(name: str, found: Rehearsal) -> str:
    if name != "activations":
        return _HOW[name]
    return _HOW[name] + ("the allocator's peak less the above" if found.peak else "counted in the first step")


def _most(found: Rehearsal) -> str:
    return "peak" if found.peak else "together"


def _together(found: Rehearsal) -> int:
    """On a GPU what its allocator held at most; else the sum, to which a step's short-lived tensors come."""
    return found.peak or sum(found.memory.values())


def _columns(rows: list[tuple[str, str, str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    return [f"  {name:{widths[0]}}  {value:{widths[1]}}  {rest}".rstrip() for name, value, rest in rows]


def size(num_bytes: int) -> str:
    """Bytes in MiB or GiB."""
    return f"{num_bytes / 2**30:,.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:,.1f} MiB"
