"""Here: `barlow detect`: a backbone's detectors trained and tested on VOC, detection.json, the table.

Not here: network, training, average precision, reading the images.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console as Terminal
from rich.table import Table
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from barlow import __version__, durable
from barlow.config import Config
from barlow.distributed import World
from barlow.evaluate import features
from barlow.evaluate.console import Console
from barlow.evaluate.detection.average_precision import Averaging, voc_scores
from barlow.evaluate.detection.c4 import c4_detector, check_backbone
from barlow.evaluate.detection.recipe import VOC, DetectionRecipe
from barlow.evaluate.detection.training import find_objects, train_detector
from barlow.evaluate.detection.voc import CLASSES, TEST, TRAIN, Set, VocImages, check_devkit
from barlow.evaluate.spread import over_seeds
from barlow.evaluate.unfinished import Part, Unfinished
from barlow.model import Backbone
from barlow.model.precision import autocast_dtype
from barlow.model.weights import load_backbone

Json = dict[str, Any]
PAPER = {"ap": 56.8, "ap50": 82.6, "ap75": 63.4}
"""Table 4, by detectron2."""


def detect(
    target: Path,
    devkit: Path,
    *,
    world: World,
    out: Path | None = None,
    recipe: DetectionRecipe = VOC,
    seeds: int = 1,
    freeze_at: int = 0,
    precision: Literal["fp32", "bf16"] = "fp32",
    averaging: Averaging = "11 points",
    workers: int = 4,
    classes: tuple[str, ...] = CLASSES,
    train_sets: tuple[Set, ...] = TRAIN,
    test_sets: tuple[Set, ...] = TEST,
    quiet: bool = False,
) -> Json:
    """Faster R-CNN C4, trained on VOC07+12 trainval and tested on VOC07 test; gives what it writes to `out`.

    `target` is a run or a weights file, `devkit` the folder VOCdevkit. `seeds` detectors are trained, by the
    seeds 0, 1, ...; AP, AP50 and AP75 are percent. `out` is detection.json in the run, or beside the weights.
    All ranks of `world` call it together and the first one writes. What was interrupted goes on when it is
    called again, from OUT.partial/, and gives the same numbers. `ValueError`, `OSError`: weights or images
    that can't be used, a beginning by other settings; `FloatingPointError`: the detector diverged.
    """
    began = time.monotonic()
    if seeds < 1:
        raise ValueError(f"there must be at least 1 seed, not {seeds}")
    destination = out or _default_out(target)
    durable.check_target(destination)
    backbone, model_config, config = load_backbone(target)
    check_backbone(backbone, freeze_at)
    digest = features.digest(backbone)
    check_devkit(devkit, (*train_sets, *test_sets))
    train, test = (VocImages(devkit, sets, classes) for sets in (train_sets, test_sets))
    talk = Console(quiet=quiet or world.rank > 0)
    job = _Job(backbone, config or Config(), recipe, world, freeze_at, precision, averaging, workers, talk)
    unfinished = Unfinished(destination, _settings(job, digest, train, test, classes))
    results = [job.run(train, test, len(classes), seed, unfinished) for seed in range(seeds)]
    if features.digest(backbone) != digest:
        raise RuntimeError("the evaluation changed the backbone, so its numbers mean nothing")
    result: Json = {
        **over_seeds(results, ("ap", "ap50", "ap75")),
        "classes": list(classes),
        "averaging": averaging,
        "recipe": dataclasses.asdict(recipe),
        "deviations": _deviations(recipe, freeze_at, precision, averaging, (train_sets, test_sets)),
        "data": {"devkit": str(devkit.absolute()), "train_images": len(train), "test_images": len(test)},
        "target": str(target.resolve()),
        "weights_sha256": digest,
        "model": dataclasses.asdict(model_config),
        "processes": world.size,
        "torch": torch.__version__,
        "seconds": round(time.monotonic() - began, 1),
    }
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    if world.rank == 0:
        durable.write_file(destination, text)
        _show(result, destination, quiet)
    unfinished.remove()
    return json.loads(text)


def _default_out(target: Path) -> Path:
    return target / "detection.json" if target.is_dir() else target.with_suffix(".detection.json")


@dataclasses.dataclass(frozen=True)
class _Job:
    """What all seeds share."""

    backbone: Backbone
    config: Config
    recipe: DetectionRecipe
    world: World
    freeze_at: int
    precision: str
    averaging: Averaging
    workers: int
    talk: Console

    def run(
        self, train: VocImages, test: VocImages, num_classes: int, seed: int, unfinished: Unfinished
    ) -> Json:
        """The scores of one detector in percent, to two digits."""
        part = Part(unfinished, f"seed-{seed}")
        if (done := unfinished.result(part.name)) is not None:
            self.talk.say(f"seed {seed}: done before")
            return done
        result = self._scores(train, test, num_classes, seed, part)
        unfinished.keep_result(part.name, result)
        return result

    def _scores(self, train: VocImages, test: VocImages, num_classes: int, seed: int, part: Part) -> Json:
        device = self.world.device
        detector = self._detector(num_classes, seed).to(device)
        with self.talk.stage(f"seed {seed}: training, steps") as progress:
            losses = train_detector(
                detector,
                train,
                train.with_objects(),
                self.recipe,
                seed=seed,
                device=device,
                workers=self.workers,
                progress=progress,
                part=part,
            )
        with self.talk.stage(f"seed {seed}: test images") as progress:
            found = find_objects(detector, test, device=device, progress=progress)
        scores = voc_scores(test.truths(), found, num_classes, self.averaging)
        by_class = scores.pop("ap50_by_class")
        assert isinstance(by_class, list)
        last = losses[-max(1, len(losses) // 100) :]
        return {
            **{name: float(value) for name, value in scores.items() if not isinstance(value, list)},
            "ap50_by_class": [None if value is None else round(value, 2) for value in by_class],
            "train_loss": round(sum(last) / len(last), 4),
        }

    def _detector(self, num_classes: int, seed: int) -> GeneralizedRCNN:
        data, device = self.config.data, self.world.device
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            return c4_detector(
                self.backbone,
                num_classes + 1,
                sizes=self.recipe.sizes,
                max_size=self.recipe.max_size,
                mean=data.mean,
                std=data.std,
                freeze_at=self.freeze_at,
                dtype=autocast_dtype(self.precision, device),
            )


def _settings(
    job: _Job, weights_sha256: str, train: VocImages, test: VocImages, classes: tuple[str, ...]
) -> Json:
    """All that decides about the numbers of a detector, beside its seed and the machine."""
    return {
        "weights_sha256": weights_sha256,
        "train_sha256": train.digest(),
        "test_sha256": test.digest(),
        "classes": classes,
        "recipe": dataclasses.asdict(job.recipe),
        "freeze_at": job.freeze_at,
        "precision": job.precision,
        "averaging": job.averaging,
        "mean_std": [job.config.data.mean, job.config.data.std],
        "processes": job.world.size,
        "device": job.world.device.type,
        "versions": {"barlow": __version__, "torch": torch.__version__},
    }


def _deviations(
    recipe: DetectionRecipe, freeze_at: int, precision: str, averaging: Averaging, sets: tuple[object, object]
) -> list[str]:
    told = [
        "torchvision's detector instead of detectron2's: smooth L1 from 1/9, resizing without antialiasing, "
        "no second pass for batch norm's statistics"
    ]
    for field, words in (("steps", "steps"), ("batch_size", "images per step"), ("lr", "learning rate")):
        ours, theirs = getattr(recipe, field), getattr(VOC, field)
        if ours != theirs:
            told.append(f"{words} {ours:g} instead of {theirs:g}")
    if (recipe.sizes, recipe.max_size) != (VOC.sizes, VOC.max_size):
        told.append(f"shorter sides of {', '.join(map(str, recipe.sizes))} px instead of 480, 512, ..., 800")
    if freeze_at:
        told.append(f"the first {freeze_at} of stem and stages do not train")
    if precision != "fp32":
        told.append(f"backbone and region head run in {precision}")
    if averaging != "11 points":
        told.append("precision is averaged over the area instead of 11 points")
    if sets != (TRAIN, TEST):
        told.append(f"trained on {sets[0]}, tested on {sets[1]}")
    return told


def _show(result: Json, path: Path, quiet: bool) -> None:
    terminal = Terminal(quiet=quiet, highlight=False)
    table = Table(title="Detection, percent")
    for column in ("", "AP", "AP50", "AP75"):
        table.add_column(column, justify="right" if column else "left")
    spread = result.get("std", {})
    cells = []
    for name in PAPER:
        deviation = spread.get(name)
        cells.append(f"{result[name]:.2f}" + ("" if deviation is None else f" ± {deviation:.2f}"))
    table.add_row("this backbone", *cells)
    table.add_row("the paper's", *(f"{value:.1f}" for value in PAPER.values()))
    terminal.print(table)
    for note in result["deviations"]:
        terminal.print(f"differs from the paper: {note}", markup=False, soft_wrap=True)
    terminal.print(f"wrote {path}", markup=False, soft_wrap=True)
