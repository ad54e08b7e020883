"""Here: a trained backbone as a file for others, its model card, and the proof that the file works.

Not here: what the formats are (a file each), training checkpoints (train/), reading weights (model/).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from barlow import durable
from barlow.config import TIMM, DataConfig
from barlow.data import DataError, Loader, open_index, views
from barlow.data.device import normalise
from barlow.evaluate.features import digest
from barlow.export import origin
from barlow.export.card import card as card_of
from barlow.export.card import card_file, format_of, written_by
from barlow.export.detectron2_file import DETECTRON2
from barlow.export.format import Features, Format, Source
from barlow.export.onnx_file import ONNX
from barlow.export.origin import Origin
from barlow.export.safetensors_file import SAFETENSORS
from barlow.export.timm_file import TIMM_FILE
from barlow.export.torchvision_file import TORCHVISION
from barlow.model import weights
from barlow.model.foreign import described
from barlow.terminal import short

FormatName = Literal["torchvision", "timm", "safetensors", "onnx", "detectron2"]
FORMATS: dict[str, Format] = {
    "torchvision": TORCHVISION,
    "timm": TIMM_FILE,
    "safetensors": SAFETENSORS,
    "onnx": ONNX,
    "detectron2": DETECTRON2,
}
assert tuple(FORMATS) == get_args(FormatName)

_NUM_CHECKED = 8


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


def export(
    target: str | Path,
    out: str | Path,
    format: FormatName = "torchvision",
    *,
    licence: str = "",
    overwrite: bool = False,
) -> Exported:
    """Writes the backbone of a run (or of a weights file) and a model card beside it, and checks the file.

    `out` is a folder, or a name with the format's ending. torchvision, timm: safetensors files that load
    strictly into that library's network without classifier. safetensors: any backbone, for this package. All
    three have metadata by which `barlow.model.load_backbone` rebuilds the network. onnx: a graph of images to
    features. detectron2: weights for its checkpointer. `ValueError` for a backbone that the format can't
    hold, with one that can, and, unless `overwrite`, for a file that is there and that no earlier export to
    this format wrote. `licence`: what the card, OUT.md, says of it. Prints where the file is and how to load
    it.

    The file is loaded back, by the library that it is for, and must give the same features as the run on real
    images of its data (or on noise, where those are gone); otherwise `RuntimeError` is raised, and what was
    there before stays.
    """
    if format not in FORMATS:
        raise ValueError(f"--format must be one of {', '.join(FORMATS)}, not {format}")
    form, target, out = FORMATS[format], Path(target), Path(out)
    source = weights.weights_file(target)  # of a run that goes on training: what is newest now
    backbone, model, run = weights.load_backbone(source)
    form.refuse(model)
    data = described(model, run).data
    file = _file(out, format, model.backbone)
    card = card_file(file)
    if file.exists() and file.samefile(source):
        raise ValueError(f"{file} is what is to be exported: choose another OUT")
    if not overwrite:
        _check_replaceable(file, format)
    content = form.encode(Source(backbone, model, run, data.image_size))
    # Before the first write: no weights without their card.
    about = f"{len(content) / 1e6:.1f} MB, {backbone.num_features} features per image. {form.promise}"
    about = f"{about} {written_by(format)}"
    recipe = form.recipe(model, file.name)
    came = origin.of(source, run)
    card_text = card_of(target, digest(backbone), file.name, about, model, came, data, recipe, licence)
    # Under its name only when it is proven: what an earlier export left there stays until then.
    durable.remove_leftovers(file.parent, of=(file.name, card.name))
    draft = durable.begin_folder(file) / file.name
    try:
        with durable.naming(file):
            durable.write_file(draft, content)
        images_N3HW, checked_on = _images(came, data)
        difference = _compare(backbone, form.load(draft, model), images_N3HW, form.tolerance)
        durable.write_file(card, card_text)
        durable.move_file(draft, file)
    finally:
        shutil.rmtree(draft.parent, ignore_errors=True)
    recipe = form.recipe(model, str(file))
    if came.unfinished:
        print(f"the weights are those {came.position}: the training is unfinished")
    print(f"wrote {file} and {card}; same features as the run on {checked_on}. To load it:\n\n{recipe}")
    return Exported(file, card, checked_on, difference, recipe)


def _file(out: Path, format: FormatName, backbone: str) -> Path:
    """The file that OUT means; `ValueError` if it ends like one of another format."""
    suffix = FORMATS[format].suffix
    if out.suffix == suffix:
        return out
    if out.suffix in {*weights.ARCHIVES, *(other.suffix for other in FORMATS.values())} and not out.is_dir():
        raise ValueError(f"--format {format} makes a {suffix} file, not {out.name}")
    return out / f"{backbone.removeprefix(TIMM)}{suffix}"


def _check_replaceable(file: Path, format: FormatName) -> None:
    """`ValueError` if the file is anything but what an earlier export to this format wrote.

    torchvision, timm and safetensors have one ending: whoever exports to two of them into one folder has one
    file, and would have one card, by the last.
    """
    if not file.exists() or (before := format_of(file)) == format:
        return
    by = f"by --format {before}" if before else f"and no {card_file(file).name} says what it is"
    another = file.with_name(f"{file.stem}-{format}{file.suffix}")
    raise ValueError(f"{file} is there already, {by}: --overwrite replaces it, or name a file: {another}")


def _images(came: Origin, data: DataConfig) -> tuple[Tensor, str]:
    """A few normalised images [N, 3, S, S] of the run's data, or noise where they cannot be read."""
    (view,) = views.evaluation(size=data.image_size, resize=data.eval_resize)
    try:
        run = came.record
        index = open_index(run["data"])
        with Loader(
            index, views=[view], batch_size=min(_NUM_CHECKED, len(index)), shuffle=False, epochs=1, threads=1
        ) as loader:
            batch = next(iter(loader))
        return normalise(
            batch.views[0], data.mean, data.std
        ), f"{len(batch.ids)} images of {short(run['data'])}"
    except (OSError, ValueError, KeyError, TypeError, DataError):
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(_NUM_CHECKED, 3, data.image_size, data.image_size, generator=generator)
        return noise, f"{_NUM_CHECKED} images of noise (the data of the run are not there)"


@torch.no_grad()
def _compare(own: Features, exported: Features, images_N3HW: Tensor, tolerance: float) -> float:
    """The largest difference between the features of the two networks; `RuntimeError` if it matters."""
    expected_NF, found_NF = own(images_N3HW), exported(images_N3HW)
    if found_NF.shape != expected_NF.shape:
        raise RuntimeError(
            f"the exported file gives {list(found_NF.shape)} features, not {list(expected_NF.shape)}"
        )
    difference = (expected_NF - found_NF).abs().max().item()
    # Written so that a NaN counts as different.
    if not difference <= tolerance * max(1.0, expected_NF.abs().max().item()):
        raise RuntimeError(f"the exported file gives other features: they differ by up to {difference:g}")
    return difference
