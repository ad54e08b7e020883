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
    # One for all rounds, as a training has one for all epochs: the memory of its batches is used again. Every
    # round is its only epoch: with more of them it would prepare the next one while others are timed.
    batches = Loader(
        Index.open(job.index), views=job.views, batch_size=job.batch_size, threads=job.threads, epochs=1
    )

    def epoch(_turn: int) -> Iterator[Batch]:
        batches.load_state_dict({"epoch": 0, "step": 0})
        before = batches.stats()
        for batch in batches:
            yield to_float(batch.views, MEAN, STD) if job.output == "float32" else batch.views
        told = batches.stats()
        names = ("read", "decode", "augment", "waited")
        pipeline.stages = {name: told[f"{name}_s"] - before[f"{name}_s"] for name in names}

    pipeline = Pipeline(epoch, several(job.threads, "thread"))
    return pipeline
