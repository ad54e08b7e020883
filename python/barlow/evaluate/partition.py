"""Here: which labelled images train the probes and which ones test them.

Not here: reading images, computing anything from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from barlow.data import Index, open_index
from barlow.evaluate import benchmarks, voc
from barlow.evaluate.benchmarks import Entry, Lists
from barlow.evaluate.names import ids_of, ticket
from barlow.evaluate.voc import MultiLabel

SPLIT = 0.2
"""Share of each class that tests, where the data come without a test part."""
_TRAIN_FOLDER = "train"
_TEST_FOLDERS = ("held-out", "val", "test")


@dataclass(frozen=True)
class Partition:
    """Training and test images with labels in one numbering."""

    train: Index
    test: Index
    train_labels_N: Tensor
    """int64, numbered as in `class_names`."""
    test_labels_M: Tensor
    class_names: list[str]
    how: str
    """Where the two parts come from, in words."""
    benchmark: str = ""
    """Which one it is, if it came with that one's lists (`benchmarks.Lists.title`)."""

    def digest(self) -> str:
        """Identifies images and labels: SHA-256 in hexadecimal digits."""
        return voc.digest_of(self.train, self.test, self.train_labels_N, self.test_labels_M)


Parts = Partition | MultiLabel | Index
"""What images to be evaluated on can be: with one class each, with several, without any."""


def find(data: Path, held_out: Path | None = None) -> tuple[Path, Path | None]:
    """The paths of the two parts: (training, test or None where DATA is to be split).

    `held_out` wins; otherwise DATA may hold, or be, `train/` beside one of `held-out/`, `val/` and
    `test/`. Those are parts only together: a data set may well have a class that is called "train".
    """
    if held_out is not None:
        return data, held_out
    around = data.parent if data.name == _TRAIN_FOLDER else data
    if (around / _TRAIN_FOLDER).is_dir():
        for name in _TEST_FOLDERS:
            if (around / name).is_dir():
                return around / _TRAIN_FOLDER, around / name
    return data, None


def load(data: Path, held_out: Path | None = None, lists: tuple[Path, Path] | None = None) -> Parts:
    """The labelled partition of DATA, or the plain index (of the test part) where no image has a label.

    DATA may also be PASCAL VOC (voc.py), and `held_out` then, too; or a benchmark that comes with lists
    (benchmarks.py). `lists` are those of the training and of the test images, wherever the images lie: in
    DATA, the latter in `held_out` if that is given.
    `ValueError`: fewer than two classes, a class of the test images that has no training image, a test
    part without labels, classes too small to split; lists that can't be read or don't fit the images.
    """
    found = benchmarks.find(data) if lists is None else Lists(data, *lists)
    if found is not None:
        if lists is None and held_out is not None:
            raise ValueError(f"{data} has a list of its own test images: leave --held-out out")
        return _by_lists(found, held_out)
    if (devkit := voc.find(data)) is not None:
        return voc.load(devkit, None if held_out is None else voc.find(held_out) or held_out)
    train_path, test_path = find(data, held_out)
    return of(open_index(train_path), None if test_path is None else open_index(test_path))


def _by_lists(lists: Lists, held_out: Path | None) -> Partition:
    train_entries, test_entries = benchmarks.read(lists.train), benchmarks.read(lists.test)
    names = benchmarks.class_names(train_entries)
    number_of = {name: number for number, name in enumerate(names)}
    unknown = [name for name in benchmarks.class_names(test_entries) if name not in number_of]
    _refuse_unknown(unknown, str(lists.test), str(lists.train))
    whole = open_index(lists.images)
    other = None if held_out is None else open_index(held_out)
    train_ids, test_ids = _ids(whole, train_entries), _ids(other or whole, test_entries)
    if other is None and (both := set(train_ids) & set(test_ids)):
        raise ValueError(
            f"{lists.train} and {lists.test} both name {len(both)} images, such as {whole.name(min(both))}"
        )
    train_labels_N, test_labels_M = (
        torch.tensor([number_of[entry.label] for entry in entries])
        for entries in (train_entries, test_entries)
    )
    how = (
        f"the probes train on the images of {lists.images} that {lists.train} names and are tested on those "
        f"of {lists.images if held_out is None else held_out} that {lists.test} names"
    )
    train = whole.subset(np.array(train_ids, dtype=np.uint32))
    test = (other or whole).subset(np.array(test_ids, dtype=np.uint32))
    return _checked(Partition(train, test, train_labels_N, test_labels_M, names, how, lists.title))


