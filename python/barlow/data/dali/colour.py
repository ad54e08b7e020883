"""Here: the operations of a view as DALI arithmetic, in the numbers of the CPU kernels (rust/data/src/ops).

Not here: which sample takes which (`graph.py`).

Pictures are uint8 [H, W, 3], values are scalars on the same device. DALI computes in single precision, as
the kernels do; whole numbers up to 2**24 are exact in it, and where a kernel truncates, `_whole` does.
DALI's own operators do other things: its hue turns in YIQ (up to 24 degrees from HSV), its saturation
rounds, its Gaussian ends at a window. Every arithmetic sign is one pass over the pictures, so tables stand
for what would be several.
"""

# The package is optional.
# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import numpy as np
from nvidia.dali import fn, math, types

Node = Any
"""DALI's symbol for a batch of tensors; its operators are made at run time and have no types."""


def brightness(x: Node, factor: Node) -> Node:
    """Every value times the factor."""
    return _whole(x * factor)


def contrast(x: Node, factor: Node, num_pixels: int) -> Node:
    """Away from the mean luma, which is rounded half up; towards it for factors below 1."""
    grey = fn.cast(luma(x), dtype=types.UINT8)
    total = fn.cast(fn.reductions.sum(grey, dtype=types.UINT64), dtype=types.FLOAT64)
    mean = fn.cast(math.floor(total / float(num_pixels) + 0.5), dtype=types.FLOAT)
    return _whole(mean + factor * (x - mean))


def saturation(x: Node, factor: Node) -> Node:
    """Away from each pixel's own luma."""
    grey = luma(x)
    return _whole(grey + factor * (x - grey))


def grayscale(x: Node) -> Node:
    """Luma in all channels."""
    grey = fn.cast(luma(x), dtype=types.UINT8)
    return fn.cat(grey, grey, grey, axis=2)


def solarize(x: Node, threshold: Node) -> Node:
    """Values from the threshold on inverted."""
    return fn.cast(x + (x >= threshold) * (255.0 - 2.0 * x), dtype=types.UINT8)


def luma(x: Node) -> Node:
    """[H, W, 1], whole floats: ITU-R 601 in 16-bit fixed point, rounded. Exact: every sum is a whole number
    below 2**24, divided by 2**16."""
    weights = [19595 / 65536, 38470 / 65536, 7471 / 65536]
    return math.floor(fn.coord_transform(x, M=weights, T=[0.5], dtype=types.FLOAT))


def hue(x: Node, levels: Node) -> Node:
    """The hue of 8-bit HSV turned by whole levels (-127 to 127) of 1/255 turn, modulo 256, as Pillow does."""
    high = fn.reductions.max(x, axes=[2], keep_dims=True)
    low = fn.reductions.min(x, axes=[2], keep_dims=True)
    span = high - low
    turns = _sixths(x, high, low, span) / 6.0
    turns = turns + (turns < 0.0)
    turned = fn.cast(math.floor(turns * 255.0), dtype=types.INT32) + fn.cast(levels, dtype=types.INT32)
    purity = math.floor(span / math.max(high, 1.0) * 255.0)
    places = types.Constant(np.array([128, 128 + 512, 128 + 1024], np.int32))
    away = fn.lookup_table(turned + places, keys=list(range(1536)), values=_AWAY)
    # Rounded: half of an odd number makes no tie, and the sum is whole and below 2**24.
    return _whole((high * (65025.0 - purity * away) + 32512.0) / 65025.0)


def _sixths(x: Node, high: Node, low: Node, span: Node) -> Node:
    """The hue in sixths of a turn, from -1 to 5, rounded as in rust/data/src/ops/hue.rs: a whole number,
    and the middle channel's distance from the highest added or taken away. Greys have any."""
    r, g, b = x[:, :, 0:1], x[:, :, 1:2], x[:, :, 2:3]
    below = 2.0 * high + low - fn.reductions.sum(x, axes=[2], keep_dims=True, dtype=types.FLOAT)
    part = below / math.max(span, 1.0)
    case = 1 * (r == high) + 2 * (g == high) + 4 * (b == low) + 8 * (r == low)
    start, sign = (fn.lookup_table(case, keys=list(range(16)), values=values) for values in _SECTORS)
    return start + sign * part


def _away() -> list[float]:
    """For each channel, of 512 hues from -128 on, taken modulo 256: how far its value falls, of 255.

    A trapezoid around the circle of six sectors with 255 steps each; red, green and blue are 5, 3 and 1
    sectors on.
    """
    table = []
    for sector in (5, 3, 1):
        for shifted in range(512):
            along = ((shifted - 128) % 256 * 6 + 255 * sector) % 1530
            table.append(float(max(0, min(along, 1020 - along, 255))))
    return table


def _sectors() -> tuple[list[float], list[float]]:
    """By which of these hold (1: red is highest, 2: green is, 4: blue is lowest, 8: red is): where the sector
    starts, and whether the hue rises in it. Of equal channels red comes first, then green."""
    start, sign = [], []
    for case in range(16):
        if case & 1:
            start.append(1.0 if case & 4 else -1.0)
            sign.append(-1.0 if case & 4 else 1.0)
        elif case & 2:
            start.append(1.0 if case & 4 else 3.0)
            sign.append(1.0 if case & 4 else -1.0)
        else:
            start.append(3.0 if case & 8 else 5.0)
            sign.append(1.0 if case & 8 else -1.0)
    return start, sign


_AWAY, _SECTORS = _away(), _sectors()


def blur(x: Node, kernel: Node) -> Node:
    """Three passes along rows, three along columns, each rounded to 8 bits; the border repeats outwards.

    `kernel`: float [width], one pass of the extended box.
    """
    across, down = fn.reshape(kernel, shape=[1, -1]), fn.reshape(kernel, shape=[-1, 1])
    for weights in (across, across, across, down, down, down):
        x = fn.filter(x, weights, border="clamp")
    return x


def _whole(value: Node) -> Node:
    """The whole level below; the cast clips to [0, 255]."""
    return fn.cast(math.floor(value), dtype=types.UINT8)
