"""Here: labelled images by the lists that a benchmark comes with: which ones train, which ones test, as what.

Not here: folders of classes (partition.py), PASCAL VOC (voc.py), lists without labels (labelled.py).

A list is text, an image's name and its class in each line (Places-205's `train_places205.csv`), or COCO's
JSON: `images` with `id` and `file_name`, `annotations` with `image_id` and `category_id` (iNaturalist 2018).
The layouts are those of the unpacked archives, as facebookresearch/vissl (extra_scripts/datasets/
create_inaturalist2018_data_files.py) and open-mmlab/mmselfsup (configs/benchmarks, places205.py) read them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from barlow import durable

_LINE = re.compile(r"(?P<name>.*[^\s,])[\s,]+(?P<label>[^\s,]+)")
_TITLES = {"train_places205.csv": "Places-205", "train2018.json": "iNaturalist-18"}
"""Of the benchmarks that a protocol is named after, by the list of their training images."""


@dataclass(frozen=True)
class Lists:
    """Images and the two lists that divide and label them."""

    images: Path
    train: Path
    test: Path

    @property
    def title(self) -> str:
        """Of the benchmark, as far as the name of the list tells; empty if it doesn't."""
        return _TITLES.get(self.train.name, "")


def find(data: Path) -> Lists | None:
    """Places-205 or iNaturalist 2018 as they are unpacked; None if `data` is neither."""
    splits, torralba = data / "trainvalsplit_places205", Path("data", "vision", "torralba", "deeplearning")
    for images, train, test in (
        (data / torralba / "images256", splits / "train_places205.csv", splits / "val_places205.csv"),
        (data / "images256", splits / "train_places205.csv", splits / "val_places205.csv"),
        (data / "train_val2018", data / "train2018.json", data / "val2018.json"),
    ):
        if images.is_dir() and train.is_file() and test.is_file():
            return Lists(images, train, test)
    return None


@dataclass(frozen=True)
class Entry:
    """One image of a list."""

    place: str
    """Where it stands, for errors."""
    name: str
    label: str


def read(path: Path) -> list[Entry]:
    """The entries of a list, at least one; `OSError`, or a `ValueError` that names file and place."""
    entries = _of_coco(path) if path.suffix == ".json" else _of_lines(path)
    if not entries:
        raise ValueError(f"{path} names no image")
    return entries


def class_names(entries: list[Entry]) -> list[str]:
    """The classes of a list: numbers by their value, then other names by the alphabet."""
    labels = {entry.label for entry in entries}
    return sorted(labels, key=lambda x: (0, int(x), x) if x.isdecimal() else (1, 0, x))


def _of_lines(path: Path) -> list[Entry]:
    entries = []
    for number, line in enumerate(path.read_text("utf-8", "surrogateescape").splitlines(), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise ValueError(f"{place} is no name and class: {ascii(line)[1:-1][:100]}")
        entries.append(Entry(place, found["name"], found["label"]))
    return entries


def _of_coco(path: Path) -> list[Entry]:
    content = durable.read_json(path)
    try:
        name_of = {image["id"]: _text(image["file_name"]) for image in content["images"]}
        pairs = [(each["image_id"], each["category_id"]) for each in content["annotations"]]
        entries = [Entry(f"{path}, image {i}", name_of[i], str(label)) for i, label in pairs]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} has no images with id and file_name and annotations of them: {error!r}"
        ) from None
    if without := len(name_of) - len({i for i, _ in pairs}):
        raise ValueError(f"{path}: {without} images have no class")
    return entries


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no name")
    return value
