"""How long a checkpoint holds training up: written at once, and beside it. `python benches/saving.py`

Both ways alternate on the network of the imagenet preset: `at once` is `save_checkpoint`, which returns when
the folder is on the disk; `beside` is `Saver.save`, which returns when the state is copied. Every save is
followed by steps of the optimizer (on fixed gradients), whose pace while a checkpoint is being written is
compared with their pace afterwards. Medians, in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from barlow.config import imagenet
from barlow.distributed import World
from barlow.train.checkpoint import save_checkpoint
from barlow.train.learner import Learner, Plan
from barlow.train.saving import Saver


class Position:
    """Stands for the loader, of which a checkpoint only asks where it is."""

    def state_dict(self) -> dict[str, int]:
        return {"epoch": 0, "step": 0}


def steps_for(learner: Learner, seconds: float) -> list[float]:
    """Milliseconds of each optimizer step in that time; it waits for a GPU after each."""
    found, end_s = [], time.perf_counter() + seconds
    while time.perf_counter() < end_s:
        began_s = time.perf_counter()
        learner.optimizer.step()
        if learner.device.type == "cuda":
            torch.cuda.synchronize()
        found.append(1e3 * (time.perf_counter() - began_s))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--saves", type=int, default=11, help="of each kind; the first of each is left out")
    parser.add_argument("--projector", type=int, default=8192 if torch.cuda.is_available() else 1024)
    parser.add_argument("--folder", type=Path, help="on the disk in question")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = imagenet()
    config = replace(config, model=replace(config.model, projector=(arguments.projector,) * 3))
    learner = Learner(config, Plan.of(config, 625), World(0, 1, 0, device))
    for parameter in learner.network.parameters():
        parameter.grad = torch.randn_like(parameter)
    steps_for(learner, 2.0)
    num_bytes = 2 * sum(p.numel() * p.element_size() for p in learner.network.parameters())
    rows: dict[str, list[float]] = {"at once": [], "beside": [], "step while writing": [], "step": []}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        at_once, beside = Path(folder) / "at-once", Path(folder) / "beside"
        with Saver(beside, learner, None, World(0, 1, 0, device)) as saver:
            for number in range(arguments.saves):
                began_s = time.perf_counter()
                save_checkpoint(at_once, number, learner.network, learner.optimizer, {}, keep=2)
                middle_s = time.perf_counter()
                saver.save(number, Position(), 0.0)  # pyright: ignore[reportArgumentType]
                ended_s = time.perf_counter()
                if number:
                    rows["at once"].append(1e3 * (middle_s - began_s))
                    rows["beside"].append(1e3 * (ended_s - middle_s))
                while saver.newest < number:
                    rows["step while writing"] += steps_for(learner, 0.05)
                    if saver.poll():
                        saver.raise_failure()
                rows["step"] += steps_for(learner, 0.5)
    print(
        f"{num_bytes / 1e6:.0f} MB of parameters and momentum on {device}, medians of {arguments.saves - 1}"
    )
    for name, values in rows.items():
        print(f"{name:20} {statistics.median(values):8.1f} ms  (largest {max(values):.1f})")
    print(json.dumps({name: statistics.median(values) for name, values in rows.items()}))


if __name__ == "__main__":
    main()
