"""Here: line charts as inline SVG text, drawn from lists of numbers.

Not here: reading metrics, choosing what to chart, round ticks (barlow.axes), colours (the page's style sheet
owns them).

A chart's viewBox is as wide as a phone's column, so its letters are readable there without zooming;
the page sets charts side by side where there is room.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

from barlow.axes import Axis, number

WIDTH, HEIGHT = 360, 216
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 38
_MAX_POINTS = 240
"""Points drawn of one line; a longer one is drawn as the mean of each stretch inside its range."""


@dataclass(frozen=True)
class Line:
    """One series: finite numbers, `x` ascending."""

    name: str
    style: str
    """Suffix of the CSS classes `line-…` and `band-…`; each style has its own dash pattern as well."""
    points: list[tuple[float, float]]


def line_chart(
    title: str,
    lines: list[Line],
    *,
    x_label: str,
    y_label: str,
    log_y: bool = False,
    log_x: bool = False,
    include: tuple[float, ...] = (),
    with_legend: bool = True,
) -> str:
    """An SVG element with axes, ticks, labels and, for several lines, a legend.

    `include` are y values that the axis must show. On a logarithmic axis, values <= 0 are left out. Only
    without `with_legend` a chart of several lines has none, where others beside it have the same.
    Without any point the text says so, and a single one of each line stands there as a number: nothing can
    be read off a dot between axes.
    """
    lines = [_drawable(line, log_x, log_y) for line in lines]
    lines = [line for line in lines if line.points]
    if not lines:
        return f'<p class="missing">{escape(title)}: nothing was logged.</p>'
    if all(len(line.points) == 1 for line in lines):
        return _numbers(lines, x_label)
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points] + [y for y in include if y > 0 or not log_y]
    x_axis = Axis(min(xs), max(xs), _LEFT, WIDTH - _RIGHT, log=log_x)
    y_axis = Axis(min(ys), max(ys), HEIGHT - _BOTTOM, _TOP, log=log_y, pad=True)
    last = "; ".join(f"{line.name} ends at {number(line.points[-1][1])}" for line in lines)
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(f"{title}: {last}")}">',
        *_frame(x_axis, y_axis, x_label, y_label),
        *(_draw(line, x_axis, y_axis) for line in lines),
        "</svg>",
    ]
    return "".join(parts) + (legend(lines) if len(lines) > 1 and with_legend else "")


def _numbers(lines: list[Line], x_label: str) -> str:
    items = "".join(
        f"<li><strong>{number(y)}</strong> "
        f"<span>{escape(line.name)} at {escape(x_label)} {number(x)}</span></li>"
        for line in lines
        for x, y in line.points
    )
    return f'<ul class="once">{items}</ul><p class="caption">Measured once so far.</p>'


def legend(lines: list[Line]) -> str:
    """The names of the lines beside samples of their strokes, as HTML."""
    items = "".join(
        f'<li><svg viewBox="0 0 28 10" aria-hidden="true"><path class="line line-{line.style}" '
        f'd="M1 5H27"/></svg>{escape(line.name)}</li>'
        for line in lines
    )
    return f'<ul class="legend">{items}</ul>'


def _frame(x_axis: Axis, y_axis: Axis, x_label: str, y_label: str) -> list[str]:
    left, right, bottom, top = _LEFT, WIDTH - _RIGHT, HEIGHT - _BOTTOM, _TOP
    parts = []
    for tick in y_axis.ticks:
        y = y_axis.position(tick)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{right}"/>')
        parts.append(
            f'<text class="tick" x="{left - 6}" y="{y + 3.5:.1f}" text-anchor="end">{number(tick)}</text>'
        )
    for tick in x_axis.ticks:
        x = x_axis.position(tick)
        parts.append(f'<path class="axis" d="M{x:.1f} {bottom}v4"/>')
        # A label under the last tick would be cut off by the edge of the picture.
        anchor = "end" if x > right - 12 else "middle"
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{bottom + 15}" text-anchor="{anchor}">{number(tick)}</text>'
        )
    parts.append(f'<path class="axis" d="M{left} {bottom}H{right}"/>')
    parts.append(
        f'<text class="label" x="{(left + right) / 2}" y="{HEIGHT - 5}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
    )
    middle = (top + bottom) / 2
    parts.append(
        f'<text class="label" transform="translate(11 {middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    return parts


def _drawable(line: Line, log_x: bool, log_y: bool) -> Line:
    points = [
        (x, y) for x, y in line.points if math.isfinite(y) and (y > 0 or not log_y) and (x > 0 or not log_x)
    ]
    return Line(line.name, line.style, points)


def _draw(line: Line, x_axis: Axis, y_axis: Axis) -> str:
    def place(points: list[tuple[float, float]]) -> str:
        return " ".join(f"{x_axis.position(x):.1f},{y_axis.position(y):.1f}" for x, y in points)

    if len(line.points) == 1:
        x, y = line.points[0]
        return (
            f'<circle class="dot line-{line.style}" cx="{x_axis.position(x):.1f}" '
            f'cy="{y_axis.position(y):.1f}" r="3"/>'
        )
    if len(line.points) <= _MAX_POINTS:
        return f'<polyline class="line line-{line.style}" points="{place(line.points)}"/>'
    means, lows, highs = thin(line.points, _MAX_POINTS)
    return (
        f'<polygon class="band band-{line.style}" points="{place(highs + lows[::-1])}"/>'
        f'<polyline class="line line-{line.style}" points="{place(means)}"/>'
    )


def thin(points: list[tuple[float, float]], count: int) -> tuple[list[tuple[float, float]], ...]:
    """`count` stretches of equal length in points: (mean, lowest, highest) of each at its mean x."""
    means, lows, highs = [], [], []
    for i in range(count):
        part = points[i * len(points) // count : (i + 1) * len(points) // count]
        x = sum(x for x, _ in part) / len(part)
        values = [y for _, y in part]
        means.append((x, sum(values) / len(values)))
        lows.append((x, min(values)))
        highs.append((x, max(values)))
    return means, lows, highs
