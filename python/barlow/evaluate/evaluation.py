"""Here: `barlow eval`: one backbone and its baselines through every protocol asked for, and eval.json.

Not here: the protocols (protocols.py lists them), features (features.py), the split (partition.py).
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from barlow import durable
from barlow.config import Config
from barlow.data import Index, views
from barlow.evaluate import accuracy, console, deviations, features, label_free, partition
from barlow.evaluate.job import Job, Json, Row
from barlow.evaluate.partition import Partition
from barlow.evaluate.protocols import DEFAULT, PROTOCOLS
from barlow.evaluate.spread import over_seeds
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
NO_LABELS = "the images have no labels, so there is nothing to classify"


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
    protocols: Sequence[str] = DEFAULT,
    seeds: int = 1,
) -> Json:
    """Protocols of a backbone on labelled images; returns what it writes as JSON to `out`.

    `target` is a run folder (its newest valid checkpoint) or a weights file. `data` trains the probes
    and `held_out` tests them; without it, `data` may hold `train/` beside `held-out/`, `val/` or
    `test/`, and otherwise a fixed fifth of every class tests. `baselines` adds the same network
    untrained and the raw pixels. `config` replaces the run's own settings (the model is always the
    weights'). `out` defaults to `eval.json` in the run folder, or beside the weights. `protocols` are names
    of `protocols.PROTOCOLS`; what is random in one is repeated with the seeds 0 to `seeds` - 1. Accuracies
    are percent, rounded to two digits. Images without labels: the accuracies are null with the reason.
    `ValueError`: an unknown protocol, settings or data that cannot work, weights that don't fit.
    """
    began = time.monotonic()
    target, data = Path(target), Path(data)
    _check(protocols, seeds)
    backbone, model_config, own_config = load_backbone(target)
    config = dataclasses.replace(config or described(model_config, own_config), model=model_config)
    validate_ranges(config)
    parts = partition.load(data, None if held_out is None else Path(held_out))
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = _precision(config.train.precision, where)
    talk = console.Console(quiet=quiet)
    job = Job(parts, config, where, talk)
    backbone = backbone.to(where)
    digest = features.digest(backbone)
    labelled = isinstance(parts, Partition)
    talk.say(parts.how if labelled else NO_LABELS)
    size, resize = config.data.image_size, config.data.eval_resize
    row = Row("trained", backbone, features.network(backbone, dtype), size, resize)
    result = _measure(job, row, protocols, seeds)
    if baselines:
        # Built from the run's seed: the very weights that the training began with.
        untrained = build_model(model_config, config.train.seed).backbone.to(where)
        forward = features.network(untrained, dtype)
        row = Row("untrained", untrained, forward, size, resize, BASELINE_FACTORS)
        result["untrained"] = _measure(job, row, protocols, seeds)
        row = _raw_pixels(job)
        result["raw_pixels"] = None if row is None else _measure(job, row, protocols, seeds)
    result["reason"] = None if labelled else NO_LABELS
    factors = BASELINE_FACTORS if baselines else None
    result |= {
        "target": str(target.resolve()),
        "weights_sha256": digest,
        "model": dataclasses.asdict(model_config),
        "data": _describe_data(parts),
        "protocol": deviations.protocol(config, dtype, factors, labelled=labelled, names=protocols),
        "device": str(where) if where.type == "cpu" else torch.cuda.get_device_name(where),
        "torch": torch.__version__,
        "seconds": round(time.monotonic() - began, 1),
    }
    destination = Path(out) if out is not None else _default_out(target)
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    durable.write_file(destination, text)
    talk.table(result, destination)
    return json.loads(text)


def _check(protocols: Sequence[str], seeds: int) -> None:
    for name in protocols:
        if name not in PROTOCOLS:
            raise ValueError(f"there is no protocol {name!r}, only {', '.join(PROTOCOLS)}")
    if seeds < 1:
        raise ValueError(f"there must be at least 1 seed, not {seeds}")


def _default_out(target: Path) -> Path:
    return target / "eval.json" if target.is_dir() else target.with_suffix(".eval.json")


def _precision(name: str, device: torch.device) -> torch.dtype:
    """The run's, except that a run in fp16 can be evaluated where there is no GPU."""
    return autocast_dtype("auto" if name == "fp16" and device.type == "cpu" else name, device)


