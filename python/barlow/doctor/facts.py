"""Here: what this machine and its ranks are: versions, processors, GPUs, instruction sets, the network.

Not here: judgements.
"""

from __future__ import annotations

import importlib.metadata
import io
import os
import platform
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch.cuda import nccl

from barlow import __version__
from barlow.data import decode, simd
from barlow.distributed import World, all_reduce_, barrier, gather_values

_OPTIONAL = (
    "triton",
    "timm",
    "tensorboard",
    "lightly",
    "nvidia-dali-cuda130",
    "spdl-io",
    "opencv-python-headless",
)
_JPEG_RATIO = 1.25
"""With SIMD libjpeg-turbo decodes at least so many times as fast as without."""
_MEGABYTES = 32


def facts(world: World) -> list[tuple[str, str]]:
    """(name, value) of what there is; every rank calls it."""
    machines = gather_values(
        [socket.gethostname(), _cpu(), len(os.sched_getaffinity(0)), _gpu(world), simd()[-1]]
    )
    rows = [
        ("barlow", __version__),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("torch", _torch()),
        ("also installed", _installed() or "none of the optional packages"),
    ]
    for host in dict.fromkeys(machine[0] for machine in machines):
        ranks = [rank for rank, machine in enumerate(machines) if machine[0] == host]
        _, cpu, cores, _, level = machines[ranks[0]]
        rows.append((host, f"{cores} cores of {cpu}, loader on {level}; ranks {', '.join(map(str, ranks))}"))
        gpus = [machines[rank][3] for rank in ranks if machines[rank][3]]
        rows += [("GPU", gpu) for gpu in gpus]
    rows.append(("libjpeg-turbo", _jpeg() if world.rank == 0 else ""))
    barrier()  # the others wait for that measurement, which is no time of the network
    rows.append(("ranks", _network(world)))
    return rows


def _torch() -> str:
    parts = [str(torch.__version__)]
    if torch.version.cuda:
        parts.append(
            f"CUDA {torch.version.cuda}"
            if torch.cuda.is_available()
            else f"CUDA {torch.version.cuda}, no GPU"
        )
    if torch.cuda.is_available() and dist.is_nccl_available():
        parts.append("NCCL " + ".".join(map(str, nccl.version())))
    return ", ".join(parts) + f", {torch.get_num_threads()} threads"


def _installed() -> str:
    found = []
    for name in ("torchvision", "numpy", "pillow", *_OPTIONAL):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2] for line in lines if line.startswith("model name")]
    return " ".join(names[0].split()) if names else platform.processor() or platform.machine()


def _gpu(world: World) -> str | None:
    if world.device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(world.device)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, rank {world.rank}"


def _jpeg() -> str:
    """Whether it has SIMD code for this processor: timed as it is, and in a process where it may use none."""
    here = _decoding_s()
    program = "from barlow.doctor import facts; print(facts._decoding_s())"
    # The library looks at this variable once, when it first decodes.
    command = ["env", "JSIMD_FORCENONE=1", sys.executable, "-c", program]
    try:
        plain = float(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return "whether it uses SIMD could not be measured"
    has_simd = plain >= _JPEG_RATIO * here
    return f"{'with' if has_simd else 'without'} SIMD: {plain / here:.1f} times as fast as its plain C"


def _decoding_s() -> float:
    """Seconds of processor time for a picture, the least of some."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(noise).resize((600, 400), Image.Resampling.BICUBIC).save(encoded, "JPEG", quality=90)
    times = []
    for _ in range(30):
        start = time.process_time()
        decode(encoded.getvalue())
        times.append(time.process_time() - start)
    return min(times)


def _network(world: World) -> str:
    if world.size == 1:
        return "one process"
    small = torch.zeros(1, device=world.device)
    large = torch.zeros(_MEGABYTES * 2**18, device=world.device)
    latency_s = min(_reduction_s(small, world) for _ in range(20))
    seconds = min(_reduction_s(large, world) for _ in range(3))
    return (
        f"{world.size} by {dist.get_backend()} on {world.device.type}: "
        f"one number summed in {1e6 * latency_s:.0f} us, {_MEGABYTES} MiB at {_MEGABYTES / seconds:.0f} MiB/s"
    )


def _reduction_s(x: torch.Tensor, world: World) -> float:
    start = time.perf_counter()
    all_reduce_(x)
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
    return time.perf_counter() - start
