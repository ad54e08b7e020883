"""Here: DALI's own index of a WebDataset tar, version 1.2, which its `readers.webdataset` takes.

Not here: our index (Rust, docs/index-format.md), using DALI.

One line `v1.2 N`, then one for each of N samples: `extension offset size name` for each of its members, all
separated by single spaces; nothing is escaped. A sample is a run of members with one stem, which ends at the
first dot of the last component of the name; hidden files belong to none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from barlow import _native
from barlow._native import Index
from barlow.durable import write_file

VERSION = b"v1.2"


def write_indexes(index: Index, folder: str | os.PathLike[str] | None = None) -> list[Path]:
    """Writes NAME.idx for each NAME.tar of an index, beside the tars or into `folder`; returns their paths.

    Nothing for images that lie about as files.
    """
    tars = [shard for shard in index.shards() if shard.suffix == ".tar"]
    paths = [(tar if folder is None else Path(folder) / tar.name).with_suffix(".idx") for tar in tars]
    for tar, path in zip(tars, paths, strict=True):
        write_file(path, lines(_native.members(tar)))
    return paths


def lines(members: Sequence[tuple[bytes, int, int]]) -> bytes:
    """The index of an archive with these members: name, offset of the first data byte, size in bytes.

    White space in a name, which DALI only prints, becomes an underscore; a member with white space in its
    extension is left out, as nobody could ask for it.
    """
    samples = list(_samples(members))
    return b"".join(line + b"\n" for line in (b"%s %d" % (VERSION, len(samples)), *samples))


def _samples(members: Sequence[tuple[bytes, int, int]]) -> Iterator[bytes]:
    visible = ((*_split(name), offset, size, name) for name, offset, size in members)
    kept = (member for member in visible if member[0] is not None)
    for _, run in groupby(kept, key=lambda member: member[0]):
        parts = [
            b"%s %d %d %s" % (extension, offset, size, b"_".join(name.split()))
            for _, extension, offset, size, name in run
        ]
        yield b" ".join(parts)


def _split(name: bytes) -> tuple[bytes | None, bytes]:
    """Stem and extension; no stem for what belongs to no sample."""
    folder, slash, file = name.rpartition(b"/")
    stem, _, extension = file.partition(b".")
    if not stem or len(extension.split()) != 1:
        return None, extension
    return folder + slash + stem, extension
