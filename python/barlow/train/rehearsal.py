"""Here: `barlow train --dry-run`: a run's first steps, on its data and ranks, and what they say of the rest.

Not here: training (loop.py), starting ranks (launch.py), how the answer is printed (commands/rehearsal.py).

Nothing of it reaches the run folder: what the ranks tell each other goes through a temporary one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from barlow import durable
from barlow.config import Config, to_json
from barlow.terminal import bar
from barlow.train.launch import CONFIG_FILE, check
from barlow.train.ranks import in_rank, start_ranks

if TYPE_CHECKING:  # the command line imports this file, and torch takes seconds
    import torch

    from barlow.distributed import World
    from barlow.train.learner import Learner

MEASURED_STEPS = 20
_ANSWER = "rehearsal.json"


@dataclass(frozen=True)
class Rehearsal:
    """What a rehearsal found. Parameters in numbers, memory in bytes of each process, time in seconds."""

    parameters: dict[str, int]
    """Of each part of the network: backbone, projector, and what the objective adds."""
    memory: dict[str, int]
    """weights, gradients, optimizer, activations (kept for the backward pass), batches (prepared ahead, in
    the host's memory)."""
    peak: int
    """Most that the GPU's allocator held during the steps; 0 on a CPU, where nobody counts."""
    capacity: int
    """Memory of the device."""
    device: str
    processes: int
    steps_per_epoch: int
    last_step: int
    resumes_at: int
    """Step of the run's newest checkpoint; 0 for a new run."""
    measured: int
    """Steps that were timed, after one (three on a GPU) that were not."""
    step_s: float
    wait_share: float
    """Share of that time in which the step had no batch to work on."""

    @property
    def remaining_s(self) -> float:
        """Projected seconds to the end of the run, without evaluations and checkpoints."""
        return self.step_s * max(0, self.last_step - self.resumes_at)


def rehearse(data: Path, config: Config, run: Path, *, nproc: int = 0) -> Rehearsal | None:
    """Takes the first steps of a run and throws them away; None on later ranks.

    Refuses what `launch` would refuse, with its errors, and writes nothing to `run`. `nproc` is as there.
    """
    data, run = Path(data), Path(run)
    import torch

    from barlow.data import open_index
    from barlow.train.settle import settled

    config = settled(config)
    nproc = nproc or max(1, torch.cuda.device_count())
    if in_rank():
        return _as_rank(data, config, run)
    _announce(nproc)
    if nproc == 1:
        return _as_rank(data, config, run)
    index = open_index(data)
    check(config, index, nproc, run)
    with tempfile.TemporaryDirectory(prefix="barlow-") as folder:
        durable.write_file(Path(folder) / CONFIG_FILE, to_json(config))
        durable.write_file(Path(folder) / _ANSWER, json.dumps({"resumes_at": _newest(run)}))
        start_ranks(nproc, ["-m", "barlow", "--", "train", str(data), "--run", folder, "--dry-run"])
        return Rehearsal(**durable.read_json(Path(folder) / _ANSWER))


def _as_rank(data: Path, config: Config, run: Path) -> Rehearsal | None:
    from barlow.data import open_index
    from barlow.distributed import gather_values, process_group

    with process_group() as world:
        index = open_index(data)
        asked = run / _ANSWER  # in a folder that `rehearse` has made for its ranks
        resumes_at = int(durable.read_json(asked)["resumes_at"]) if asked.exists() else _newest(run)
        if world.rank == 0 and not asked.exists():
            if in_rank():
                _announce(world.size)
            check(config, index, world.size, run)
        neighbours = gather_values(socket.gethostname()).count(socket.gethostname())
        threads = max(1, len(os.sched_getaffinity(0)) // neighbours)
        found = _steps(data, config, world, threads, resumes_at)
        if world.rank > 0:
            return None
        if asked.exists():
            durable.write_file(asked, json.dumps(asdict(found)))
            return None
        return found


def _announce(processes: int) -> None:
    """Before what takes its time."""
    logging.getLogger("barlow").info(
        "dry run: takes up to %d steps and throws them away (processes: %d); nothing is written",
        1 + MEASURED_STEPS,
        processes,
    )


def _newest(run: Path) -> int:
    from barlow.train.checkpoint import CHECKPOINTS, newest_step

    return newest_step(run / CHECKPOINTS) or 0


def _steps(data: Path, config: Config, world: World, threads: int, resumes_at: int) -> Rehearsal:
    import torch

    from barlow.data import open_index
    from barlow.data.staged import endless
    from barlow.train.algorithms import algorithms
    from barlow.train.learner import Learner, Plan
    from barlow.train.loading import open_loader

    on_gpu = world.device.type == "cuda"
    if not on_gpu:
        torch.set_num_threads(threads)
    with (
        algorithms(world.device, deterministic=config.train.deterministic),
        open_loader(open_index(data), config, world, threads)[0] as loader,
    ):
        plan = Plan.of(config, steps_per_epoch=len(loader))
        learner = Learner(config, plan, world)
        batches = endless(loader)
        warm_up = min(3 if on_gpu else 1, plan.total_steps)
        with contextlib.nullcontext() if on_gpu else _Kept(learner.network.parameters()) as kept:
            learner.step(1, next(batches).views, check=False)
        for step in range(2, warm_up + 1):  # a GPU's libraries choose their kernels
            learner.step(step, next(batches).views, check=False)
        _synchronize(world.device)
        waited_s, begin_s, measured = loader.stats().waited_s, time.perf_counter(), 0
        to_measure = range(warm_up + 1, plan.total_steps + 1)[:MEASURED_STEPS]
        with bar("dry run: steps") if world.rank == 0 else contextlib.nullcontext() as progress:
            for step in to_measure:
                learner.step(step, next(batches).views, check=False)
                measured += 1
                if progress is not None:
                    progress(measured, len(to_measure))
        _synchronize(world.device)
        elapsed_s = time.perf_counter() - begin_s
        waited_s = loader.stats().waited_s - waited_s
    peak = torch.cuda.max_memory_allocated(world.device) if on_gpu else 0
    memory = _memory(learner)
    # What the allocator held at most beside the lasting tensors is what the backward pass needed.
    memory["activations"] = kept.peak if isinstance(kept, _Kept) else peak - sum(memory.values())
    per_rank = config.optim.batch_size // world.size
    memory["batches"] = (config.data.prefetch + 1) * per_rank * 2 * 3 * config.data.image_size**2
    return Rehearsal(
        parameters=_parameters(learner),
        memory=memory,
        peak=peak,
        capacity=_capacity(world.device),
        device=torch.cuda.get_device_name(world.device) if on_gpu else "cpu",
        processes=world.size,
        steps_per_epoch=plan.steps_per_epoch,
        last_step=plan.last_step,
        resumes_at=resumes_at,
        measured=measured,
        step_s=elapsed_s / measured if measured else 0.0,
        wait_share=waited_s / elapsed_s if measured else 0.0,
    )


def _parameters(learner: Learner) -> dict[str, int]:
    counts = {
        name: sum(p.numel() for p in part.parameters()) for name, part in learner.network.named_children()
    }
    return {name: count for name, count in counts.items() if count}


def _memory(learner: Learner) -> dict[str, int]:
    """Bytes of the tensors that last from step to step: counted, not estimated."""
    parameters = list(learner.network.parameters())
    states = [tensor for state in learner.optimizer.state.values() for tensor in state.values()]
    weights = _bytes([*parameters, *learner.network.buffers()])
    gradients = _bytes([p for p in parameters if p.requires_grad])  # the buckets of the exchange are these
    return {"weights": weights, "gradients": gradients, "optimizer": _bytes(states)}


def _bytes(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _capacity(device: torch.device) -> int:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _synchronize(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _Kept:
    """Counts what autograd keeps for backward passes: `peak` is the most bytes at a time.

    A storage that several operations keep counts once. The `weights`, which convolutions keep too, do not
    count: they are there anyway.
    """

    def __init__(self, weights: Iterable[torch.Tensor]) -> None:
        self.peak = self._now = 0
        self._weights = {weight.untyped_storage().data_ptr() for weight in weights}
        self._holders: dict[int, int] = {}

    def __enter__(self) -> _Kept:
        import torch

        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda held: held.tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: torch.Tensor) -> _Held:
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        held = _Held(self, tensor, place, 0 if place in self._weights else storage.nbytes())
        count = self._holders.get(held.place, 0)
        self._holders[held.place] = count + 1
        if count == 0:
            self._now += held.num_bytes
            self.peak = max(self.peak, self._now)
        return held

    def let_go(self, held: _Held) -> None:
        self._holders[held.place] -= 1
        if self._holders[held.place] == 0:
            del self._holders[held.place]
            self._now -= held.num_bytes


class _Held:
    """A tensor that the graph keeps, until it does not."""

    def __init__(self, kept: _Kept, tensor: torch.Tensor, place: int, num_bytes: int) -> None:
        self.kept, self.tensor, self.place, self.num_bytes = kept, tensor, place, num_bytes

    def __del__(self) -> None:
        self.kept.let_go(self)
