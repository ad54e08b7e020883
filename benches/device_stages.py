"""Images per second of each device stage, from files to normalised views on the device, rounds interleaved.

    python benches/device_stages.py shards/train --batch-size 256 --seconds 20 --json stages.json

On a GPU if there is one, else on DALI's CPU backend. Only loading is measured: nothing trains meanwhile.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from barlow.config import IMAGENET_MEAN, IMAGENET_STD
from barlow.data import Index, Loader, open_index, staged, to_float, views
from barlow.data.dali import installed
from barlow.data.staged import HAND_OVER, endless

NORMS: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--size", type=int, default=224, help="side of a view in pixels")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=0, help="loader threads; 0 is all cores")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="bfloat16")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = list(HAND_OVER) if not installed.missing() else ["none"]
    if installed.missing():
        print(installed.missing())
    index = open_index(options.data)
    rates: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            rates[name].append(measured(name, index, options, device))
    report(rates, options, device)


def measured(name: str, index: Index, options: argparse.Namespace, device: torch.device) -> float:
    """Images per second of one round of one stage, start-up not counted."""
    dtype = getattr(torch, options.dtype)
    loader = Loader(
        index, views=views.barlow_twins(options.size), batch_size=options.batch_size,
        threads=options.threads, pin_memory=device.type == "cuda", hand_over=HAND_OVER[name],
    )  # fmt: skip
    images, begin_s = 0, 0.0
    with staged(loader, **NORMS, device=device, dtype=dtype) as batches:
        for number, batch in enumerate(endless(batches)):
            if name == "none":
                to_float(batch.views, **NORMS, device=device, dtype=dtype)
            if number == 3:  # the first batches were made while nobody waited
                begin_s, images = now_s(device), 0
            elif number > 3:
                images += len(batch.ids)
                if time.perf_counter() - begin_s > options.seconds:
                    break
        return images / (now_s(device) - begin_s)


def now_s(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def report(rates: dict[str, list[float]], options: argparse.Namespace, device: torch.device) -> None:
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"two {options.size}-pixel views as {options.dtype} on {where}, batches of {options.batch_size}")
    print(f"{'stage':<14}{'images/s':>10}{'range':>18}")
    for name, found in rates.items():
        print(f"{name:<14}{statistics.median(found):>10.0f}{f'{min(found):.0f} to {max(found):.0f}':>18}")
    if options.json:
        record = {"device": where, "dali": installed.version(), "images_per_s": rates}
        record |= {key: str(value) for key, value in vars(options).items()}
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
