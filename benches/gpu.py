"""A training step on one GPU, all of it: the ladder from the official formulation to ours, the largest batch
of either, and steps on real images beside the official script and beside synthetic data. One table, one JSON.

    python benches/gpu.py --json gpu.json --batch-size 256                 # about 9 minutes
    python benches/gpu.py --data imagenet-sample.tar --only-parts end-to-end --json real.json

No part begins anything when the budget is over, and what has been measured is in the file already.
The same runs without a GPU, for whoever changes it: --device cpu with small sizes (docs/speed.md).
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from barlow.bench.step import StepSettings
from barlow.bench.step.end_to_end import measure
from barlow.bench.step.ladder import climb
from barlow.bench.step.largest import largest_batches
from barlow.bench.step.report import Report, table

PARTS = ("ladder", "largest-batch", "end-to-end")


def main(
    *,
    data: Path | None = None,
    only_parts: tuple[str, ...] = PARTS,
    window_s: float = 20.0,
    real_rounds: int = 2,
    real_rung: str = "lists",
    settings: Annotated[StepSettings, tyro.conf.arg(name="")] = StepSettings(),  # noqa: B008
) -> None:
    """Measures a training step on one GPU.

    Args:
        data: Shards, tar or folder of JPEGs for the part end-to-end; without it that is left out.
        only_parts: Of ladder, largest-batch and end-to-end.
        window_s: Seconds of a timed window of end-to-end.
        real_rounds: Windows of each contestant of end-to-end.
        real_rung: Which formulation of ours end-to-end takes; compile is the fastest.
        settings: What is measured.
    """
    if unknown := set(only_parts) - set(PARTS):
        raise SystemExit(f"there is no part {', '.join(sorted(unknown))}, only {', '.join(PARTS)}")
    report = Report(settings, shlex.join(sys.argv))
    if "ladder" in only_parts:
        climb(settings, report)
    if "end-to-end" in only_parts and data is not None:
        measure(data, replace(settings, rounds=real_rounds), report, window_s=window_s, rung=real_rung)
    if "largest-batch" in only_parts:
        largest_batches(["official", "bf16", "lists"], settings, report)
    report.say("done")
    print(table(report.result))
    if not report.well:
        raise SystemExit(1)


if __name__ == "__main__":
    tyro.cli(main, prog="gpu.py")
