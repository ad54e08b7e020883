"""Here: a run folder of ours made of an official file: weights, momentum in our units, where they came from.

Not here: reading the file (checkpoint.py), flags (flags.py), training.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from barlow import __version__, durable
from barlow.config import Config, ModelConfig, OptimConfig, to_json
from barlow.data import Index, open_index
from barlow.model import Twins, build_backbone, build_model, weights
from barlow.official.checkpoint import Checkpoint, Optimizer, read
from barlow.official.flags import PAPERS_PROCESSES, Translation, translate
from barlow.optim import LARS, learning_rate, parameter_groups
from barlow.train.checkpoint import CHECKPOINTS, save_checkpoint
from barlow.train.launch import CONFIG_FILE, IMPORTED, RUN_FILE
from barlow.train.lock import FILE_NAME as LOCK_FILE
from barlow.train.lock import alone
from barlow.validation import validate, validate_ranges

_RATE_TOLERANCE = 1e-6
_BACKBONE_ALONE = "it was imported from a backbone alone, without projector and optimizer"
_NO_DATA = "it was imported without its data: import it again with --data"


@dataclass(frozen=True)
class Imported:
    """What `import_run` made."""

    run: Path
    rows: list[tuple[str, str]]
    """(what the official run had, what it is here)."""
    cannot_train: str | None
    """Why `barlow train` can't go on with it; None if it can."""


def import_run(
    source: Path, run: Path, *, data: Path | None = None, flags: str = "", processes: int = PAPERS_PROCESSES
) -> Imported:
    """Makes the run folder `run` of an official `checkpoint.pth` or `resnet50.pth`.

    `barlow eval`, `export` and `report` take the folder as any other. `barlow train` goes on with it, at the
    start of the epoch after the file's, if `data` says on which images: order and augmentations are then
    those of this package, weights, momentum, schedule and loss those of the official run. A backbone alone
    can't be trained further.

    `flags` and `processes` are those of the official run, see `translate`. Without --projector and
    --weight-decay they are what the file says; flags that contradict it (the projector's sizes, the decay,
    the learning rates of the last step) are a `ValueError`, like every tensor that is missing, unknown, of
    another shape or not finite. `run` must be new or empty.
    """
    run = Path(run).absolute()
    if run.exists() and (not run.is_dir() or any(path.name != LOCK_FILE for path in run.iterdir())):
        raise ValueError(f"{run} is not a new or empty folder")
    found = read(Path(source))
    translation = translate(flags, processes=processes)
    config = _config(found, translation, source)
    rows = [*translation.rows, *_corrections(translation.config, config)]
    validate_ranges(config)
    _check_fit(found, config, source)
    index = None if data is None else open_index(data)
    if index and found.epoch is not None:
        validate(config, num_samples=len(index), world_size=1)
    write = (_backbone if found.epoch is None else _whole)(found, config, translation.loss_scale, source)
    cannot_train = _BACKBONE_ALONE if found.epoch is None else None if index else _NO_DATA
    with alone(run):
        write(run, index)
        record = _record(found, source, translation, config, data, index, cannot_train)
        durable.write_file(run / RUN_FILE, json.dumps(record, indent=2) + "\n")
        durable.write_file(run / CONFIG_FILE, to_json(config))  # last: without it the folder is no run
    return Imported(run, rows, cannot_train)


def _config(found: Checkpoint, translation: Translation, source: Path) -> Config:
    """The flags' config with what the file knows better. `ValueError` where they contradict each other."""
    config, given = translation.config, translation.given
    if found.epoch is None:
        model = replace(found.model, projector=config.model.projector)
        return replace(config, model=model)
    if "projector" in given and found.model.projector != config.model.projector:
        raise ValueError(
            f"{source} has a projector of {_sizes(found.model)}, --projector says {_sizes(config.model)}"
        )
    if found.epoch > config.optim.epochs:
        raise ValueError(
            f"{source} has {found.epoch} epochs behind it, --epochs allows {config.optim.epochs}"
        )
    assert found.optimizer is not None
    optimizer, optim = found.optimizer, config.optim
    decay = optimizer.weight_decay / translation.loss_scale
    if "weight-decay" in given and not _close(decay, optim.weight_decay):
        raise ValueError(
            f"{source} was trained with --weight-decay {optimizer.weight_decay:g}, the flags say "
            f"{optim.weight_decay * translation.loss_scale:g}"
        )
    if not _close(decay, optim.weight_decay):
        optim = replace(optim, weight_decay=decay)
    optim = replace(optim, momentum=optimizer.momentum, trust_coefficient=optimizer.eta)
    _check_rates(found, optimizer, optim, translation.loss_scale, source)
    return replace(config, model=found.model, optim=optim)


def _check_fit(found: Checkpoint, config: Config, source: Path) -> None:
    """`ValueError` unless every tensor fits the network, seen without its memory: one wide tensor among small
    ones describes a network that no machine holds."""
    with torch.device("meta"):
        if found.epoch is None:
            blank = nn.ModuleDict({"backbone": build_backbone(config.model)})
        else:
            blank = build_model(config.model, config.train.seed)
    weights.check_fit(blank, found.tensors, source)


