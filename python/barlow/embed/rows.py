"""Here: which image each row is of, as lines beside an array, or as columns of a parquet file with it.

Not here: the embeddings themselves (write.py), how they come to lie on the disk (store.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from barlow import durable
from barlow.data import Index

_GROUP = 4096
"""Rows of a row group of parquet, which a reader takes at once."""


def rows_of(index: Index) -> Iterator[dict[str, Any]]:
    """For each image its id, shard, member, label and class; no label: the last two are None.

    Shards are named from the folder that holds them all, where that is possible.
    """
    root = Path(index.root)
    labels, names = np.asarray(index.labels), list(index.class_names)
    for number, label in enumerate(labels.tolist()):
        yield {
            "id": number,
            "shard": _text(_within(Path(index.shard(number)), root)),
            "member": _text(index.name(number)),
            "label": label if label >= 0 else None,
            "class": names[label] if label >= 0 else None,
        }


def write_lines(index: Index, path: Path) -> None:
    """One JSON object a line, in the order of the array's rows."""
    durable.write_file(path, "".join(json.dumps(row) + "\n" for row in rows_of(index)))


def check_parquet() -> None:
    """`ValueError` that says how to install what writes parquet."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise ValueError("an OUT that ends in .parquet needs pyarrow: pip install pyarrow") from None


def write_parquet(index: Index, features: Path, path: Path, described: dict[str, Any]) -> None:
    """The rows and, in the column `embedding`, the lists of numbers of the array in `features`.

    Written a group at a time. `described` goes into the file's metadata, under "barlow". `OSError`.
    """
    try:
        _write_parquet(index, features, path, described)
    except OSError as error:
        if error.errno is not None:  # pyarrow wraps the system's words into its own
            error.strerror = os.strerror(error.errno)
        raise


def _write_parquet(index: Index, features: Path, path: Path, described: dict[str, Any]) -> None:
    import pyarrow
    import pyarrow.parquet

    array_NF = np.load(features, mmap_mode="r")
    number = pyarrow.from_numpy_dtype(array_NF.dtype)
    schema = pyarrow.schema(
        [
            ("id", pyarrow.int64()), ("shard", pyarrow.string()), ("member", pyarrow.string()),
            ("label", pyarrow.int64()), ("class", pyarrow.string()),
            ("embedding", pyarrow.list_(number, array_NF.shape[1])),
        ],
        metadata={"barlow": json.dumps(described)},
    )  # fmt: skip
    rows = list(rows_of(index))
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, len(rows), _GROUP):
            group = rows[start : start + _GROUP]
            flat = pyarrow.array(np.ascontiguousarray(array_NF[start : start + _GROUP]).reshape(-1))
            lists = pyarrow.FixedSizeListArray.from_arrays(flat, array_NF.shape[1])
            columns = [
                pyarrow.array([row[field.name] for row in group], field.type)
                for field in schema
                if field.name != "embedding"
            ]
            writer.write_table(pyarrow.Table.from_arrays([*columns, lists], schema=schema))


def _within(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path


def _text(name: str | Path) -> str:
    """Names need not be text: bytes that are not become escapes."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
