"""Here: the subcommand `barlow detect`.

Not here: the work.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from barlow.commands.arguments import MAX_THREADS, Target, check
from barlow.commands.stopping import goes_on

Devkit = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="VOCDEVKIT")]


def detect(
    target: Target,
    devkit: Devkit,
    *,
    out: Path | None = None,
    steps: int = 24_000,
    batch_size: int = 16,
    sizes: Annotated[tuple[int, ...], tyro.conf.arg(metavar="PIXELS ...")] = tuple(range(480, 801, 32)),
    seeds: int = 1,
    freeze_at: int = 0,
    precision: Literal["fp32", "bf16"] = "fp32",
    averaging: Literal["11 points", "area"] = "11 points",
    workers: int = 4,
) -> None:
    """Measures a backbone by finding objects: Faster R-CNN C4 on VOC07+12, average precision in percent.

    With torchvision's detector and the paper's schedule (docs/detection.md, also for COCO and detectron2).
    With the defaults on several GPUs: `torchrun --nproc-per-node 8 -m barlow -- detect RUN VOCDEVKIT`.
    What was interrupted goes on when the same command is typed again, from OUT.partial/ beside the result.

    Args:
        target: Run folder, or exported or foreign weights, of a ResNet with the imagenet stem.
        devkit: Folder with VOC2007 (trainval and test) and VOC2012 (trainval).
        out: File for the result; by default RUN/detection.json.
        steps: Steps of training; with others than the paper's, drops and warm-up move along.
        batch_size: Images of one step, of all processes; the learning rate is scaled along.
        sizes: Shorter sides in pixels, one of which is drawn for each training image; the last one tests.
        seeds: Detectors that are trained, for a mean and a spread.
        freeze_at: How many of stem and stages stay as they are, as detectron2 counts.
        precision: Autocast of backbone and region head.
        averaging: VOC 2007's 11 points, which the paper has, or the area of later years.
        workers: Processes that read images, for each training process.
    """
    from barlow.distributed import process_group
    from barlow.evaluate.detection.evaluation import detect
    from barlow.evaluate.detection.recipe import VOC

    check("--steps", steps, 1, 1 << 40)
    check("--batch-size", batch_size, 1, 1 << 20)
    check("--seeds", seeds, 1, 1 << 20)
    for size in sizes:
        check("--sizes", size, 1, 4096)
    check("--workers", workers, 0, MAX_THREADS)
    with goes_on(), process_group() as world:
        detect(
            target,
            devkit,
            world=world,
            out=out,
            recipe=dataclasses.replace(VOC.shortened(steps, batch_size), sizes=sizes),
            seeds=seeds,
            freeze_at=freeze_at,
            precision=precision,
            averaging=averaging,
            workers=workers,
        )
