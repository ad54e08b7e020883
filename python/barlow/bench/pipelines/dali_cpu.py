"""Here: the views by DALI's CPU backend, in its pipeline mode: decode once, then one branch for each view.

Not here: the recipe. Where DALI has no exact counterpart this is what its users take: `color_twist` turns hue
in YIQ and has a fixed order; solarize is arithmetic.
"""

# The package is optional.
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, math, pipeline_def, types

from barlow.bench.pipelines.job import MEAN, STD, Batch, Job, Pipeline, several
from barlow.data import View, views

_INTERPOLATION = {"bilinear": types.INTERP_LINEAR, "bicubic": types.INTERP_CUBIC}


def build(job: Job) -> Pipeline:
    """Files are read in Python and decoded, augmented and normalised in DALI's threads."""
    waiting: list[list[int]] = []

    def next_batch() -> list[np.ndarray[Any, Any]]:
        if not waiting:
            raise StopIteration
        return [np.fromfile(job.files[i], np.uint8) for i in waiting.pop(0)]

    graph: Any = _graph(
        next_batch, job.views, job.output,
        batch_size=job.batch_size, num_threads=job.threads, device_id=None, seed=1, prefetch_queue_depth=2,
    )  # fmt: skip
    graph.build()

    def epoch(turn: int) -> Iterator[Batch]:
        # The source ends with the round, so the queue is empty when the next one starts.
        waiting.extend(job.batches(turn))
        try:
            while True:
                yield [torch.from_dlpack(view.as_tensor()) for view in graph.run()]
        except StopIteration:
            graph.reset()

    return Pipeline(epoch, several(job.threads, "thread"))


def _described(source: Any, recipe: list[View], output: str) -> tuple[Any, ...]:
    encoded = fn.external_source(source=source, dtype=types.UINT8, batch=True)
    image = fn.decoders.image(encoded, device="cpu", output_type=types.RGB, adjust_orientation=False)
    made = []
    for view in recipe:
        made.append(_view(image, view, output))
    return tuple(made)


_graph: Any = pipeline_def(enable_conditionals=True)(_described)


def _view(image: Any, view: View, output: str) -> Any:
    crop = view.crop
    interpolation = _INTERPOLATION[crop.interpolation]
    if isinstance(crop, views.RandomResizedCrop):
        image = fn.random_resized_crop(
            image, size=[crop.size, crop.size], random_area=list(crop.scale),
            random_aspect_ratio=list(crop.ratio), interp_type=interpolation, antialias=True,
        )  # fmt: skip
    else:
        image = fn.resize(image, resize_shorter=crop.resize, interp_type=interpolation, antialias=True)
    mirror = 0
    for step in view.operations:
        if isinstance(step, views.Flip):
            mirror = fn.random.coin_flip(probability=step.p)
        else:
            image = _apply(image, step)
    # Flip, layout and normalisation in one pass: DALI's own fusion.
    ends: dict[str, Any] = {"dtype": types.UINT8}
    if output == "float32":
        ends = {
            "dtype": types.FLOAT,
            "mean": [255 * value for value in MEAN],
            "std": [255 * value for value in STD],
        }
    return fn.crop_mirror_normalize(
        image, crop=(crop.size, crop.size), mirror=mirror, output_layout="CHW", **ends
    )


def _apply(image: Any, step: views.Operation) -> Any:
    if step.p <= 0:
        return image
    if step.p >= 1:
        return _changed(image, step)
    if fn.random.coin_flip(probability=step.p, dtype=types.BOOL):
        image = _changed(image, step)
    return image


def _changed(image: Any, step: views.Operation) -> Any:
    if isinstance(step, views.ColorJitter):
        return fn.color_twist(
            image,
            brightness=_factor(step.brightness),
            contrast=_factor(step.contrast),
            saturation=_factor(step.saturation),
            hue=_uniform(-360 * _single(step.hue), 360 * _single(step.hue)),
        )
    if isinstance(step, views.Grayscale):
        grey = fn.color_space_conversion(image, image_type=types.RGB, output_type=types.GRAY)
        return fn.color_space_conversion(grey, image_type=types.GRAY, output_type=types.RGB)
    if isinstance(step, views.GaussianBlur):
        return fn.gaussian_blur(image, sigma=_uniform(*step.sigma))
    if isinstance(step, views.Solarize) and step.threshold == 128:
        return math.min(image, types.Constant(255, dtype=types.UINT8) - image)
    raise ValueError(f"DALI has no {step}")


def _factor(value: Any) -> Any:
    return _uniform(max(0.0, 1 - _single(value)), 1 + _single(value))


def _single(value: Any) -> float:
    if isinstance(value, tuple):
        raise ValueError("a range of its own for a jitter is not translated")
    return value


def _uniform(low: float, high: float) -> Any:
    return fn.random.uniform(range=[low, high])
