"""Here: `barlow eval`: one backbone and its baselines through every protocol asked for, and eval.json.

Not here: the protocols (protocols.py lists them), the rows of the results, features, the split.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from barlow import __version__, durable
from barlow.config import Config
from barlow.data import Index
from barlow.distributed import agree, rank_in, world_size
from barlow.evaluate import accuracy, console, deviations, features, label_free, partition, sharing, tables
from barlow.evaluate.cache import FeatureCache
from barlow.evaluate.job import Job, Json, Row
from barlow.evaluate.partition import Partition
from barlow.evaluate.protocols import DEFAULT, PROTOCOLS
from barlow.evaluate.rows import BASELINE_FACTORS, rows
from barlow.evaluate.scores import in_words
from barlow.evaluate.spread import over_seeds
from barlow.evaluate.unfinished import Unfinished
from barlow.evaluate.voc import MultiLabel
from barlow.model.foreign import described
from barlow.model.precision import autocast_dtype
from barlow.model.weights import load_backbone, step_of, weights_file
from barlow.terminal import short
from barlow.validation import validate_ranges

_WORTH_S = 10.0
"""What takes less is done again where an evaluation was interrupted."""
NO_LABELS = "the images have no labels, so there is nothing to classify"


def evaluate(
    target: str | Path,
    data: str | Path,
    *,
    held_out: str | Path | None = None,
    lists: tuple[Path, Path] | None = None,
    out: str | Path | None = None,
    baselines: bool = True,
    device: str | None = None,
    config: Config | None = None,
    quiet: bool = False,
    protocols: Sequence[str] | None = None,
    seeds: int = 1,
    cache: str | Path | None = None,
    cache_gib: float = 0.0,
) -> Json:
    """Protocols of a backbone on labelled images; returns what it writes as JSON to `out`.

    `target` is a run folder (its newest valid checkpoint) or a weights file. `data` trains the probes
    and `held_out` tests them; without it, `data` may hold `train/` beside `held-out/`, `val/` or
    `test/`, and otherwise a fixed fifth of every class tests. `lists` name and label the images of both parts
    (benchmarks.py). `baselines` adds the same network
    untrained and the raw pixels. `config` replaces the run's own settings (the model is always the
    weights'). `out` defaults to `eval.json` in the run folder, or beside the weights. Accuracies
    are percent, rounded to two digits. Images without labels: the accuracies are null with the reason.

    `protocols` are names of `protocols.PROTOCOLS`, by default those of `DEFAULT` that suit the labels; what
    is random in one is repeated with the seeds 0 to `seeds` - 1. At most `cache_gib` GiB of features are kept
    in the folder `cache`, by default `features` in the run folder or NAME.features beside the weights.

    All ranks of a process group call it with the same and get the same; the first one writes and talks.
    `ValueError`: an unknown protocol, settings or data that cannot work, weights that don't fit.
    """
    began = time.monotonic()
    target, data = Path(target), Path(data)
    check_request(protocols or (), seeds, cache_gib)
    destination = Path(out) if out is not None else beside(target, "eval.json")
    durable.check_target(destination)
    file = weights_file(target)  # of a run that goes on training: what is newest now
    backbone, model_config, own_config = load_backbone(file)
    config = dataclasses.replace(config or described(model_config, own_config), model=model_config)
    validate_ranges(config)
    parts = partition.load(data, None if held_out is None else Path(held_out), lists)
    names = _suitable(protocols, parts)
    for name in names if not isinstance(parts, Index) else ():
        PROTOCOLS[name].check(parts, config)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    backbone = backbone.to(where)
    digest = features.digest(backbone)
    agree({"weights": digest, "images": parts.digest(), "config": repr(config), "protocols": names})
    folder = Path(cache) if cache is not None else beside(target, "features")
    kept = FeatureCache(folder, int(cache_gib * 2**30))
    talk = console.Console(quiet=quiet or rank_in() > 0)
    threads = config.data.threads or sharing.own_cores()
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, threads=threads))
    dtype = _precision(config.train.precision, where)
    unfinished = _unfinished(destination, digest, parts, config, dtype, where)
    job = Job(parts, config, where, dtype, talk, kept, unfinished)
    if told := _replaced(destination, () if isinstance(parts, Index) else names):
        talk.say(told)
    talk.say(NO_LABELS if isinstance(parts, Index) else parts.how)
    result: Json = {}
    for row in rows(job, backbone, baselines=baselines):
        measured = _measure(job, row, names, seeds)
        result |= measured if row.key is None else {row.key: measured}
    if baselines:
        result.setdefault("raw_pixels", None)
    result |= _description(job, names, result, baselines=baselines) | {
        "target": str(target.resolve()),
        "weights_sha256": digest,
        "step": step_of(file),
        "seeds": seeds,
        "seconds": round(time.monotonic() - began, 1),
    }
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    if rank_in() == 0:
        durable.write_file(destination, text)
    unfinished.remove()
    tables.show(talk, result, destination)
    return json.loads(text)


def _replaced(destination: Path, names: Sequence[str]) -> str:
    """What will be lost with the result that is there, which may have taken hours; empty if nothing is."""
    try:
        before = durable.read_json(destination)
    except (OSError, ValueError):
        return ""
    lost = [name for name in PROTOCOLS if before.get(name) is not None and name not in names]
    if not lost:
        return ""
    return f"{short(destination)} has {', '.join(lost)} and will be replaced: --out FILE keeps both"


def _description(job: Job, names: Sequence[str], result: Json, *, baselines: bool) -> Json:
    """By what, of what and where the numbers came about."""
    labelled = not isinstance(job.parts, Index)
    notes = [note for name in names for note in (result[name] or {}).get("notes", ())]
    factors = BASELINE_FACTORS if baselines else None
    return {
        "reason": None if labelled else NO_LABELS,
        "model": dataclasses.asdict(job.config.model),
        "data": _describe_data(job.parts),
        "protocol": deviations.protocol(
            job.config, job.dtype, factors, labelled=labelled, names=names, notes=notes
        ),
        "processes": world_size(),
        "device": "cpu" if job.device.type == "cpu" else torch.cuda.get_device_name(job.device),
        "torch": torch.__version__,
    }


def check_request(protocols: Sequence[str], seeds: int, cache_gib: float) -> None:
    """`ValueError` for what no data and no weights could make sense of."""
    for name in protocols:
        if name not in PROTOCOLS:
            raise ValueError(f"there is no protocol {name!r}, only {', '.join(PROTOCOLS)}")
    if len(set(protocols)) < len(protocols):
        raise ValueError(f"the protocols must be different ones, not {' '.join(protocols)}")
    if seeds < 1:
        raise ValueError(f"there must be at least 1 seed, not {seeds}")
    if not 0 <= cache_gib < 1 << 20:
        raise ValueError(f"--cache-gib must lie in [0, {1 << 20}), not {cache_gib}")


def _suitable(protocols: Sequence[str] | None, parts: partition.Parts) -> tuple[str, ...]:
    """The protocols to run; `ValueError` if one was asked for that these labels are nothing for."""
    if not isinstance(parts, MultiLabel):
        return tuple(protocols or DEFAULT)
    able = [name for name, protocol in PROTOCOLS.items() if protocol.multi_label]
    for name in protocols or ():
        if name not in able:
            raise ValueError(
                f"{name} needs one class for each image, and those of {parts.train.source} have several: "
                f"choose --protocols {' '.join(able)}"
            )
    return tuple(protocols or able)


def beside(target: Path, name: Literal["eval.json", "features"]) -> Path:
    """What belongs to a run or to a file of weights: RUN/eval.json, or NAME.eval.json beside the file."""
    return target / name if target.is_dir() else target.with_suffix(f".{name}")


def _precision(name: str, device: torch.device) -> torch.dtype:
    """The run's, except that a run in fp16 can be evaluated where there is no GPU."""
    return autocast_dtype("auto" if name == "fp16" and device.type == "cpu" else name, device)


