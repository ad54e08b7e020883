"""Here: an array of embeddings that is written bit by bit, survives its writer and is finished by the next.

Not here: where the numbers come from (write.py), what else lies beside them (rows.py).

While it grows the array lies in OUT.partial/ beside a file that says how many of its rows are on the disk,
and by which settings they were made. Rows are forced to the disk before that file names them, so that after a
kill or a power cut the next writer goes on behind rows that are whole; whatever lies behind is written again.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from barlow import durable
from barlow.evaluate.resuming import differences

FEATURES = "features.npy"
_PROGRESS = "progress.json"


class Store:
    """Rows [N, F] of `dtype` on their way to the file `out`. Several processes may write, one is the `first`.

    `settings` is whatever decides about the numbers, as JSON. `ValueError` if there is a beginning by other
    settings, or one that is damaged; nothing is changed then. `OSError`: what can't be written is told of as
    `out`, which it is to become.
    """

    def __init__(
        self, out: Path, shape: tuple[int, int], dtype: np.dtype[Any], settings: dict[str, Any]
    ) -> None:
        self._out = out
        self.folder = out.with_name(f"{out.name}.partial")
        self.path = self.folder / FEATURES
        self._settings, self._row_bytes = settings, shape[1] * dtype.itemsize
        self._header = _header(shape, dtype)
        self._num_rows = shape[0]
        self._num_bytes = len(self._header) + shape[0] * self._row_bytes
        self._file: int | None = None

    def begin(self) -> int:
        """For the first process: makes the store, or finds it; the number of rows that are there already."""
        progress = self.folder / _PROGRESS
        if not progress.is_file():
            with durable.naming(self._out):
                durable.make_folder(self.folder)
                self._make()
            self.advance(0)
            return 0
        found = durable.read_json(progress)
        differing = differences(found.get("settings"), self._settings)
        if differing:
            raise ValueError(
                f"{self.folder} was begun otherwise: {differing}; remove it, or choose another OUT"
            )
        with self.path.open("rb") as file:
            same = file.read(len(self._header)) == self._header
        if not same or self.path.stat().st_size != self._num_bytes:
            raise ValueError(f"{self.path} is damaged; remove {self.folder} to begin anew")
        rows = found.get("rows")
        if not isinstance(rows, int) or not 0 <= rows <= self._num_rows:
            raise ValueError(f"{progress} is damaged; remove {self.folder} to begin anew")
        return rows

    def _make(self) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            _write(descriptor, self._header, 0)
            os.ftruncate(descriptor, self._num_bytes)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def __enter__(self) -> Store:
        self._file = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def put(self, first_row: int, rows_BF: NDArray[Any]) -> None:
        """Writes rows to their place, in any order."""
        assert self._file is not None
        with durable.naming(self._out):
            _write(self._file, rows_BF.tobytes(), len(self._header) + first_row * self._row_bytes)

    def flush(self) -> None:
        """Forces what this process has put to the disk."""
        assert self._file is not None
        with durable.naming(self._out):
            os.fsync(self._file)

    def advance(self, rows: int) -> None:
        """For the first process, after every other's `flush`: the first `rows` rows are there for good."""
        text = json.dumps({"settings": self._settings, "rows": rows}, indent=2) + "\n"
        with durable.naming(self._out):
            durable.write_file(self.folder / _PROGRESS, text)

    def remove(self) -> None:
        """Removes what is left when the file is in its place."""
        shutil.rmtree(self.folder, ignore_errors=True)  # nobody takes it for anything any more


def _write(descriptor: int, content: bytes, offset: int) -> None:
    rest = memoryview(content)
    while rest:
        written = os.pwrite(descriptor, rest, offset)  # may be less than asked for
        rest, offset = rest[written:], offset + written


def _header(shape: tuple[int, int], dtype: np.dtype[Any]) -> bytes:
    """Of a .npy file, format 1.0 of NumPy."""
    text = repr({"descr": dtype.str, "fortran_order": False, "shape": shape})
    length = -(-(10 + len(text) + 1) // 64) * 64
    return (
        b"\x93NUMPY\x01\x00" + (length - 10).to_bytes(2, "little") + text.ljust(length - 11).encode() + b"\n"
    )
