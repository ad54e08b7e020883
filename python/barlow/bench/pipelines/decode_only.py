"""Here: decoding and nothing else, from memory: the limit of every pipeline that decodes once.

Not here: the decoder; it is the loader's own, libjpeg-turbo for JPEGs.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from barlow.bench.pipelines.job import Batch, Job, Pipeline, several
from barlow.data import decode


def build(job: Job) -> Pipeline:
    """Each batch is the pixels of its images; with one thread the caller's own does the work."""
    encoded = [Path(file).read_bytes() for file in job.files]
    pool = ThreadPoolExecutor(job.threads) if job.threads > 1 else None

    def decoded(batch: list[int]) -> Batch:
        return [decode(encoded[i]) for i in batch]

    def epoch(turn: int) -> Iterator[Batch]:
        batches = job.batches(turn)
        if pool is None:
            yield from map(decoded, batches)
            return
        # At most as many batches of pixels are in memory as there are threads.
        for start in range(0, len(batches), job.threads):
            yield from pool.map(decoded, batches[start : start + job.threads])

    return Pipeline(epoch, several(job.threads, "thread"))
