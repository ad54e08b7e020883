"""Here: a result as horizontal bars with their spread, laid out once and written as SVG or PNG.

Not here: numbers. A chart of bars shares nothing with the report's line charts but the letters: it stands
alone in a README, so its colours are inside, on a background of its own.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from barlow.bench import tables
from barlow.bench.pipelines import DECODE, OFFICIAL, OURS
from barlow.durable import write_file

WIDTH = 900
_LABELS, _RATES, _MARGIN = 300, 150, 24
_ROW, _BAR, _PANEL_GAP = 30, 16, 26
_INK, _SOFT, _PAPER = "#1f2328", "#59636e", "#ffffff"
_FILLS = {OURS: "#1769aa", OFFICIAL: "#59636e", DECODE: "#ffffff"}
_PEER = "#b6bec8"
_SCALE = 2
"""Pixels of the PNG for each unit of the layout."""


@dataclass(frozen=True)
class Box:
    """A filled rectangle with a thin edge."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    edge: str


@dataclass(frozen=True)
class Text:
    """Letters on a base line at `y`; `end`: they end at `x` instead of starting there."""

    x: float
    y: float
    text: str
    size: int = 13
    colour: str = _INK
    end: bool = False


Shape = Box | Text


def check(path: Path) -> None:
    """`ValueError` unless `write` knows the kind of file, so that a long measurement is not in vain."""
    if path.suffix.lower() not in {".svg", ".png"}:
        raise ValueError(f"--picture must end in .svg or .png, not {path.name!r}")


def write(result: dict[str, Any], path: Path) -> Path:
    """Draws the result into a file, durably; returns its path."""
    check(path)
    shapes, height = layout(result)
    write_file(path, svg(shapes, height) if path.suffix.lower() == ".svg" else png(shapes, height))
    return path


def layout(result: dict[str, Any]) -> tuple[list[Shape], int]:
    """The shapes of the picture and its height: a panel for each thread count, all on one scale from 0."""
    rates = [line["images_per_s"]["max"] for run in result["runs"] for line in run["pipelines"]]
    scale = (WIDTH - _LABELS - _RATES - 2 * _MARGIN) / max(rates, default=1.0)
    shapes: list[Shape] = []
    y = _MARGIN
    for run in result["runs"]:
        shapes.append(Text(_MARGIN, y + 14, tables.caption(result, run), 15))
        y += 28
        for line in run["pipelines"]:
            shapes += _row(line, y, scale)
            y += _ROW
        y += _PANEL_GAP
    y -= _PANEL_GAP - 20
    # The versions are in the JSON and under the table; here the line would not fit.
    for line in tables.facts(result)[:2]:
        shapes.append(Text(_MARGIN, y, line, 11, _SOFT))
        y += 16
    return shapes, y + _MARGIN - 16


def _row(line: dict[str, Any], y: float, scale: float) -> Iterator[Shape]:
    rate, name = line["images_per_s"], line["name"]
    left, middle = _MARGIN + _LABELS, y + _ROW / 2
    yield Text(left - 10, middle + 4.5, tables.label(line), end=True)
    length = rate["median"] * scale
    edge = _SOFT if name == DECODE else "none"
    yield Box(left, middle - _BAR / 2, length, _BAR, _FILLS.get(name, _PEER), edge)
    low, high = left + rate["min"] * scale, left + rate["max"] * scale
    yield Box(low, middle - 0.75, max(high - low, 1.5), 1.5, _INK, "none")
    for end in (low, high):
        yield Box(end - 0.75, middle - 4, 1.5, 8, _INK, "none")
    ratio = tables.times(line["x_official"])
    words = tables.number(rate["median"]) + (f" (x {ratio})" if ratio and name != OFFICIAL else "")
    yield Text(max(high, left + length) + 10, middle + 4.5, words)


def svg(shapes: list[Shape], height: int) -> str:
    """The shapes as an SVG document that loads nothing."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="{_PAPER}"/>',
    ]
    for shape in shapes:
        if isinstance(shape, Box):
            parts.append(
                f'<rect x="{shape.x:.1f}" y="{shape.y:.1f}" width="{shape.width:.1f}" '
                f'height="{shape.height:.1f}" fill="{shape.fill}" stroke="{shape.edge}"/>'
            )
        else:
            anchor = ' text-anchor="end"' if shape.end else ""
            parts.append(
                f'<text x="{shape.x:.1f}" y="{shape.y:.1f}" font-size="{shape.size}" '
                f'fill="{shape.colour}"{anchor}>{escape(shape.text)}</text>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"


def png(shapes: list[Shape], height: int) -> bytes:
    """The shapes as a PNG of twice the size, in Pillow's own letters."""
    image = Image.new("RGB", (WIDTH * _SCALE, height * _SCALE), _PAPER)
    draw = ImageDraw.Draw(image)
    for shape in shapes:
        x, y = shape.x * _SCALE, shape.y * _SCALE
        if isinstance(shape, Box):
            # Pillow's right and bottom edges belong to the rectangle.
            right, bottom = x + math.ceil(shape.width * _SCALE) - 1, y + math.ceil(shape.height * _SCALE) - 1
            outline = None if shape.edge == "none" else shape.edge
            draw.rectangle((x, y, max(x, right), bottom), shape.fill, outline, _SCALE // 2)
        else:
            font = ImageFont.load_default(shape.size * _SCALE)
            draw.text((x, y), shape.text, shape.colour, font, anchor="rs" if shape.end else "ls")
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()
