"""Here: pixels to data URIs, and the colours of the cross-correlation matrix.

Not here: which pictures are shown (gallery.py), HTML around them.
"""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

MATRIX_SIDE = 512
"""Largest side in pixels of the matrix's picture."""
# Blue - light grey - red, told apart in every common colour blindness; the ends are equally dark, so
# that the size of a value can be read without telling the hues apart.
_STOPS = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
_COLOURS = np.array(
    [[12, 44, 104], [74, 138, 196], [243, 243, 240], [222, 124, 88], [122, 16, 32]], dtype=float
)


def data_uri(pixels_HW3: np.ndarray, *, max_side: int = 0) -> str:
    """RGB uint8 [H, W, 3] as a `data:` URI: PNG up to 64 x 64 pixels, JPEG above.

    `max_side` > 0 shrinks larger pictures to it, keeping their proportions.
    """
    image = Image.fromarray(pixels_HW3, "RGB") if pixels_HW3.ndim == 3 else Image.fromarray(pixels_HW3)
    if max_side and max(image.size) > max_side:
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    small = max(image.size) <= 64
    return _encode(image, "PNG" if small else "JPEG")


def matrix_uri(c_DD: np.ndarray) -> str:
    """The picture of a matrix with values in [-1, 1] as a PNG `data:` URI.

    Matrices larger than 512 are reduced by blocks to the value farthest from 0, so that a single large
    correlation among millions stays visible; smaller ones are drawn with whole pixels.
    """
    reduced = block_extremes(c_DD, MATRIX_SIDE)
    scale = max(1, MATRIX_SIDE // len(reduced))
    image = Image.fromarray(colours(reduced).repeat(scale, 0).repeat(scale, 1))
    return _encode(image.quantize(256), "PNG")


def block_extremes(c_DD: np.ndarray, max_side: int) -> np.ndarray:
    """At most `max_side` x `max_side` values: of each square block the one farthest from 0, with its sign."""
    block = -(-len(c_DD) // max_side)
    if block == 1:
        return c_DD
    side = -(-len(c_DD) // block)
    padded = np.zeros((side * block, side * block), dtype=c_DD.dtype)
    padded[: len(c_DD), : len(c_DD)] = c_DD
    blocks = padded.reshape(side, block, side, block)
    high, low = blocks.max(axis=(1, 3)), blocks.min(axis=(1, 3))
    return np.where(high >= -low, high, low)


def colours(values: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] of values in [-1, 1], on a scale of signed square roots.

    Off the diagonal a trained matrix has values of a few hundredths; on a linear scale they would all
    look like zero.
    """
    place = np.sign(values) * np.sqrt(np.abs(np.clip(values, -1, 1)))
    channels = [np.interp(place, _STOPS, _COLOURS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def scale_uri(width: int = 256, height: int = 12) -> str:
    """The colour scale from -1 to 1, evenly spaced in signed square roots, as a PNG `data:` URI."""
    place = np.linspace(-1, 1, width)
    row = colours(np.sign(place) * place**2)
    return _encode(Image.fromarray(np.broadcast_to(row, (height, width, 3)).copy()), "PNG")


def _encode(image: Image.Image, form: str) -> str:
    buffer = io.BytesIO()
    if form == "PNG":
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=85, optimize=True)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