def _measure(job: Job, row: Row, names: Sequence[str], seeds: int) -> Json:
    """The numbers of one row; `RuntimeError` if the backbone is not in every bit the same afterwards."""
    numbers: Json = {}
    for name in names:
        protocol = PROTOCOLS[name]
        if isinstance(job.parts, Index):
            numbers[name] = None
        elif row.name in protocol.rows:
            repeated = range(seeds if protocol.random else 1)
            numbers[name] = over_seeds([_done(job, row, name, seed) for seed in repeated], protocol.metrics)
            _check_unchanged(row, name)
    with job.talk.part(f"{row.name}: without labels"):
        numbers["label_free"] = label_free.measure(job, row)
    _check_unchanged(row, "looking at features")
    return numbers


def _done(job: Job, row: Row, name: str, seed: int) -> Json:
    """What a protocol gives; of an evaluation that was interrupted what it had given then."""
    part = job.part(row, name, seed)
    if part is not None and (known := part.unfinished.result(part.name)) is not None:
        job.talk.say(f"{_part(row, name, seed)}: done before")
        return known
    began = time.monotonic()
    with job.talk.part(_part(row, name, seed)) as note:
        found = PROTOCOLS[name].run(job, row, seed)
        note(in_words(name, found))
    if part is not None:
        part.unfinished.keep_result(part.name, found, took_s=time.monotonic() - began)
    return found


