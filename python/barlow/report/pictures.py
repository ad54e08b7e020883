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


def matrix_uri(c_SS: np.ndarray, *, enlarge: bool = True) -> str:
    """The picture of a matrix of at most 512 x 512 values in [-1, 1] as a PNG `data:` URI.

    With `enlarge` small ones are drawn with several whole pixels for each value: crisp wherever they go.
    """
    scale = max(1, MATRIX_SIDE // len(c_SS)) if enlarge else 1
    image = Image.fromarray(colours(c_SS).repeat(scale, 0).repeat(scale, 1))
    return _encode(image.quantize(256), "PNG")


def block_extremes(c_RD: np.ndarray, block: int) -> np.ndarray:
    """Of each block x block square of a matrix the value farthest from 0, with its sign.

    So a single large correlation among millions stays visible. The last squares of rows and columns may be
    smaller ones.
    """
    if block == 1:
        return c_RD
    rows, columns = (-(-length // block) for length in c_RD.shape)
    padded = np.zeros((rows * block, columns * block), dtype=c_RD.dtype)
    padded[: c_RD.shape[0], : c_RD.shape[1]] = c_RD
    blocks = padded.reshape(rows, block, columns, block)
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
