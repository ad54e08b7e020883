"""Here: the rows of the results: the trained backbone, the same one untrained, the bare pixels.

Not here: what is measured of them (protocols.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from torch import nn

from barlow.data import Index
from barlow.evaluate import features
from barlow.evaluate.job import Job, Row, RowName
from barlow.model import build_model

BASELINE_FACTORS = (1.0, 0.1, 0.01)
"""Learning rates of a baseline's probe, relative to the trained network's; its best one counts."""
RAW_PIXELS_SIZE = 32
"""Side in pixels that images are reduced to before they are features by themselves."""
_RAW_PIXELS_BYTES = 8 << 30
"""Raw pixels that would need more memory than this are left out, with a reason."""


def rows(job: Job, backbone: nn.Module, *, baselines: bool) -> Iterator[Row]:
    """The trained backbone (on the job's device), then the `baselines`; each is to be done with in turn."""
    yield _network(job, "trained", backbone, (1.0,))
    if baselines:
        # Built from the run's seed: the very weights that the training began with.
        untrained = build_model(job.config.model, job.config.train.seed).backbone.to(job.device)
        yield _network(job, "untrained", untrained, BASELINE_FACTORS)
        if (pixels := _raw_pixels(job)) is not None:
            yield pixels


def _network(job: Job, name: RowName, backbone: nn.Module, factors: tuple[float, ...]) -> Row:
    data, forward = job.config.data, features.network(backbone, job.dtype)
    identity = {"weights": features.digest(backbone), "model": dataclasses.asdict(job.config.model)}
    return Row(name, backbone, forward, data.image_size, data.eval_resize, identity, factors)


def _raw_pixels(job: Job) -> Row | None:
    """The pixels themselves, at 32 px where the images are larger; None where they need too much memory."""
    data = job.config.data
    size = min(RAW_PIXELS_SIZE, data.image_size)
    resize = max(size, round(data.eval_resize * size / data.image_size))
    train = job.parts if isinstance(job.parts, Index) else job.parts.train
    needed = len(train) * 3 * size * size * 4 * (1 + max(1, job.config.evaluate.linear_crops))
    if needed > _RAW_PIXELS_BYTES:
        job.talk.say(f"raw pixels left out: they would need {needed / 2**30:.0f} GiB of memory")
        return None
    return Row("raw pixels", None, features.pixels, size, resize, None, BASELINE_FACTORS)
