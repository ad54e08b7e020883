"""Here: weights to and from safetensors files; finding, strictly loading and describing a trained backbone.

Not here: checkpoints (train/), writing for other libraries (export/), what theirs look like (foreign.py).
"""

from __future__ import annotations

import errno
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from barlow import config as configuration
from barlow import durable
from barlow.config import Config, ModelConfig
from barlow.model.backbone import Backbone, build_backbone
from barlow.model.foreign import read_foreign, recognise

METADATA_KEY = "barlow"
"""Entry of a file's metadata that holds its ModelConfig as JSON."""
RUN_METADATA_KEY = "barlow.config"
"""Entry that holds the Config of the run, so that a file that has left its run keeps its preprocessing."""
_PREFIX = "backbone."
_PROJECTOR = "projector."
_OBJECTIVE = "objective."
_FILE = "model.safetensors"
"""The file of a checkpoint that holds the network."""
ARCHIVES = (".pth", ".pt", ".bin", ".tar", ".ckpt")
"""Endings of files that torch.save writes; what ends otherwise is read as safetensors."""


def encode(
    tensors: Mapping[str, Tensor], model: ModelConfig | None = None, run: Config | None = None
) -> bytes:
    """A safetensors file as bytes; it says how to rebuild the network (`model`) and what made it (`run`).

    Any device and memory layout; no two of the tensors may share memory.
    """
    portable = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {} if model is None else {METADATA_KEY: configuration.to_json(model)}
    if run is not None:
        metadata[RUN_METADATA_KEY] = configuration.to_json(run)
    return save(portable, metadata or None)


def read(path: Path | str) -> tuple[dict[str, Tensor], ModelConfig | None]:
    """The tensors of a safetensors file and the model it describes, if it does; `ValueError`, `OSError`."""
    path = _existing(Path(path))
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            text = (file.metadata() or {}).get(METADATA_KEY)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    try:
        return tensors, None if text is None else configuration.model_from_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: the model in its metadata can't be read: {error}") from error


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    return path


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], source: Path | str) -> None:
    """Copies the tensors into the module; `ValueError` as of `check_fit`."""
    check_fit(module, tensors, source)
    module.load_state_dict(dict(tensors))


def check_fit(module: nn.Module, tensors: Mapping[str, Tensor], source: Path | str) -> None:
    """A `ValueError` lists all tensors that the module misses, doesn't use, or has in another shape."""
    own = module.state_dict()
    faults = {
        "missing": sorted(own.keys() - tensors.keys()),
        "unused": sorted(tensors.keys() - own.keys()),
        "of another shape": [
            f"{name} {list(tensors[name].shape)} for {list(own[name].shape)}"
            for name in sorted(own.keys() & tensors.keys())
            if tensors[name].shape != own[name].shape
        ],
    }
    if any(faults.values()):
        text = "; ".join(f"{what}: {', '.join(names)}" for what, names in faults.items() if names)
        raise ValueError(f"the weights of {source} don't fit the network: {text}")


def load_model(model: nn.Module, path: Path | str) -> None:
    """Loads a checkpoint's `model.safetensors` ("backbone.*" and "projector.*") into the model, strictly.

    What else an objective kept there for training ("objective.*": a predictor, a target network) is left out.
    """
    tensors = read(path)[0]
    load_strictly(model, {n: t for n, t in tensors.items() if not n.startswith(_OBJECTIVE)}, path)


@dataclass(frozen=True)
class Parts:
    """What a file of weights holds."""

    backbone: dict[str, Tensor]
    """By the names that the network has."""
    projector: dict[str, Tensor]
    """The same; empty where the file has none."""
    model: ModelConfig
    run: Config | None
    """The config of the run that made it, if the file knows it."""


def load_backbone(path: Path | str) -> tuple[Backbone, ModelConfig, Config | None]:
    """A trained backbone in evaluation mode, its configuration, and the run's if the file knows it.

    `path` is a run folder (its newest valid checkpoint), a checkpoint folder or a file as of `read_parts`.
    Raises `ValueError` that names them unless every tensor of the backbone is there and every tensor of the
    file is used (but for those of projector and objective, and the classifier of another library's file).
    """
    file = weights_file(Path(path))
    parts = read_parts(file)
    backbone = build_backbone(parts.model)
    load_strictly(backbone, parts.backbone, file)
    return backbone.eval(), parts.model, parts.run


def read_parts(file: Path) -> Parts:
    """The tensors of a file of weights, and what they are of.

    It is a checkpoint's `model.safetensors`, an exported file, or one of torchvision or timm, in safetensors
    or as torch.save writes (.pth, .pt, .bin, .tar). A file that says nothing about its network must be a
    ResNet, which its shapes tell, or one of timm (`foreign.recognise`). `OSError`, `ValueError`.
    """
    named = model = run = None
    if file.suffix == ".onnx":
        raise ValueError(f"{file} is a graph, not weights: give the run, or what --format safetensors wrote")
    if file.suffix in ARCHIVES:
        tensors, named = read_foreign(_existing(file))
    else:
        tensors, model = read(file)
        run = _run_config(file) or _described_run(file)
    projector: dict[str, Tensor] = {}
    if any(name.startswith(_PREFIX) for name in tensors):
        projector = {name: t for name, t in tensors.items() if name.startswith(_PROJECTOR)}
        tensors = {
            name.removeprefix(_PREFIX): tensor
            for name, tensor in tensors.items()
            if not name.startswith((_PROJECTOR, _OBJECTIVE))
        }
    model = model or (run.model if run else None)
    if model is None:
        model, tensors = recognise(tensors, file, named)
    return Parts(tensors, {n.removeprefix(_PROJECTOR): t for n, t in projector.items()}, model, run)


def weights_file(path: Path) -> Path:
    """The safetensors file that a run folder (by its newest valid checkpoint), a checkpoint or a file means.

    `ValueError` if a folder is neither, is damaged, or has no valid checkpoint.
    """
    if not path.is_dir():
        return path
    if (path / durable.MANIFEST).is_file():
        durable.verify_folder(path, (_FILE,))
        return path / _FILE
    if not (path / "config.json").is_file():
        raise ValueError(f"{path} is neither a run folder nor a checkpoint")
    checkpoint = durable.newest_valid(path / "checkpoints", "step-*", (_FILE,))
    if checkpoint is None:
        raise ValueError(f"the run {path} has no valid checkpoint")
    return checkpoint / _FILE


def step_of(file: Path) -> int | None:
    """The step of the run after which its weights were those of the file; None if that is no checkpoint."""
    found = re.fullmatch(r"step-(\d+)", file.absolute().parent.name)
    return int(found[1]) if found else None


def _run_config(file: Path) -> Config | None:
    """The config of the run that the file is a checkpoint of: RUN/checkpoints/step-x/model.safetensors."""
    folders = file.resolve().parents
    if len(folders) < 3 or folders[1].name != "checkpoints" or not (folders[2] / "config.json").is_file():
        return None
    return configuration.load(folders[2] / "config.json")


def _described_run(file: Path) -> Config | None:
    """The config in the file's metadata. Weights outlive versions: one that has aged is left out."""
    with safe_open(file, framework="pt") as opened:
        text = (opened.metadata() or {}).get(RUN_METADATA_KEY)
    try:
        return None if text is None else configuration.from_json(text)
    except ValueError as error:
        warnings.warn(f"{file}: the run in its metadata can't be read and is left out: {error}", stacklevel=3)
        return None
