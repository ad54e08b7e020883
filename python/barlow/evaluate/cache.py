"""Here: feature matrices on disk, found again by what they are a function of.

Not here: computing them (features.py), when to ask (job.py).

An entry is a folder whose name is a digest of its key; durable.py writes it, so that it is there whole or not
at all, and its manifest shows damage. What is damaged, or of another key, is computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from barlow import durable
from barlow.distributed import gather_values, rank_in

Key = Mapping[str, Any]
_FORMAT = 1
_KEY, _ROWS = "key.json", "features.f32"
_DTYPE = np.dtype("<f4")


class FeatureCache:
    """Matrices under `folder`, together at most `most_bytes`; without a folder it is always empty.

    Of several ranks the first one writes. Every rank must be able to read an entry, or it is none: ranks that
    went different ways would wait for each other for ever.
    """

    def __init__(self, folder: Path | None, most_bytes: int) -> None:
        self.folder = folder if most_bytes > 0 else None
        self._most_bytes = most_bytes
        if self.folder is not None and rank_in() == 0:
            durable.remove_leftovers(self.folder)

    def find(self, key: Key) -> Tensor | None:
        """The matrix float32 [N, F] that was kept for this key, or None. Damage is told as a warning."""
        if self.folder is None:
            return None
        path = self.folder / _name(key)
        found = _read(path, key) if path.is_dir() else None
        if not all(gather_values(found is not None)):
            return None
        with contextlib.suppress(
            OSError
        ):  # the last to be used is the last to go; a read-only one never goes
            os.utime(path)
        return found

    def keep(self, key: Key, features_NF: Tensor) -> None:
        """Keeps a matrix, if it fits; the entries that were not used for longest make room.

        A disk that is full or read-only is a warning: the numbers don't depend on it.
        """
        num_bytes = features_NF.numel() * _DTYPE.itemsize
        if self.folder is None or num_bytes > self._most_bytes or rank_in() > 0:
            return
        described = {"key": dict(key), "shape": list(features_NF.shape)}
        raw = np.ascontiguousarray(features_NF.numpy(), dtype=_DTYPE).view(np.uint8).data
        files = {
            _KEY: (json.dumps(described, indent=2) + "\n").encode(),
            _ROWS: [raw.cast("B")] if features_NF.numel() else b"",
        }
        path = self.folder / _name(key)
        try:
            self._make_room(num_bytes, path)
            durable.write_folder(path, files)
        except OSError as error:
            warnings.warn(f"features are not kept: {error}", stacklevel=2)

    def _make_room(self, num_bytes: int, path: Path) -> None:
        assert self.folder is not None
        entries = [entry for entry in self.folder.glob("*") if (entry / _KEY).is_file() and entry != path]
        entries.sort(key=lambda entry: entry.stat().st_mtime)
        sizes = [sum(file.stat().st_size for file in entry.iterdir()) for entry in entries]
        while entries and sum(sizes) + num_bytes > self._most_bytes:
            durable.remove_folder(entries.pop(0))
            sizes.pop(0)


def _name(key: Key) -> str:
    text = json.dumps([_FORMAT, dict(key)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _read(path: Path, key: Key) -> Tensor | None:
    try:
        durable.verify_folder(path, (_KEY, _ROWS))
        described = durable.read_json(path / _KEY)
        if described["key"] != json.loads(json.dumps(dict(key))):
            raise ValueError(f"{path} holds other features")
        rows, columns = described["shape"]
        return torch.from_numpy(np.fromfile(path / _ROWS, _DTYPE).reshape(rows, columns))
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"features that were kept are computed again: {error}", stacklevel=3)
        return None
