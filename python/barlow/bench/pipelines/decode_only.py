"""Here: decoding and nothing else, from memory: the limit of whoever leaves JPEG to libjpeg-turbo alone.

Not here: the decoder. It is the loader's, but for the Huffman codes, which libjpeg-turbo reads itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from barlow.bench.pipelines.job import Batch, Job, Pipeline, several
from barlow.data import decode

_PART = 8
"""Images for which a thread is called up once."""


def _decode(data: bytes) -> np.ndarray:
    return decode(data, library_codes=True)


def build(job: Job) -> Pipeline:
    """Round 0, which is looked at, hands pixels over; later ones drop them at once."""
    encoded = [Path(file).read_bytes() for file in job.files]
    pool = ThreadPoolExecutor(job.threads) if job.threads > 1 else None

    def decoded(part: list[int], keep: bool) -> Batch:
        # Pixels that are kept want fresh memory for the next ones, whose page faults cost up to a tenth.
        return [pixels if keep else pixels.shape for pixels in (_decode(encoded[i]) for i in part)]

    def epoch(turn: int) -> Iterator[Batch]:
        keep = turn == 0
        if pool is None:
            for batch in job.batches(turn):
                yield decoded(batch, keep)
            return
        # Small parts, and always one waiting for each thread: the limit is not to have idle threads.
        running: deque[Future[Batch]] = deque()
        for batch in job.batches(turn):
            for start in range(0, len(batch), _PART):
                running.append(pool.submit(decoded, batch[start : start + _PART], keep))
                if len(running) > 2 * job.threads:
                    yield running.popleft().result()
        yield from (part.result() for part in running)

    return Pipeline(epoch, several(job.threads, "thread"))
