"""Here: decoding everything once to find what is damaged. Not here: repairing, packing, printing."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from barlow import _native
from barlow._native import DataError, Index
from barlow.data.loader import CLOSE_S
from barlow.data.stalls import described
from barlow.terminal import one_line

_IN_FLIGHT = 64
"""Enough for any number of cores to be busy while this thread does something else."""
_STALL_S = 600.0


def damaged(
    index: Index, *, threads: int = 0, progress: Callable[[int, int], None] | None = None
) -> list[tuple[int, DataError]]:
    """Position and error, with its address, of each sample that training would stumble over, in index order.

    It takes the way that training takes, up to the views: bytes against the checksum, shards against their
    recorded sizes, decoding, the image's size against the index; and extra members against their checksums.
    Beyond that, the original file of each recoded image that decodes is made and checked.
    `threads` 0 is every core that this process may run on; `progress(done, total)`. `TimeoutError` names a
    read that hangs for ten minutes.
    """
    total = len(index)
    order = _native.Order(total, 1, shuffle=False)
    meter = _native.Meter(threads)
    stream = _native.Loader(
        index,
        (),
        order,
        meter,
        epoch=0,
        step=0,
        end_epoch=1,
        shrink_on_load=False,
        replace=None,
        members=index.member_names,
    )
    found: list[tuple[int, DataError]] = []
    in_flight = 0
    try:
        for i in range(total):
            while in_flight < _IN_FLIGHT and stream.wanted() is not None:
                stream.lend((), np.empty(1, np.int64), np.empty(1, np.int64))
                in_flight += 1
            try:
                if stream.take(_STALL_S) is None:
                    raise TimeoutError(described(index, stream, f"nothing was read for {_STALL_S:g} s"))
            except DataError as error:
                found.append((i, error))
            in_flight -= 1
            if progress and (i % 256 == 255 or i + 1 == total):
                progress(i + 1, total)
    finally:
        stream.close(CLOSE_S)
    return sorted(found + unrestorable(index, {i for i, _ in found}, threads), key=lambda entry: entry[0])


def unrestorable(index: Index, known: set[int], threads: int) -> list[tuple[int, DataError]]:
    """Position and error of each recoded image, but for the `known` ones, whose original cannot be made."""

    def error_of(i: int) -> tuple[int, DataError] | None:
        try:
            index.read(i, original=True)
        except DataError as error:
            return i, error
        return None

    recoded = [i for i in index.recoded().tolist() if i not in known]
    with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
        return [entry for entry in pool.map(error_of, recoded) if entry is not None]


def as_json(index: Index, found: list[tuple[int, DataError]]) -> dict[str, Any]:
    """What `damaged` found, for programs: images, and for each damaged one id, kind, shard, member (control
    bytes escaped), offset in bytes and message."""
    entries = [
        {
            "id": i,
            "kind": error.kind,
            "shard": error.shard,
            "member": error.member,
            "offset": error.offset,
            "message": one_line(error),
        }
        for i, error in found
    ]
    return {"images": len(index), "damaged": entries}
