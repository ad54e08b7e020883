"""Here: what DALI is told to do with a batch: which sample takes which operation, how pixels become floats.

Not here: the arithmetic of an operation (`colour.py`), feeding it and taking results (`stage.py`).
"""

# The package is optional.
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types

from barlow.data.dali import colour
from barlow.data.dali.colour import Node
from barlow.data.device import normalise
from barlow.data.views import ColorJitter, Flip, GaussianBlur, Grayscale, RandomResizedCrop, Solarize, View

FLIP, BRIGHTNESS, CONTRAST, SATURATION, HUE, GREY, BLUR, SOLARIZE = range(1, 9)
"""Codes of `Batch.steps` (rust/data/src/augment/rows.rs); 0: nothing."""

_FILTERS = {"bilinear": types.INTERP_LINEAR, "bicubic": types.INTERP_CUBIC}
_DTYPES = {
    torch.float32: types.FLOAT,
    torch.float16: types.FLOAT16,
    # DALI has no bfloat16: its bits travel as whole numbers.
    torch.bfloat16: types.INT16,
}


@dataclass(frozen=True)
class Plan:
    """All that shapes the graph; [N, size, size, 3] in `dtype` comes out for each view."""

    recipe: tuple[View, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: torch.dtype
    gpu: int | None
    """Its number; None: the CPU."""
    decodes: bool
    """Whether encoded images come in, or crops."""


def columns(view: View) -> list[type]:
    """The operation that each column of the view's steps belongs to: a jitter has four."""
    found: list[type] = []
    for operation in view.operations:
        found += [type(operation)] * (4 if isinstance(operation, ColorJitter) else 1)
    return found


def has_values(kinds: Sequence[type]) -> bool:
    """Whether the graph reads the values of these columns; DALI knows no input that nobody reads."""
    return ColorJitter in kinds or Solarize in kinds


def pipeline(plan: Plan, *, batch_size: int, threads: int, depth: int) -> Any:
    """An `nvidia.dali.Pipeline` with inputs of the names that `_inputs` gives them, all of them on the host.

    No randomness, no state: what comes out is a function of what is fed.
    """
    return _graph(
        plan,
        batch_size=batch_size,
        num_threads=threads,
        device_id=plan.gpu,
        seed=0,
        prefetch_queue_depth=depth,
        exec_dynamic=True,  # outputs are shared with torch, not copied out of a ring
    )


def _described(plan: Plan) -> tuple[Node, ...]:
    made = []
    images = _decoded(plan) if plan.decodes else None
    for number in range(len(plan.recipe)):
        picture = _square(plan, number) if images is None else _cut(plan, number, images)
        picture = _operated(plan, number, picture)
        made.append(_floats(plan, picture))
    return tuple(made)


_graph: Any = pipeline_def(enable_conditionals=True)(_described)


def _input(name: str, dtype: Any, ndim: int, layout: str | None = None) -> Node:
    # Not copied: whoever feeds keeps the memory until the results are there.
    return fn.external_source(name=name, dtype=dtype, ndim=ndim, layout=layout, no_copy=True)


def _placed(plan: Plan, node: Node) -> Node:
    return node if plan.gpu is None else node.gpu()


def _decoded(plan: Plan) -> Node:
    """Whole images, each decoded once.

    Not `decoders.image_slice` or `image_random_crop`: decoding regions on the GPU fails on A100 and crashes
    on H100 in nvImageCodec 0.9.0 (its issue 55), and every view would read the Huffman codes again, which
    is most of the work.
    """
    encoded = _input("encoded", types.UINT8, 1)
    return fn.decoders.image(
        encoded,
        device="cpu" if plan.gpu is None else "mixed",
        output_type=types.RGB,
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,  # libjpeg's, as everywhere else here
    )


def _cut(plan: Plan, number: int, images: Node) -> Node:
    """One view's window of the whole image, resized, and its square of that."""
    view = plan.recipe[number]
    place = _input(f"place{number}", types.INT32, 1)
    # Cut first: the resize must not see beyond the window.
    window = fn.slice(images, start=place[0:2], shape=place[2:4], axes=[0, 1])
    resized = fn.resize(
        window,
        size=fn.cast(place[4:6], dtype=types.FLOAT),
        interp_type=_FILTERS[view.crop.interpolation],
        antialias=True,
    )
    if isinstance(view.crop, RandomResizedCrop):
        return resized
    return fn.slice(resized, start=place[6:8], shape=[view.size, view.size], axes=[0, 1])


def _square(plan: Plan, number: int) -> Node:
    """One view's square as Rust cut it: planar there, interleaved from here on."""
    planar = _placed(plan, _input(f"crop{number}", types.UINT8, 3, "CHW"))
    return fn.transpose(planar, perm=[1, 2, 0])


def _operated(plan: Plan, number: int, picture: Node) -> Node:
    """Column by column: the samples whose code says so take the operation, the others pass by."""
    view = plan.recipe[number]
    kinds = columns(view)
    if not kinds:
        return picture
    codes = _input(f"codes{number}", types.INT32, 1)
    values: Any = None
    if has_values(kinds):
        values = _placed(plan, _input(f"values{number}", types.FLOAT, 1))
    for column, kind in enumerate(kinds):
        code = codes[column]
        if kind is ColorJitter:
            picture = _jittered(picture, code, values[column], view.size**2)
        elif kind is Flip:
            if code == FLIP:
                picture = fn.flip(picture, horizontal=1)
        elif kind is Grayscale:
            if code == GREY:
                picture = colour.grayscale(picture)
        elif kind is Solarize:
            if code == SOLARIZE:
                picture = colour.solarize(picture, values[column])
        elif kind is GaussianBlur:
            kernel = _placed(plan, _input(f"kernel{number}_{column}", types.FLOAT, 1))
            if code == BLUR:
                picture = colour.blur(picture, kernel)
    return picture


def _jittered(picture: Node, code: Node, value: Node, num_pixels: int) -> Node:
    """One of a jitter's four steps: which one it is differs from sample to sample."""
    if code == BRIGHTNESS:
        picture = colour.brightness(picture, value)
    elif code == CONTRAST:
        picture = colour.contrast(picture, value, num_pixels)
    elif code == SATURATION:
        picture = colour.saturation(picture, value)
    elif code == HUE:
        picture = colour.hue(picture, value)
    return picture


def _floats(plan: Plan, picture: Node) -> Node:
    """Normalised by a table of what `normalise` gives for each level and channel, so equal to it in every
    bit."""
    levels = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1).expand(256, 3, 1, 1)
    table = (
        normalise(levels.contiguous(), plan.mean, plan.std, dtype=plan.dtype).reshape(256, 3).T.contiguous()
    )
    if plan.dtype == torch.bfloat16:
        table = table.view(torch.int16)
    places = picture + types.Constant(np.array([0, 256, 512], np.uint16))
    return fn.lookup_table(places, keys=list(range(768)), values=_numbers(table), dtype=_DTYPES[plan.dtype])


def _numbers(table: torch.Tensor) -> Sequence[float]:
    return table.flatten().double().tolist()
