"""Here: a trained backbone as a file for others, its model card, and the proof that it still works.

Not here: training checkpoints (train/), our own reading of weights (model/weights.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

from barlow import durable
from barlow.config import Config, DataConfig, ModelConfig
from barlow.data import DataError, Loader, open_index, views
from barlow.data.device import normalise
from barlow.evaluate.result import read as read_evaluation
from barlow.model import ResNet, weights

Format = Literal["torchvision", "safetensors"]

_NUM_CHECKED = 8
_TOLERANCE = 1e-5
"""Largest difference of a feature, relative to the largest feature: other kernels may round otherwise."""
_WIDTH_OF_TORCHVISION = 64


@dataclass(frozen=True)
class Exported:
    """What `export` wrote."""

    weights: Path
    card: Path
    checked_on: str
    """The images on which the features of the written file and of the run were compared."""
    largest_difference: float
    """Of any feature."""
    recipe: str
    """Python that loads the file."""


def export(target: str | Path, out: str | Path, format: Format = "torchvision") -> Exported:
    """Writes the backbone of a run (or of a weights file) and a model card beside it, and checks the file.

    `out` is a folder, or a name that ends in `.safetensors`. Both formats are safetensors files whose
    keys are torchvision's and whose metadata let `barlow.model.load_backbone` rebuild the network:
    `torchvision` promises that it loads strictly into `torchvision.models.resnet*` with `fc` replaced by
    an Identity (`ValueError` for a width other than 64, which torchvision has not); `safetensors` makes
    no such promise and holds any of our backbones. Prints where the file is and how to load it.

    The file is loaded back and must give the same features as the run on real images of its data (or on
    noise, where those are gone); otherwise it is removed and `RuntimeError` raised.
    """
    if format not in ("torchvision", "safetensors"):
        raise ValueError(f"--format must be torchvision or safetensors, not {format}")
    target, out = Path(target), Path(out)
    backbone, model, config = weights.load_backbone(target)
    if format == "torchvision":
        _refuse_strange_width(model)
    file = out if out.suffix == ".safetensors" else out / f"{model.backbone}.safetensors"
    card = file.with_name(f"{file.stem}.md")
    recipe_for = (lambda name: torchvision_recipe(model, name)) if format == "torchvision" else barlow_recipe
    content = weights.encode(backbone.state_dict(), model, config)
    # Before the first write: no weights without their card.
    card_text = _card(target, file.stem, len(content), model, config, recipe_for(file.name))
    durable.write_file(file, content)
    load = (lambda: load_torchvision(file, model)) if format == "torchvision" else (lambda: _load_own(file))
    images_N3HW, origin = _images(target, config)
    try:
        difference = _compare(backbone, load, images_N3HW)
        durable.write_file(card, card_text)
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    recipe = recipe_for(str(file))
    print(f"wrote {file} and {card}; same features as the run on {origin}. To load it:\n\n{recipe}")
    return Exported(file, card, origin, difference, recipe)


def load_torchvision(file: Path, model: ModelConfig) -> nn.Module:
    """What `torchvision_recipe` says, done: torchvision's network with these weights, in evaluation mode."""
    build = getattr(torchvision.models, model.backbone, None)
    network = (
        build() if build else torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
    )
    if model.stem == "cifar":
        network.conv1 = nn.Conv2d(3, model.width, kernel_size=3, padding=1, bias=False)
        network.add_module("maxpool", nn.Identity())
    network.add_module("fc", nn.Identity())
    network.load_state_dict(load_file(file))
    return network.eval()


def torchvision_recipe(model: ModelConfig, file_name: str) -> str:
    """Python that loads the exported file into torchvision's network."""
    build = f"torchvision.models.{model.backbone}()"
    if model.backbone == "resnet10":
        build = "torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])"
    lines = [
        "import torch",
        "import torchvision",
        "from safetensors.torch import load_file",
        "",
        f"network = {build}",
    ]
    if model.stem == "cifar":
        lines += [
            f"network.conv1 = torch.nn.Conv2d(3, {model.width}, kernel_size=3, padding=1, bias=False)",
            "network.maxpool = torch.nn.Identity()",
        ]
    lines += [
        "network.fc = torch.nn.Identity()",
        f'network.load_state_dict(load_file("{file_name}"))',
        "network.eval()",
    ]
    return "\n".join(lines) + "\n"


def barlow_recipe(file_name: str) -> str:
    """Python that loads the exported file with this package."""
    return f'from barlow.model import load_backbone\n\nnetwork, model, _ = load_backbone("{file_name}")\n'


def _refuse_strange_width(model: ModelConfig) -> None:
    if model.width != _WIDTH_OF_TORCHVISION:
        raise ValueError(
            f"torchvision's ResNets begin with 64 channels and this backbone with {model.width}, so none of "
            "them can hold it: use --format safetensors"
        )


def _load_own(file: Path) -> nn.Module:
    return weights.load_backbone(file)[0]


