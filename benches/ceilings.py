"""What a machine gives at most: bandwidth of a copy on the device, rate of a bf16 product, seconds of a small
compilation; and what is installed there. As JSON.

    python benches/ceilings.py ceilings.json cuda
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.cuda import nccl

from barlow.bench import machine
from barlow.durable import write_file


def main(path: Path, device: str) -> None:
    on_gpu = device == "cuda"
    size, side = (1 << 30, 8192) if on_gpu else (1 << 20, 256)
    x = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    y = torch.empty_like(x)
    record: dict[str, Any] = {
        "copy_GB_per_s": 2 * size / seconds_of(lambda: y.copy_(x), on_gpu) / 1e9,
        "product_TFLOP_per_s": 2 * side**3 / seconds_of(lambda: a @ b, on_gpu) / 1e12,
        "machine": machine.facts(),
        "versions": machine.versions(),
    }
    if on_gpu:
        properties = torch.cuda.get_device_properties(0)
        record |= {"gpu": properties.name, "gpu_bytes": properties.total_memory, "cuda": torch.version.cuda}
        record |= {"nccl": list(nccl.version()), "cudnn": torch.backends.cudnn.version()}
    write_file(path, json.dumps(record, indent=1) + "\n")
    begin_s = time.perf_counter()
    torch.compile(lambda x: (x * 2).relu().sum())(a).item()
    record["compiled_in_s"] = time.perf_counter() - begin_s
    write_file(path, json.dumps(record, indent=1) + "\n")
    print(json.dumps(record))


def seconds_of(act: Callable[[], object], on_gpu: bool, times: int = 10) -> float:
    """Of one call; several before it do not count."""

    def now_s() -> float:
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    for _ in range(3):
        act()
    begin_s = now_s()
    for _ in range(times):
        act()
    return (now_s() - begin_s) / times


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
