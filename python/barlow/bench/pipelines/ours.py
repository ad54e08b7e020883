"""Here: this package's loader as a pipeline.

Not here: any of its work.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from barlow.bench.pipelines.job import MEAN, STD, Batch, Job, Pipeline, several
from barlow.data import Index, Loader, to_float


def build(job: Job) -> Pipeline:
    """Reads the source where it lies; floats are made in the consumer, as training on a CPU does."""
    torch.set_num_threads(job.threads)
    index = Index.open(job.index)

    def epoch(turn: int) -> Iterator[Batch]:
        # A loader of one epoch, because an endless one would prepare the next while others are timed.
        with Loader(
            index, views=job.views, batch_size=job.batch_size, seed=turn, threads=job.threads, epochs=1
        ) as batches:
            for batch in batches:
                yield to_float(batch.views, MEAN, STD) if job.output == "float32" else batch.views
            told = batches.stats()
            pipeline.stages = {name: told[f"{name}_s"] for name in ("read", "decode", "augment", "waited")}

    pipeline = Pipeline(epoch, several(job.threads, "thread"))
    return pipeline