def _check_rates(
    found: Checkpoint, optimizer: Optimizer, optim: OptimConfig, loss_scale: float, source: Path
) -> None:
    """The learning rates that the file remembers of its last step must be those of the flags."""
    steps_per_epoch = found.steps_per_epoch
    if steps_per_epoch is None or found.epoch is None:
        raise ValueError(
            f"{source}: its batch norms have not seen a whole number of steps in each of {found.epoch} epochs"
        )
    ratio = learning_rate(found.epoch * steps_per_epoch - 1, optim, steps_per_epoch) * optim.batch_size / 256
    expected = ratio * optim.lr_weights, ratio * optim.lr_biases / loss_scale
    for what, remembered, computed in zip(("weights", "biases"), optimizer.lr, expected, strict=True):
        if not _close(remembered, computed):
            raise ValueError(
                f"{source}: the last step's learning rate of {what} was {remembered:.6g}, and by the flags "
                f"{computed:.6g}: --epochs, --batch-size or the learning rate was another one"
            )


def _corrections(flags: Config, config: Config) -> list[tuple[str, str]]:
    """What the file said in place of defaults."""
    before, after = dataclasses.asdict(flags), dataclasses.asdict(config)
    return [
        (f"{section}.{name} of the file", f"{section}.{name} {_text(value)}")
        for section in ("model", "optim")
        for name, value in after[section].items()
        if value != before[section][name]
    ]


_Write = Callable[[Path, Index | None], None]


def _backbone(found: Checkpoint, config: Config, loss_scale: float, source: Path) -> _Write:
    """Writes a checkpoint that holds nothing but the backbone."""
    content = weights.encode(found.tensors)
    folder = Path(CHECKPOINTS) / "step-00000000"
    return lambda run, index: durable.write_folder(run / folder, {"model.safetensors": content})


def _whole(found: Checkpoint, config: Config, loss_scale: float, source: Path) -> _Write:
    """Writes a checkpoint as training would, of tensors that fit."""
    twins = build_model(config.model, config.train.seed)
    weights.load_strictly(twins, found.tensors, source)
    optimizer = LARS(parameter_groups(twins), lr=0.0)
    momenta = _momenta(found, twins, config.optim.reference_world_size / loss_scale)
    for name, parameter in twins.named_parameters():
        optimizer.state[parameter]["mu"] = momenta[name]
    state = {
        "loader": {"epoch": found.epoch, "step": 0},
        "scaler": {},  # the official code saves none, either
        "time_s": 0.0,
        "config": dataclasses.asdict(config),
    }

    def write(run: Path, index: Index | None) -> None:
        # Where the images are not known there will be no next step, and the official number is as good.
        steps_per_epoch = len(index) // config.optim.batch_size if index else found.steps_per_epoch
        assert found.epoch is not None
        assert steps_per_epoch is not None
        step = found.epoch * steps_per_epoch
        save_checkpoint(run / CHECKPOINTS, step, twins, optimizer, state, config.checkpoint.keep)

    return write


def _momenta(found: Checkpoint, twins: Twins, factor: float) -> dict[str, Tensor]:
    """The momentum of each parameter, as exact gradients would have left it.

    A weight's update has a norm that LARS gives it, whatever the gradient's scale: its momentum stays. That
    of a one-dimensional parameter is a sum of gradients of s / W of the true size: it is times W / s.
    """
    assert found.optimizer is not None
    parameters = dict(twins.named_parameters())
    if [name for name in found.tensors if name in parameters] != list(parameters):
        raise ValueError("the parameters of the file are in another order: its momentum can't be told apart")
    weights_, others = (
        [n for n, p in parameters.items() if (p.ndim > 1) == adapt] for adapt in (True, False)
    )
    groups = [weights_, others] if len(found.optimizer.groups) == 2 else [list(parameters)]
    if [len(group) for group in groups] != found.optimizer.groups:
        raise ValueError(f"the optimizer's groups have {found.optimizer.groups} parameters, not "
                         f"{[len(group) for group in groups]}")  # fmt: skip
    momenta = dict(zip((n for group in groups for n in group), found.optimizer.momenta, strict=True))
    for name, momentum in momenta.items():
        if momentum.shape != parameters[name].shape:
            raise ValueError(
                f"the momentum of {name} is {list(momentum.shape)}, not {list(parameters[name].shape)}"
            )
    return {name: mu * factor if mu.ndim == 1 else mu for name, mu in momenta.items()}


def _record(
    found: Checkpoint, source: Path, translation: Translation, config: Config, data: Path | None,
    index: Index | None, cannot_train: str | None,
) -> dict[str, Any]:  # fmt: skip
    """run.json. Who goes on with the run keeps the last entry."""
    return {
        "data": None if data is None else str(Path(data).absolute()),
        "num_samples": None if index is None else len(index),
        "index_digest": None if index is None else index.digest(),
        "preset": None,
        "world_size": config.optim.reference_world_size,
        "device": None,
        "started_s": time.time(),
        "versions": {"barlow": __version__, "torch": metadata.version("torch")},
        IMPORTED: {
            "file": str(Path(source).absolute()),
            "bytes": found.num_bytes,
            "sha256": found.sha256,
            "epochs": found.epoch,
            "steps_per_epoch": found.steps_per_epoch,
            "became": dict(translation.rows),
            "cannot_train": cannot_train,
        },
    }


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= _RATE_TOLERANCE * max(abs(a), abs(b))


def _sizes(model: ModelConfig) -> str:
    return "-".join(map(str, model.projector))


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
