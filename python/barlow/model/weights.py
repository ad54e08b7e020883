"""Here: weights to and from safetensors files; finding, strictly loading and describing a trained backbone.

Not here: checkpoints (train/), formats of other libraries (export.py), pickled files.
"""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from barlow import config as configuration
from barlow import durable
from barlow.config import Config, ModelConfig
from barlow.model.backbone import ARCHITECTURES, ResNet, build_backbone

METADATA_KEY = "barlow"
"""Entry of a file's metadata that holds its ModelConfig as JSON."""
RUN_METADATA_KEY = "barlow.config"
"""Entry that holds the Config of the run, so that a file that has left its run keeps its preprocessing."""
_PREFIX = "backbone."
_OBJECTIVE = "objective."
_FILE = "model.safetensors"
"""The file of a checkpoint that holds the network."""


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
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
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


def load_backbone(path: Path | str) -> tuple[ResNet, ModelConfig, Config | None]:
    """A trained backbone in evaluation mode, its configuration, and the run's if the file knows it.

    `path` is a run folder (its newest valid checkpoint), a checkpoint folder, a checkpoint's
    `model.safetensors` or a file of backbone weights with torchvision's names. A file that says nothing about
    its network must be a ResNet-10/18/34/50, which its shapes tell. Raises `ValueError` unless every tensor
    of the backbone is there and every tensor of the file is used (but for those of projector and objective).
    """
    file = weights_file(Path(path))
    tensors, model = read(file)
    run = _run_config(file) or _described_run(file)
    if any(name.startswith(_PREFIX) for name in tensors):
        tensors = {
            name.removeprefix(_PREFIX): tensor
            for name, tensor in tensors.items()
            if not name.startswith(("projector.", _OBJECTIVE))
        }
    model = model or (run.model if run else None) or infer(tensors, file)
    backbone = build_backbone(model)
    load_strictly(backbone, tensors, file)
    return backbone.eval(), model, run


def infer(tensors: Mapping[str, Tensor], source: Path | str) -> ModelConfig:
    """The configuration of a backbone by its weights' names and shapes; `ValueError` if none of ours."""
    blocks = tuple(
        len({name.split(".")[1] for name in tensors if name.startswith(f"layer{stage}.")})
        for stage in range(1, 5)
    )
    bottleneck = "layer1.0.conv3.weight" in tensors
    names = [
        name
        for name, (block, num_blocks) in ARCHITECTURES.items()
        if num_blocks == blocks and (block.expansion > 1) == bottleneck
    ]
    stems = {3: "cifar", 7: "imagenet"}
    stem = tensors.get("conv1.weight")
    if not names or stem is None or stem.dim() != 4 or stem.shape[-1] not in stems:
        raise ValueError(f"{source} holds no ResNet-10/18/34/50 with torchvision's names")
    return replace(ModelConfig(), backbone=names[0], stem=stems[stem.shape[-1]], width=stem.shape[0])


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