def _ids(index: Index, entries: list[Entry]) -> list[int]:
    return ids_of(index, ((entry.place, entry.name) for entry in entries))


def of(train: Index, test: Index | None) -> Partition | Index:
    """`load` for indices that are open already; without `test` a fixed fifth of each class tests."""
    if not (np.asarray(train.labels) >= 0).any():
        # What needs no labels is still measured: on the images held out, if there are any.
        test = train if test is None else test
        if (np.asarray(test.labels) >= 0).any():
            raise ValueError(f"{train.source} has no labels, so there is nothing to learn for {test.source}")
        return test
    train, note = _labelled(train)
    if test is None:
        return _split(train, note)
    test, test_note = _labelled(test)
    names = list(train.class_names)
    labels_M = _renumber(test, names, str(train.source), str(test.source))
    how = f"the probes train on {train.source} and are tested on {test.source}{note}{test_note}"
    return _checked(Partition(train, test, _labels(train), labels_M, names, how))


def _labelled(index: Index) -> tuple[Index, str]:
    ids = np.flatnonzero(np.asarray(index.labels) >= 0)
    if len(ids) == 0:
        raise ValueError(f"{index.source} has no labelled image")
    if len(ids) == len(index):
        return index, ""
    return index.subset(
        ids.astype(np.uint32)
    ), f" ({len(index) - len(ids)} unlabelled images of {index.source} left out)"


def _renumber(test: Index, names: list[str], train_path: str, test_path: str) -> Tensor:
    """The test labels in the numbering of the training classes, matched by name."""
    number_of = {name: number for number, name in enumerate(names)}
    labels_M = _labels(test)
    present = sorted({test.class_names[i] for i in labels_M.unique().tolist()})
    _refuse_unknown([name for name in present if name not in number_of], test_path, train_path)
    table = torch.tensor([number_of.get(name, -1) for name in test.class_names])
    return table[labels_M]


def _refuse_unknown(names: list[str], test_path: str, train_path: str) -> None:
    if names:
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise ValueError(f"{test_path} has classes that {train_path} has not: {shown}")


def _split(index: Index, note: str) -> Partition:
    """Takes a fixed fifth of every class, chosen by the names of the images alone."""
    chosen = fixed_share(index, _labels(index), SPLIT)
    if not chosen.any():
        raise ValueError(
            f"every class of {index.source} has a single image: give the test images with --held-out"
        )
    train, test = (index.subset(np.flatnonzero(part).astype(np.uint32)) for part in (~chosen, chosen))
    chosen_by = f"{SPLIT:.0%} of each class, chosen by a hash of the names"
    how = f"{index.source} has no test part: {chosen_by}, test{note}"
    return _checked(Partition(train, test, _labels(train), _labels(test), list(index.class_names), how))


def fixed_share(index: Index, labels_N: Tensor, share: float) -> np.ndarray:
    """Which images make up a share of every class; bool [N]. A class keeps an image, and gives one if it can.

    The hashes of their names decide: neither the order of the index nor any seed does, nor whether they are
    packed and recoded.
    """
    chosen = np.zeros(len(index), dtype=bool)
    for label in labels_N.unique().tolist():
        ids = (labels_N == label).nonzero()[:, 0].tolist()
        ids.sort(key=lambda i: (ticket(index, i), i))
        chosen[ids[: min(len(ids) - 1, max(1, round(share * len(ids))))]] = True
    return chosen


def _labels(index: Index) -> Tensor:
    return torch.from_numpy(np.array(index.labels, dtype=np.int64))


def _checked(partition: Partition) -> Partition:
    present = len(partition.train_labels_N.unique())
    if present < 2:
        raise ValueError(
            f"{partition.train.source} has {present} class with images; a probe needs at least 2"
        )
    return partition
