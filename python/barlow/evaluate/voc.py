"""Here: PASCAL VOC as it is unpacked: which images train and test, and the classes that each one shows.

Not here: boxes and masks; data with one class for each image (partition.py).

Layout (the VOC development kit): VOC2007/JPEGImages/*.jpg, and in VOC2007/ImageSets/Main for each class and
set a file such as `aeroplane_trainval.txt` with lines of a name and 1 (there), -1 (not there) or 0 (there,
but difficult to see).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from barlow.data import Index, open_index

TRAIN, TEST = "trainval", "test"
_SETS, _IMAGES = Path("ImageSets", "Main"), "JPEGImages"


@dataclass(frozen=True)
class MultiLabel:
    """Training and test images of which each shows any number of classes."""

    train: Index
    test: Index
    train_targets_NC: Tensor
    """int8: 1 there, -1 not there, 0 there but difficult."""
    test_targets_MC: Tensor
    class_names: list[str]
    how: str
    """Where the two parts come from, in words."""

    def digest(self) -> str:
        """Identifies images and labels: SHA-256 in hexadecimal digits."""
        return digest_of(self.train, self.test, self.train_targets_NC, self.test_targets_MC)


def digest_of(train: Index, test: Index, *labels: Tensor) -> str:
    """SHA-256 of the images' digests and of their labels, in hexadecimal digits."""
    hasher = hashlib.sha256(f"{train.digest()} {test.digest()}".encode())
    for each in labels:
        hasher.update(each.contiguous().numpy().tobytes())
    return hasher.hexdigest()


def find(path: Path) -> Path | None:
    """The folder with ImageSets/Main that `path` is or holds (VOCdevkit/VOC2007); None: it is no VOC data.

    `ValueError` if there are several years and nothing says which one.
    """
    if (path / _SETS).is_dir():
        return path
    years = sorted(year for year in path.glob("VOC*") if (year / _SETS).is_dir()) if path.is_dir() else []
    if len(years) > 1:
        raise ValueError(f"{path} holds {', '.join(year.name for year in years)}: name one of them")
    return years[0] if years else None


def load(data: Path, held_out: Path | None) -> MultiLabel:
    """The trainval images of one folder, and the test images of it or of another, as `find` gives them.

    `ValueError`: a set is missing or empty, a line is none of the format, the classes differ, an image is not
    there. `DataError`: an image can't be opened.
    """
    tested = held_out or data
    train, train_names, train_targets_NC = _read(data, TRAIN)
    test, test_names, test_targets_MC = _read(tested, TEST)
    if train_names != test_names:
        raise ValueError(f"{data} and {tested} have different classes")
    how = f"the probes train on the {TRAIN} images of {data} and are tested on the {TEST} images of {tested}"
    return MultiLabel(train, test, train_targets_NC, test_targets_MC, train_names, how)


def _read(folder: Path, part: str) -> tuple[Index, list[str], Tensor]:
    files = sorted((folder / _SETS).glob(f"*_{part}.txt"))
    if not files:
        raise ValueError(f"{folder / _SETS} has no CLASS_{part}.txt")
    columns = [_column(file) for file in files]
    images = sorted(columns[0])
    for file, column in zip(files, columns, strict=True):
        if sorted(column) != images:
            raise ValueError(f"{file} lists other images than {files[0]}")
    index = open_index(folder / _IMAGES)
    position = {Path(index.name(i)).stem: i for i in range(len(index))}
    missing = [name for name in images if name not in position]
    if missing:
        raise ValueError(f"{folder / _IMAGES} lacks {len(missing)} images of {part}, such as {missing[0]}")
    targets_NC = torch.tensor([[column[name] for column in columns] for name in images], dtype=torch.int8)
    ids = np.array([position[name] for name in images], dtype=np.uint32)
    return index.subset(ids), [file.stem.removesuffix(f"_{part}") for file in files], targets_NC


def _column(file: Path) -> dict[str, int]:
    """Name of an image -> 1, 0 or -1."""
    column: dict[str, int] = {}
    for number, line in enumerate(file.read_text().splitlines(), 1):
        words = line.split()
        if len(words) != 2 or words[1] not in ("1", "0", "-1") or words[0] in column:
            raise ValueError(f"{file}, line {number}: not a name and 1, 0 or -1: {line!r}")
        column[words[0]] = int(words[1])
    if not column:
        raise ValueError(f"{file} is empty")
    return column