def _measure(job: Job, row: Row, protocols: Sequence[str], seeds: int) -> Json:
    """The numbers of one row; `RuntimeError` if the backbone is not the same in every bit afterwards."""
    before = None if row.backbone is None else features.digest(row.backbone)
    numbers: Json = {}
    for name in protocols:
        protocol = PROTOCOLS[name]
        if not isinstance(job.parts, Partition):
            numbers[name] = None
        elif row.name in protocol.rows:
            repeated = range(seeds if protocol.random else 1)
            numbers[name] = over_seeds([protocol.run(job, row, seed) for seed in repeated], protocol.metrics)
    numbers["label_free"] = _label_free(job, row)
    if row.backbone is not None and features.digest(row.backbone) != before:
        raise RuntimeError("the evaluation changed the backbone, so its numbers mean nothing")
    return numbers


def _raw_pixels(job: Job) -> Row | None:
    """The pixels themselves, at 32 px where the images are larger; None where they need too much memory."""
    data = job.config.data
    size = min(RAW_PIXELS_SIZE, data.image_size)
    resize = max(size, round(data.eval_resize * size / data.image_size))
    train = job.parts.train if isinstance(job.parts, Partition) else job.parts
    needed = len(train) * 3 * size * size * 4 * (1 + max(1, job.config.evaluate.linear_crops))
    if needed > _RAW_PIXELS_BYTES:
        job.talk.say(f"raw pixels left out: they would need {needed / 2**30:.0f} GiB of memory")
        return None
    return Row("raw pixels", None, features.pixels, size, resize, BASELINE_FACTORS)


def _label_free(job: Job, row: Row) -> Json:
    """Of the test images, or of all where nothing has a label."""
    if isinstance(job.parts, Partition):
        index, features_NF = job.parts.test, job.features(row, "test")
    else:
        index = job.parts
        (view,) = views.evaluation(size=row.size, resize=row.resize)
        features_NF = job.extract(row, index, view, f"{row.name}: features")
    told = {
        "effective_rank": round(label_free.effective_rank(features_NF), 2),
        "num_features": features_NF.shape[1],
        "dead_features": label_free.dead_features(features_NF),
        "num_images": len(features_NF),
    }
    if row.backbone is not None:
        told["instance_retrieval_top1"] = accuracy.rounded(_retrieval(job, row, index))
    return told


def _retrieval(job: Job, row: Row, index: Index) -> float:
    """Two training views of up to 1000 test images: does the one find the other?"""
    if len(index) > _RETRIEVAL_IMAGES:
        index = index.subset(
            (np.arange(_RETRIEVAL_IMAGES) * len(index) // _RETRIEVAL_IMAGES).astype(np.uint32)
        )
    first, second = views.training(job.config.data)
    return label_free.instance_retrieval(
        job.extract(row, index, first, f"{row.name}: first views"),
        job.extract(row, index, second, f"{row.name}: second views"),
    )


def _describe_data(parts: Partition | Index) -> Json:
    """Where the images come from and how many there are."""
    if not isinstance(parts, Partition):
        return {"source": _absolute(parts), "images": len(parts), "labelled": False}
    counts_C = torch.bincount(parts.test_labels_M, minlength=len(parts.class_names))
    return {
        "train": _absolute(parts.train),
        "test": _absolute(parts.test),
        "partition": parts.how,
        "train_images": len(parts.train),
        "test_images": len(parts.test),
        "num_classes": len(parts.class_names),
        "majority_class_percent": accuracy.rounded(100 * counts_C.max().item() / len(parts.test)),
        "labelled": True,
    }


def _absolute(index: Index) -> str:
    # The report is written from another folder perhaps, and looks for the test images by this.
    return str(Path(index.source).absolute())
