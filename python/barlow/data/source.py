"""Here: from what the user has (shards, a tar, folders of images, an index) to an `Index`.

Not here: reading archives and writing shards; that is Rust behind `barlow._native`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from barlow._native import Index, index_path

Source = str | os.PathLike[str] | Index
"""A folder with `barlow.index`, an index file, a tar, a folder of tars or of images; or an open `Index`."""

Progress = Callable[[int, int], None]
"""(done, total), from the calling thread."""

_log = logging.getLogger("barlow.data")


def open_index(
    source: Source, *, threads: int = 0, progress: Progress | None = None, members: bool = False
) -> Index:
    """The index that lies beside `source`, or else one made in memory, which costs a pass over its headers.

    `threads` (0: all cores), `progress(done, total)` and `members` (whether it records extra members, which
    costs reading them) are for that pass. `DataError` if there is nothing to read, with the place.
    """
    if isinstance(source, Index):
        return source
    if Path(index_path(source)).is_file():
        return Index.open(source)
    index = Index.scan(source, threads=threads, progress=progress, members=members)
    _log.info(
        "%s has no index: scanned %d images in memory; `barlow index` keeps one",
        os.fspath(source),
        len(index),
    )
    return index


def index_source(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    threads: int = 0,
    progress: Progress | None = None,
    members: bool = True,
) -> Path:
    """Writes the index of existing images or archives, rewriting none of them; returns its path.

    `out` is a file or a folder; by default the index goes where `open_index` looks for it. `members`: extra
    members are recorded, too.
    """
    index = Index.scan(source, threads=threads, progress=progress, members=members)
    return Path(index.write(index_path(source) if out is None else out))
