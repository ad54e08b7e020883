"""Here: the model card: what a file is, how to load it, what goes in, where it comes from, how good it is.

Not here: writing it (write.py), measuring anything.
"""

from __future__ import annotations

import re
from pathlib import Path

from barlow.config import TIMM, Config, DataConfig, ModelConfig
from barlow.evaluate.evaluation import beside
from barlow.evaluate.result import read as read_evaluation
from barlow.evaluate.scores import ROWS, legend, scores
from barlow.export.origin import Origin, told_by
from barlow.terminal import end_of

_NO_LICENCE = "Not stated: it depends on the images, and only who trained this knows theirs."


def card(
    target: Path,
    weights_sha256: str,
    title: str,
    about: str,
    model: ModelConfig,
    origin: Origin,
    data: DataConfig,
    recipe: str,
    licence: str,
) -> str:
    """The card as Markdown. `about` says what the file is, `data` which images it takes. No `licence`: "".

    Results are those of `barlow eval` beside `target`, if they are of the weights with this digest.
    """
    parts = [
        f"# {title}",
        f"{_network(model)}{_training(origin.run)} {about} The projector is not included.",
        "## Loading",
        f"```python\n{recipe}```",
        *_preprocessing(data),
        *_origin(origin),
        *_results(target, weights_sha256),
        f"## Licence\n\n{licence or _NO_LICENCE}",
    ]
    return "\n\n".join(parts) + "\n"


def written_by(format: str) -> str:
    """The sentence of a card that says by what its file came about."""
    return f"It was written by `barlow export --format {format}`."


def format_of(file: Path) -> str | None:
    """By which format the card beside a file says that it came about; None: there is none that says so."""
    try:
        text = card_file(file).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    found = re.search(re.escape(written_by("#")).replace(r"\#", r"(\w+)"), text)
    return found and found[1]


def card_file(file: Path) -> Path:
    """The card of a file, and of no other: files of one stem and several formats may lie side by side."""
    return file.with_name(f"{file.name}.md")


def _network(model: ModelConfig) -> str:
    if model.backbone.startswith(TIMM):
        size = f" for images of {model.image_size} pixels" if model.image_size else ""
        return f"timm's {model.backbone.removeprefix(TIMM)}{size}"
    stem = "3x3 stride 1, no pooling" if model.stem == "cifar" else "7x7 stride 2, max-pooling"
    return f"A {model.backbone} (width {model.width}, stem {stem})"


def _training(run: Config | None) -> str:
    if run is None:
        return " from a file that does not say how it was trained, written by barlow."
    if run.objective.name == "barlow_twins":
        return " trained without labels by Barlow Twins (Zbontar et al., ICML 2021) with barlow."
    return f" trained without labels by the objective {run.objective.name} with barlow."


def _preprocessing(data: DataConfig) -> list[str]:
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


def _origin(origin: Origin) -> list[str]:
    if (run := origin.run) is None:
        return []
    record, optim, objective = origin.record, run.optim, run.objective
    loss = (
        f"lambda {objective.lambd:g}" if objective.name == "barlow_twins" else f"objective {objective.name}"
    )
    rates = "AdamW" if optim.optimizer == "adamw" else optim.variant.upper()
    lines = [
        f"- weights: {_progress(origin)}",
        f"- recipe: {optim.epochs} epochs, batches of {optim.batch_size}, {rates}, {loss}, "
        f"projector {'-'.join(map(str, run.model.projector))}, seed {run.train.seed}",
    ]
    if isinstance(record.get("num_samples"), int):
        lines.insert(0, f"- data: {record['num_samples']:,} images of {end_of(str(record.get('data')))}")
    if record.get("preset"):
        lines.append(f"- preset: {record['preset']}")
    if isinstance(record.get("imported"), dict):
        lines.append(
            f"- begun by the official code, whose file had the SHA-256 {record['imported'].get('sha256')}"
        )
    return ["## Training", "\n".join(lines)]


def _progress(origin: Origin) -> str:
    """How much of the recipe the weights have behind them: it alone would claim all of it."""
    if not (told := origin.position):
        return "how much of the recipe they have behind them is not recorded"
    return f"{told}; **the training is unfinished**" if origin.unfinished else told


def _results(target: Path, weights_sha256: str) -> list[str]:
    result = told_by(beside(target, "eval.json"), read_evaluation)
    # A run that was trained on since has better weights than those that were evaluated, and other ones.
    if not (found := scores(result)) or result.get("weights_sha256") != weights_sha256:
        return []
    columns = {name: key for name, key in ROWS.items() if key is None or result.get(key)}
    rows = [
        f"| percent | {' | '.join(['this backbone', *list(columns)[1:]])} |",
        "|---" * (1 + len(columns)) + "|",
        *(
            f"| {score.words} | " + " | ".join(score.text(key) for key in columns.values()) + " |"
            for score in found
        ),
    ]
    data = result["data"]
    told = f"Of {data['test_images']:,} test images of {data['num_classes']} classes, by barlow eval."
    notes = [f"- {note}" for note in result["protocol"]["deviations"]]
    differs = ["It differs from the published protocols:", "\n".join(notes)] if notes else []
    return ["## Results", f"{told} {legend(found)}".strip(), "\n".join(rows), *differs]
