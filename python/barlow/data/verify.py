"""Here: decoding everything once to find what is damaged. Not here: repairing, packing, printing."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from barlow._native import DataError, Index, decode


def damaged(
    index: Index, *, threads: int = 0, progress: Callable[[int, int], None] | None = None
) -> list[tuple[int, DataError]]:
    """Position and error of each sample that doesn't match its checksum or can't be decoded, in index order.

    `threads` 0 is every core that this process may run on; `progress(done, total)`.
    """

    def error_of(i: int) -> DataError | None:
        try:
            decode(index.read(i))
        except DataError as error:
            return error
        return None

    found = []
    with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
        for i, error in enumerate(pool.map(error_of, range(len(index)))):
            if error is not None:
                found.append((i, error))
            if progress and (i % 256 == 255 or i + 1 == len(index)):
                progress(i + 1, len(index))
    return found
