"""Runs a function in W real processes that form a process group, as torchrun would start them.

    results = run(function, 4, *arguments)      # function(world, *arguments) in each; results[rank]

`function` must be at the top level of a test module. It may return tensors and plain containers of them. The
processes meet at a store that this process serves on a free loopback port, so nothing races for ports.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from barlow.distributed import Device, process_group
from nursery import Forked

RANK = "import processes; processes.rank()"


def run(
    function: Callable[..., Any],
    world_size: int,
    *arguments: Any,
    timeout_s: float = 120.0,
    device: Device = "cpu",
) -> list[Any]:
    """The results by rank; `AssertionError` with the ranks' tracebacks if one fails or isn't done in time."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # pyright: ignore[reportPrivateImportUsage]
    with tempfile.TemporaryDirectory() as folder:
        ranks: list[subprocess.Popen[str]] = []
        try:
            for rank in range(world_size):
                theirs, ours = Pipe(duplex=False)
                with theirs:
                    ranks.append(_start(rank, world_size, store.port, theirs.fileno()))
                with ours:
                    ours.send((function, arguments, folder, timeout_s, device))
            _wait(ranks, timeout_s)
            late = [rank for rank, process in enumerate(ranks) if process.poll() is None]
        finally:
            for process in ranks:
                process.kill()
                process.wait()
        errors = [path.read_text() for path in sorted(Path(folder).glob("*.error"))]
        codes = [process.returncode for process in ranks]
        if errors or late or any(codes):
            raise AssertionError(f"exit codes {codes}, ended by force: ranks {late}\n" + "\n".join(errors))
        return [torch.load(Path(folder) / f"{rank}.result") for rank in range(world_size)]


def _start(rank: int, world_size: int, port: int, job: int) -> subprocess.Popen[str]:
    place = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "RANK": rank,
        "WORLD_SIZE": world_size,
        "LOCAL_RANK": rank,
        "TORCHELASTIC_USE_AGENT_STORE": True,
        "TORCHELASTIC_RESTART_COUNT": 0,
        "OMP_NUM_THREADS": 1,
    }
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= {name: str(value) for name, value in place.items()}
    return Forked([sys.executable, "-c", RANK], env=environment, stdin=job)


def _wait(ranks: list[subprocess.Popen[str]], timeout_s: float) -> None:
    """Until all have ended; once one has failed the others get a few seconds more to fail of it."""
    deadline = time.monotonic() + timeout_s
    while (codes := [process.poll() for process in ranks]).count(None) and time.monotonic() < deadline:
        if any(codes):
            deadline = min(deadline, time.monotonic() + 10)
        time.sleep(0.01)


def rank() -> None:
    """What a process does: reads its job from its standard input."""
    with Connection(os.dup(0), writable=False) as job:
        function, arguments, folder, timeout_s, device = job.recv()
    number = os.environ["RANK"]
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    try:
        with process_group(device=device, timeout_s=timeout_s) as world:
            torch.save(function(world, *arguments), Path(folder) / f"{number}.result")
    except BaseException:
        (Path(folder) / f"{number}.error").write_text(f"--- rank {number}\n{traceback.format_exc()}")
        os._exit(1)
