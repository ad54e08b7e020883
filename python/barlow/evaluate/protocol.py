"""Here: `barlow eval`: one backbone and its baselines through every probe, and eval.json.

Not here: the probes themselves (knn.py, linear.py), features (features.py), the split (partition.py).
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from barlow import durable
from barlow.config import Config
from barlow.data import Index, views
from barlow.evaluate import accuracy, console, deviations, features, knn, label_free, linear, partition
from barlow.evaluate.partition import Partition
from barlow.model import build_model
from barlow.model.foreign import described
from barlow.model.precision import autocast_dtype
from barlow.model.weights import load_backbone
from barlow.validation import validate_ranges

BASELINE_FACTORS = (1.0, 0.1, 0.01)
"""Learning rates of a baseline's probe, relative to the trained network's; its best one counts."""
RAW_PIXELS_SIZE = 32
"""Side in pixels that images are reduced to before they are features by themselves."""
_RAW_PIXELS_BYTES = 8 << 30
"""Raw pixels that would need more memory than this are left out, with a reason."""
_RETRIEVAL_IMAGES = 1000
_PROBE_SEED = 0
"""Seed of the probe's initialisation, order and views: the same for every row of the table."""

Json = dict[str, Any]


def evaluate(
    target: str | Path,
    data: str | Path,
    *,
    held_out: str | Path | None = None,
    out: str | Path | None = None,
    baselines: bool = True,
    device: str | None = None,
    config: Config | None = None,
    quiet: bool = False,
) -> Json:
    """kNN and linear probe of a backbone on labelled images; returns what it writes as JSON to `out`.

    `target` is a run folder (its newest valid checkpoint) or a weights file. `data` trains the probes
    and `held_out` tests them; without it, `data` may hold `train/` beside `held-out/`, `val/` or
    `test/`, and otherwise a fixed fifth of every class tests. `baselines` adds the same network
    untrained and the raw pixels. `config` replaces the run's own settings (the model is always the
    weights'). `out` defaults to `eval.json` in the run folder, or beside the weights. Accuracies are
    percent, rounded to two digits. Images without labels: the accuracies are null with the reason.
    """
    began = time.monotonic()
    target, data = Path(target), Path(data)
    backbone, model_config, own_config = load_backbone(target)
    config = config or described(model_config, own_config)
    validate_ranges(config)
    parts = partition.load(data, None if held_out is None else Path(held_out))
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = _precision(config.train.precision, where)
    talk = console.Console(quiet=quiet)
    job = _Job(parts, config, where, talk)
    backbone = backbone.to(where)
    digest = features.digest(backbone)
    talk.say(parts.how if isinstance(parts, Partition) else job.no_labels)
    result: Json = job.measure("trained", features.network(backbone, dtype))
    if features.digest(backbone) != digest:
        raise RuntimeError("the evaluation changed the backbone, so its numbers mean nothing")
    if baselines:
        # Built from the run's seed: the very weights that the training began with.
        untrained = build_model(model_config, config.train.seed).backbone.to(where)
        result["untrained"] = job.measure(
            "untrained", features.network(untrained, dtype), factors=BASELINE_FACTORS
        )
        result["raw_pixels"] = job.measure_pixels()
    result["reason"] = None if isinstance(parts, Partition) else job.no_labels
    result |= {
        "target": str(target.resolve()),
        "weights_sha256": digest,
        "model": dataclasses.asdict(model_config),
        "data": job.describe_data(),
        "protocol": deviations.protocol(
            config, dtype, BASELINE_FACTORS if baselines else None, labelled=isinstance(parts, Partition)
        ),
        "device": str(where) if where.type == "cpu" else torch.cuda.get_device_name(where),
        "torch": torch.__version__,
        "seconds": round(time.monotonic() - began, 1),
    }
    destination = Path(out) if out is not None else _default_out(target)
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    durable.write_file(destination, text)
    talk.table(result, destination)
    return json.loads(text)


def _default_out(target: Path) -> Path:
    return target / "eval.json" if target.is_dir() else target.with_suffix(".eval.json")


def _precision(name: str, device: torch.device) -> torch.dtype:
    """The run's, except that a run in fp16 can be evaluated where there is no GPU."""
    return autocast_dtype("auto" if name == "fp16" and device.type == "cpu" else name, device)


