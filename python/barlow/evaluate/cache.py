"""Here: feature matrices on disk, found again by what they are a function of.

Not here: computing them (features.py), when to ask (job.py).

An entry is a folder whose name is a digest of its key; durable.py writes it, so that it is there whole or not
at all, and its manifest shows damage. What is damaged, or of another key, is computed again.

Matrices are mapped, not read: all ranks of a machine share the pages of the one file, and the system takes
them back when memory is wanted elsewhere. While a matrix is computed every rank writes its own rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from barlow import durable
from barlow.distributed import broadcast_value, gather_values, rank_in

Key = Mapping[str, Any]
_FORMAT = 1
_KEY, _ROWS = "key.json", "features.f32"
_DTYPE = np.dtype("<f4")


class FeatureCache:
    """Matrices under `folder`, together at most `most_bytes`; without a folder it is always empty.

    Every rank must be able to open an entry, or it is none: ranks that went different ways would wait for
    each other for ever.
    """

    def __init__(self, folder: Path | None, most_bytes: int) -> None:
        self.folder = folder if most_bytes > 0 else None
        self._most_bytes = most_bytes
        if self.folder is not None and rank_in() == 0:
            durable.remove_leftovers(self.folder)

    def find(self, key: Key) -> Tensor | None:
        """The matrix float32 [N, F] that was kept for this key, or None. Damage is told as a warning.

        All ranks call it with the same. The first one proves it; it is read from the disk when it is used.
        """
        if self.folder is None:
            return None
        path = self.folder / _name(key)
        shape = broadcast_value(_proven(path, key) if rank_in() == 0 and path.is_dir() else None)
        found = None
        if shape is not None and (file := _opened(path / _ROWS, os.O_RDONLY)) is not None:
            with contextlib.suppress(OSError, ValueError):
                found = _mapped(file, (shape[0], shape[1]))
            os.close(file)
        if not all(gather_values(found is not None)):
            return None
        with contextlib.suppress(
            OSError
        ):  # the last to be used is the last to go; a read-only one never goes
            os.utime(path)
        return found

    def begin(self, key: Key, shape: tuple[int, int]) -> Draft | None:
        """For a matrix that is going to be computed; None if it is not to be kept, or can't be.

        All ranks call it with the same. A disk that is full or read-only is a warning: the numbers don't
        depend on it. The entries that were not used for longest make room.
        """
        num_bytes = shape[0] * shape[1] * _DTYPE.itemsize
        if self.folder is None or not 0 < num_bytes <= self._most_bytes:
            return None
        path = self.folder / _name(key)
        place: str | None = None
        if rank_in() == 0:
            try:
                self._make_room(num_bytes, path)
                place = str(_reserved(path, {"key": dict(key), "shape": list(shape)}, num_bytes))
            except OSError as error:
                warnings.warn(f"features are not kept: {error}", stacklevel=2)
        place = broadcast_value(place)
        file = None if place is None else _opened(Path(place, _ROWS), os.O_RDWR)
        draft = None if place is None or file is None else Draft(path, Path(place), file, shape)
        if all(gather_values(draft is not None)):
            return draft
        if draft is not None:
            draft.abandon()
        return None

    def _make_room(self, num_bytes: int, path: Path) -> None:
        assert self.folder is not None
        entries = [
            entry
            for entry in self.folder.glob("*")
            if (entry / _KEY).is_file() and entry != path and not durable.is_leftover(entry.name)
        ]
        entries.sort(key=lambda entry: entry.stat().st_mtime)
        sizes = [sum(file.stat().st_size for file in entry.iterdir()) for entry in entries]
        while entries and sum(sizes) + num_bytes > self._most_bytes:
            durable.remove_folder(entries.pop(0))
            sizes.pop(0)


def _name(key: Key) -> str:
    text = json.dumps([_FORMAT, dict(key)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Draft:
    """A matrix on its way to the cache: every rank puts the rows that it has, in any order."""

    def __init__(self, path: Path, place: Path, file: int, shape: tuple[int, int]) -> None:
        self._path, self._place, self._file, self._shape = path, place, file, shape
        self._rows, self._fault = 0, ""

    def put(self, first_row: int, rows_BF: Tensor) -> None:
        """Writes consecutive rows of the matrix. A disk that takes no more is told by `finish`."""
        raw = np.ascontiguousarray(rows_BF.cpu().numpy(), dtype=_DTYPE)
        rest, offset = memoryview(raw.tobytes()), first_row * self._shape[1] * _DTYPE.itemsize
        try:
            while rest and not self._fault:
                written = os.pwrite(self._file, rest, offset)
                rest, offset = rest[written:], offset + written
        except OSError as error:
            self._fault = str(error)
        self._rows += len(raw)

    def finish(self) -> Tensor | None:
        """The whole matrix, on every rank, kept from now on; None, with a warning, if the disk is full.

        `RuntimeError` if the ranks have not put as many rows as there are.
        """
        try:
            os.fsync(self._file)
        except OSError as error:
            self._fault = self._fault or str(error)
        by_rank = gather_values([self._rows, self._fault])
        if fault := next((fault for _, fault in by_rank if fault), ""):
            self.abandon()
            if rank_in() == 0:
                warnings.warn(f"features are not kept: {fault}", stacklevel=3)
            return None
        if (rows := sum(rows for rows, _ in by_rank)) != self._shape[0]:
            self.abandon()
            raise RuntimeError(f"there are {rows} rows of features for {self._shape[0]} images")
        found = _mapped(self._file, self._shape)  # whatever becomes of its name
        if rank_in() == 0:
            try:
                durable.finish_folder(self._place, self._path)
            except (
                OSError
            ) as error:  # another evaluation was as fast, or took this one's folder for a dead one's
                warnings.warn(f"features are not kept: {error}", stacklevel=3)
        self.abandon()
        return found

    def abandon(self) -> None:
        """Ends it without keeping anything that has not been kept yet."""
        os.close(self._file)
        if rank_in() == 0:
            shutil.rmtree(self._place, ignore_errors=True)


def _reserved(path: Path, described: dict[str, Any], num_bytes: int) -> Path:
    """A folder for the entry with a file of so many bytes, which the disk has then promised. `OSError`."""
    place = durable.begin_folder(path)
    try:
        durable.write_file(place / _KEY, json.dumps(described, indent=2) + "\n")
        with (place / _ROWS).open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, num_bytes)
    except OSError as error:
        shutil.rmtree(place, ignore_errors=True)
        error.filename = str(path)
        raise
    return place


def _opened(path: Path, flags: int) -> int | None:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError:  # of a disk that this rank does not see
        return None


def _proven(path: Path, key: Key) -> list[int] | None:
    """The shape of an entry that is whole and of this key."""
    try:
        durable.verify_folder(path, (_KEY, _ROWS))
        described = durable.read_json(path / _KEY)
        if described["key"] != json.loads(json.dumps(dict(key))):
            raise ValueError(f"{path} holds other features")
        rows, columns = described["shape"]
        if rows * columns * _DTYPE.itemsize != (path / _ROWS).stat().st_size:
            raise ValueError(f"{path} holds no {rows} x {columns} features")
        return [rows, columns]
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"features that were kept are computed again: {error}", stacklevel=3)
        return None


def _mapped(file: int, shape: tuple[int, int]) -> Tensor:
    """The matrix of an open file; what is written to it stays in this process. `OSError`, `ValueError`."""
    pages = mmap.mmap(file, shape[0] * shape[1] * _DTYPE.itemsize, access=mmap.ACCESS_COPY)
    return torch.from_numpy(np.frombuffer(pages, _DTYPE).reshape(shape))