def _part(row: Row, name: str, seed: int) -> str:
    protocol = PROTOCOLS[name]
    return f"{row.name}: {protocol.title}" + (f", seed {seed}" if protocol.random else "")


def _check_unchanged(row: Row, name: str) -> None:
    if row.backbone is None or row.identity is None:
        return
    if features.digest(row.backbone) != row.identity["weights"]:
        raise RuntimeError(f"{name} changed the backbone, so its numbers mean nothing")


def _unfinished(
    out: Path,
    digest: str,
    parts: partition.Parts,
    config: Config,
    dtype: torch.dtype,
    device: torch.device,
) -> Unfinished:
    """Of this very evaluation: another one, by other flags perhaps, has a folder of its own."""
    data = dataclasses.replace(config.data, threads=0)
    lists = (config.evaluate.semi_1_list, config.evaluate.semi_10_list)
    settings: Json = {
        "weights_sha256": digest,
        "images_sha256": parts.digest(),
        "lists": [durable.size_and_digest(Path(path))[1] if path else "" for path in lists],
        "data": dataclasses.asdict(data),
        "evaluate": dataclasses.asdict(config.evaluate),
        "model": dataclasses.asdict(config.model),
        "seed": config.train.seed,
        "precision": str(dtype),
        "processes": world_size(),
        "device": device.type,
        "versions": {"barlow": __version__, "torch": torch.__version__},
    }
    name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return Unfinished(out.with_name(f"{out.name}.{name}"), settings, worth_s=_WORTH_S)


def _describe_data(parts: partition.Parts) -> Json:
    """Where the images come from and how many there are."""
    if isinstance(parts, Index):
        return {"source": _absolute(parts), "images": len(parts), "labelled": False}
    told = {
        "train": _absolute(parts.train),
        "test": _absolute(parts.test),
        "partition": parts.how,
        "train_images": len(parts.train),
        "test_images": len(parts.test),
        "num_classes": len(parts.class_names),
        "labelled": True,
    }
    if isinstance(parts, Partition):
        counts_C = torch.bincount(parts.test_labels_M, minlength=len(parts.class_names))
        share = 100 * counts_C.max().item() / len(parts.test)
        told["majority_class_percent"] = accuracy.rounded(share)
    return told


def _absolute(index: Index) -> str:
    # The report is written from another folder perhaps, and looks for the test images by this.
    return str(Path(index.source).absolute())