@dataclass(frozen=True)
class _Job:
    """One evaluation: the images and settings that every row of the table shares."""

    parts: Partition | Index
    config: Config
    device: torch.device
    talk: console.Console

    @property
    def no_labels(self) -> str:
        return "the images have no labels, so there is nothing to classify"

    def measure(self, name: str, forward: features.Forward, factors: tuple[float, ...] = (1.0,)) -> Json:
        """kNN, linear and label-free numbers of one feature function."""
        size, resize = self.config.data.image_size, self.config.data.eval_resize
        row = self._measure(name, forward, size, resize, factors)
        row["label_free"]["instance_retrieval_top1"] = _percent(self._retrieval(name, forward))
        return row

    def measure_pixels(self) -> Json | None:
        """The same for the pixels themselves, at 32 px where the images are larger."""
        data = self.config.data
        size = min(RAW_PIXELS_SIZE, data.image_size)
        resize = max(size, round(data.eval_resize * size / data.image_size))
        train = self.parts.train if isinstance(self.parts, Partition) else self.parts
        needed = len(train) * 3 * size * size * 4 * (1 + max(1, self.config.evaluate.linear_crops))
        if needed > _RAW_PIXELS_BYTES:
            self.talk.say(f"raw pixels left out: they would need {needed / 2**30:.0f} GiB of memory")
            return None
        return self._measure("raw pixels", features.pixels, size, resize, BASELINE_FACTORS)

    def _measure(
        self, name: str, forward: features.Forward, size: int, resize: int, factors: tuple[float, ...]
    ) -> Json:
        (view,) = views.evaluation(size=size, resize=resize)
        if not isinstance(self.parts, Partition):
            bank_NF = self._extract(self.parts, view, forward, f"{name}: features")
            return {"knn": None, "linear": None, "label_free": _label_free(bank_NF)}
        bank_NF = self._extract(self.parts.train, view, forward, f"{name}: training images")
        test_MF = self._extract(self.parts.test, view, forward, f"{name}: test images")
        return {
            "knn": self._knn(bank_NF, test_MF),
            "linear": self._linear(name, forward, test_MF, size, factors),
            "label_free": _label_free(test_MF),
        }

    def _extract(self, index: Index, view: views.View, forward: features.Forward, what: str) -> Tensor:
        with (
            self.talk.stage(what) as progress,
            features.Passes(
                index,
                view,
                forward,
                data=self.config.data,
                batch_size=self.config.evaluate.batch_size,
                device=self.device,
                progress=progress,
            ) as passes,
        ):
            return passes(0)

    def _knn(self, bank_NF: Tensor, test_MF: Tensor) -> Json:
        assert isinstance(self.parts, Partition)
        labels_M = self.parts.test_labels_M.to(self.device)
        num_classes = len(self.parts.class_names)
        scores_MC = knn.votes(
            bank_NF.to(self.device),
            self.parts.train_labels_N.to(self.device),
            test_MF.to(self.device),
            num_classes=num_classes,
            k=min(self.config.evaluate.knn_k, len(bank_NF)),
            temperature=self.config.evaluate.knn_temperature,
        )
        top1 = accuracy.percent(accuracy.hits(scores_MC, labels_M, 1))
        top5 = accuracy.percent(accuracy.hits(scores_MC, labels_M, 5)) if num_classes > 5 else None
        return {"top1": _percent(top1), "top5": _percent(top5)}

    def _linear(
        self, name: str, forward: features.Forward, test_MF: Tensor, size: int, factors: tuple[float, ...]
    ) -> Json:
        assert isinstance(self.parts, Partition)
        settings = self.config.evaluate
        (view,) = views.linear_probe(size=size)
        with (
            self.talk.stage(f"{name}: linear probe, epochs") as progress,
            features.Passes(
                self.parts.train,
                view,
                forward,
                data=self.config.data,
                batch_size=settings.batch_size,
                device=self.device,
                seed=_PROBE_SEED,
                num_epochs=settings.linear_epochs,
                num_cached=settings.linear_crops,
            ) as passes,
        ):
            results = linear.probe(
                passes,
                self.parts.train_labels_N,
                test_MF,
                self.parts.test_labels_M,
                num_classes=len(self.parts.class_names),
                config=settings,
                seed=_PROBE_SEED,
                device=self.device,
                factors=factors,
                progress=progress,
            )
        best = max(range(len(results)), key=lambda i: results[i].top1)
        return _linear_json(results[best], settings.linear_lr * factors[best])

    def _retrieval(self, name: str, forward: features.Forward) -> float:
        """Two training views of up to 1000 test images: does the one find the other?"""
        index = self.parts.test if isinstance(self.parts, Partition) else self.parts
        if len(index) > _RETRIEVAL_IMAGES:
            index = index.subset(
                (np.arange(_RETRIEVAL_IMAGES) * len(index) // _RETRIEVAL_IMAGES).astype(np.uint32)
            )
        first, second = views.training(self.config.data)
        return label_free.instance_retrieval(
            self._extract(index, first, forward, f"{name}: first views"),
            self._extract(index, second, forward, f"{name}: second views"),
        )

    def describe_data(self) -> Json:
        """Where the images come from and how many there are."""
        if not isinstance(self.parts, Partition):
            return {"source": _absolute(self.parts), "images": len(self.parts), "labelled": False}
        counts_C = torch.bincount(self.parts.test_labels_M, minlength=len(self.parts.class_names))
        return {
            "train": _absolute(self.parts.train),
            "test": _absolute(self.parts.test),
            "partition": self.parts.how,
            "train_images": len(self.parts.train),
            "test_images": len(self.parts.test),
            "num_classes": len(self.parts.class_names),
            "majority_class_percent": _percent(100 * counts_C.max().item() / len(self.parts.test)),
            "labelled": True,
        }


def _absolute(index: Index) -> str:
    # The report is written from another folder perhaps, and looks for the test images by this.
    return str(Path(index.source).absolute())


def _label_free(features_NF: Tensor) -> Json:
    return {
        "effective_rank": round(label_free.effective_rank(features_NF), 2),
        "num_features": features_NF.shape[1],
        "dead_features": label_free.dead_features(features_NF),
        "num_images": len(features_NF),
    }


def _linear_json(result: linear.Result, rate: float) -> Json:
    return {
        "top1": _percent(result.top1),
        "top5": _percent(result.top5),
        "best_top1": _percent(result.best_top1),
        "best_epoch": result.best_epoch,
        "train_loss": round(result.train_loss, 4) if math.isfinite(result.train_loss) else None,
        "learning_rate": rate,
    }


def _percent(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