def _images(target: Path, config: Config | None) -> tuple[Tensor, str]:
    """A few normalised images [N, 3, S, S] of the run's data, or noise where they cannot be read."""
    data = config.data if config else DataConfig()
    (view,) = views.evaluation(size=data.image_size, resize=data.eval_resize)
    try:
        run = durable.read_json(target / "run.json")
        index = open_index(run["data"])
        with Loader(
            index, views=[view], batch_size=min(_NUM_CHECKED, len(index)), shuffle=False, epochs=1, threads=1
        ) as loader:
            batch = next(iter(loader))
        return normalise(batch.views[0], data.mean, data.std), f"{len(batch.ids)} images of {run['data']}"
    except (OSError, ValueError, KeyError, TypeError, DataError):
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(_NUM_CHECKED, 3, data.image_size, data.image_size, generator=generator)
        return noise, f"{_NUM_CHECKED} images of noise (the data of the run are not there)"


@torch.no_grad()
def _compare(backbone: ResNet, load: Callable[[], nn.Module], images_N3HW: Tensor) -> float:
    """The largest difference between the features of the two networks; `RuntimeError` if it matters."""
    expected_NF, found_NF = backbone.eval()(images_N3HW), load()(images_N3HW)
    difference = (expected_NF - found_NF).abs().max().item()
    allowed = _TOLERANCE * max(1.0, expected_NF.abs().max().item())
    # Written so that a NaN counts as different.
    if not difference <= allowed:
        raise RuntimeError(f"the exported file gives other features: they differ by up to {difference:g}")
    return difference


def _card(
    target: Path, title: str, num_bytes: int, model: ModelConfig, config: Config | None, recipe: str
) -> str:
    """The model card: what the file is, how to load it, what goes in, where it comes from, how good it is."""
    stem = "3x3 stride 1, no pooling" if model.stem == "cifar" else "7x7 stride 2, max-pooling"
    features = 8 * model.width * (4 if model.backbone == "resnet50" else 1)
    parts = [
        f"# {title}",
        f"A {model.backbone} (width {model.width}, stem {stem}) trained without labels by Barlow Twins "
        f"(Zbontar et al., ICML 2021) with barlow. {num_bytes / 1e6:.1f} MB, {features} features per image; "
        "the projector is not included.",
        "## Loading",
        f"```python\n{recipe}```",
        *_preprocessing(config),
        *_origin(target, config),
        *_results(target),
        "## Licence\n\nNot stated: it depends on the images, and only who trained this knows theirs.",
    ]
    return "\n\n".join(parts) + "\n"


def _preprocessing(config: Config | None) -> list[str]:
    if config is None:
        return [
            "## Input\n\nThe file did not say which images it was trained on, or how they were normalised."
        ]
    data = config.data
    code = (
        "from torchvision import transforms\n\n"
        "preprocess = transforms.Compose([\n"
        f"    transforms.Resize({data.eval_resize}),\n"
        f"    transforms.CenterCrop({data.image_size}),\n"
        "    transforms.ToTensor(),\n"
        f"    transforms.Normalize(mean={list(data.mean)}, std={list(data.std)}),\n"
        "])\n"
    )
    return ["## Input", f"RGB images, {data.image_size} x {data.image_size} pixels:", f"```python\n{code}```"]


def _origin(target: Path, config: Config | None) -> list[str]:
    if config is None:
        return []
    path = target / "run.json"
    run = durable.read_json(path) if path.exists() else {}
    optim, objective = config.optim, config.objective
    loss = (
        f"lambda {objective.lambd:g}" if objective.name == "barlow_twins" else f"objective {objective.name}"
    )
    lines = [
        f"- recipe: {optim.epochs} epochs, batches of {optim.batch_size}, {loss}, "
        f"projector {'-'.join(map(str, config.model.projector))}, seed {config.train.seed}",
    ]
    if isinstance(run.get("num_samples"), int):
        lines.insert(0, f"- data: {run['num_samples']:,} images of {Path(str(run.get('data'))).name}")
    if run.get("preset"):
        lines.append(f"- preset: {run['preset']}")
    if isinstance(run.get("imported"), dict):
        lines.append(
            f"- begun by the official code, whose file had the SHA-256 {run['imported'].get('sha256')}"
        )
    return ["## Training", "\n".join(lines)]


def _results(target: Path) -> list[str]:
    path = target / "eval.json"
    result = read_evaluation(path) if path.exists() else {}
    if not (result.get("knn") and result.get("linear")):
        return []
    rows = ["| | kNN top-1 | linear top-1 |", "|---|---|---|"]
    for name, row in (
        ("this backbone", result),
        ("the same, untrained", result.get("untrained")),
        ("raw pixels", result.get("raw_pixels")),
    ):
        if row:
            rows.append(f"| {name} | {row['knn']['top1']:.2f} | {row['linear']['top1']:.2f} |")
    data = result["data"]
    told = f"Percent of {data['test_images']:,} test images of {data['num_classes']} classes, by barlow eval."
    return ["## Results", told, "\n".join(rows)]
