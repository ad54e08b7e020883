"""Runs a function in W real processes that form a process group, as torchrun would start them.

    results = run(function, 4, *arguments)      # function(world, *arguments) in each; results[rank]

`function` must be at the top level of a test module. It may return tensors and plain containers of them. The
processes meet at a store that this process serves on a free loopback port, so nothing races for ports.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from barlow.distributed import Device, process_group


def run(
    function: Callable[..., Any],
    world_size: int,
    *arguments: Any,
    timeout_s: float = 120.0,
    device: Device = "cpu",
) -> list[Any]:
    """The results by rank; `AssertionError` with the ranks' tracebacks if one fails or isn't done in time."""
    context = multiprocessing.get_context("forkserver")
    assert isinstance(context, ForkServerContext)
    # Importing torch takes seconds: the server does it once, the processes are its forks.
    context.set_forkserver_preload(["torch", "torchvision"])
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # pyright: ignore[reportPrivateImportUsage]
    with tempfile.TemporaryDirectory() as folder:
        processes: list[BaseProcess] = [
            context.Process(
                target=_process,
                args=(function, arguments, rank, world_size, store.port, folder, timeout_s, device),
                daemon=True,
            )
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        _wait(processes, timeout_s)
        late = [rank for rank, process in enumerate(processes) if process.is_alive()]
        for rank in late:
            processes[rank].kill()
        for process in processes:
            process.join()
        errors = [path.read_text() for path in sorted(Path(folder).glob("*.error"))]
        codes = [process.exitcode for process in processes]
        if errors or late or any(codes):
            raise AssertionError(f"exit codes {codes}, ended by force: ranks {late}\n" + "\n".join(errors))
        return [torch.load(Path(folder) / f"{rank}.result") for rank in range(world_size)]


def _wait(processes: list[BaseProcess], timeout_s: float) -> None:
    """Until all have ended; once one has failed the others get a few seconds more to fail of it."""
    deadline = time.monotonic() + timeout_s
    while any(process.is_alive() for process in processes) and time.monotonic() < deadline:
        if any(process.exitcode for process in processes):
            deadline = min(deadline, time.monotonic() + 10)
            for process in processes:
                process.join(max(0.0, deadline - time.monotonic()))
            return
        time.sleep(0.01)


def _process(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    rank: int,
    world_size: int,
    port: int,
    folder: str,
    timeout_s: float,
    device: Device,
) -> None:
    environment = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "RANK": rank,
        "WORLD_SIZE": world_size,
        "LOCAL_RANK": rank,
        "TORCHELASTIC_USE_AGENT_STORE": True,
        "TORCHELASTIC_RESTART_COUNT": 0,
    }
    os.environ.update({name: str(value) for name, value in environment.items()})
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    try:
        with process_group(device=device, timeout_s=timeout_s) as world:
            torch.save(function(world, *arguments), Path(folder) / f"{rank}.result")
    except BaseException:
        (Path(folder) / f"{rank}.error").write_text(f"--- rank {rank}\n{traceback.format_exc()}")
        os._exit(1)
