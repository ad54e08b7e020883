"""Here: the images of a grid: which ones train, teach the probes and test them, as index files in its folder.

Not here: the split of labelled data into two parts (evaluate/partition.py). No image is copied: an index says
where in the user's shards each one lies.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from barlow.data import Index, open_index
from barlow.evaluate import partition
from barlow.evaluate.names import ticket
from barlow.reproduce.scales import Scale

FOLDER = "images"


@dataclass(frozen=True)
class Images:
    """Folders with an index each, and what is in them together."""

    train: Path
    bank: Path
    test: Path
    counts: dict[str, int]
    num_classes: int
    digest: str
    """Of all three: the same for the same images in the same roles."""


def lay_out(data: Path, held_out: Path | None, scale: Scale, out: Path) -> Images:
    """Writes the indices of a grid in `out`; the same ones each time, so that cells go on with them.

    `ValueError` where the images have no labels: without them nothing can be compared.
    """
    parts = partition.load(data, held_out)
    if isinstance(parts, Index):
        raise ValueError(f"{data} has no labels, so there is nothing to compare the rows by")
    chosen = {
        "train": spread(parts.train, scale.train_images),
        "bank": spread(parts.train, scale.bank_images),
        "test": spread(parts.test, scale.test_images),
    }
    folders = {name: out / FOLDER / name for name in chosen}
    digests = {}
    for name, index in chosen.items():
        digests[name] = index.digest()
        if not _is_there(folders[name], index):
            folders[name].mkdir(parents=True, exist_ok=True)
            index.write(folders[name])
    return Images(
        **folders,
        counts={name: len(index) for name, index in chosen.items()},
        num_classes=len(parts.class_names),
        digest=hashlib.sha256("".join(digests.values()).encode()).hexdigest(),
    )


def _is_there(folder: Path, index: Index) -> bool:
    try:
        found = open_index(folder)
    except (OSError, ValueError):
        return False
    return found.digest() == index.digest() and found.shards() == index.shards()


def spread(index: Index, count: int) -> Index:
    """`count` labelled images, of each class the same share (0: all of them), chosen by a hash of the names.

    Neither the order of the shards nor a seed matters, and fewer images are a part of more. A class gives at
    least one image, so there may be a few more than `count`.
    """
    labels_N = np.asarray(index.labels)
    ids: list[int] = []
    total = int((labels_N >= 0).sum())
    for label in range(len(index.class_names)):
        of_class = np.flatnonzero(labels_N == label).tolist()
        of_class.sort(key=lambda i: (ticket(index, i), i))
        share = round(len(of_class) * count / total) if 0 < count < total else len(of_class)
        ids += of_class[: max(1, share)]
    return index.subset(np.array(sorted(ids), np.uint32))
