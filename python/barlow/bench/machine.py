"""Here: what the numbers were measured on: processor, cores to pin to, versions.

Not here: anything that changes the machine.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

_PACKAGES = (
    "barlow", "torch", "torchvision", "pillow", "numpy", "lightly", "opencv-python-headless", "opencv-python",
    "nvidia-dali-cuda130", "nvidia-dali-cuda120", "nvidia-nvimgcodec-cu13", "spdl-io",
)  # fmt: skip


def facts() -> dict[str, Any]:
    """Processor, logical cores that this process may use, memory in GB, system, Python."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Versions of this package and of the peers that are installed."""
    from barlow import __version__

    found = {"barlow": __version__}
    for name in _PACKAGES[1:]:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cores(count: int) -> list[int]:
    """`count` logical cores that this process may use, of as many physical cores as possible.

    `ValueError` if there are fewer: a run of more threads than cores measures the scheduler.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if not 1 <= count <= len(allowed):
        raise ValueError(f"--threads {count}: this process may use {len(allowed)} cores")
    return spread(allowed, [_physical(cpu) for cpu in allowed])[:count]


def spread(cpus: list[int], physical: list[str]) -> list[int]:
    """The logical cores ordered so that siblings of one physical core come late: first one of each."""
    seen: dict[str, int] = {}
    turns = []
    for cpu, core in zip(cpus, physical, strict=True):
        seen[core] = seen.get(core, 0) + 1
        turns.append((seen[core], cpu))
    return [cpu for _, cpu in sorted(turns)]


def _physical(cpu: int) -> str:
    siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return siblings.read_text()
    except OSError:  # containers may hide it
        return str(cpu)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return " ".join(value.split())
    return platform.processor() or platform.machine()
