"""Here: an outcome as an SVG that stands alone: our means, their spread and the paper's numbers.

Not here: numbers (outcome.py), round ticks (barlow.axes). Every mark has its numbers as a tooltip.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any, NamedTuple

from barlow.axes import Axis, number

Json = dict[str, Any]

WIDTH = 900
_MARGIN, _LABELS, _ROW, _HEAD, _FOOT = 24, 330, 34, 64, 52
_PANEL, _PANEL_TOP, _PANEL_LEFT = 300, 84, 52
_INK, _SOFT, _GRID, _PAPER = "#1f2328", "#59636e", "#d9dee3", "#ffffff"


class _Probe(NamedTuple):
    key: str
    words: str
    colour: str
    shape: str


_PROBES = (
    _Probe("linear", "linear probe", "#1769aa", "circle"),
    _Probe("knn", "kNN", "#c26a00", "square"),
)
_PAPERS = _Probe("paper", "paper: linear probe, ImageNet", "#59636e", "diamond")


def svg(outcome: Json) -> str:
    """Rows that are names as a list of marks, points of an axis as curves."""
    if outcome["axis"]:
        body, height = _curves(outcome)
    else:
        body, height = _list(outcome)
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" '
        f'role="img" aria-label="{escape(outcome["title"])}">',
        f'<rect width="{WIDTH}" height="{height}" fill="{_PAPER}"/>',
        _text(_MARGIN, 28, f"{outcome['title']}, scale {outcome['scale']}", 16),
        *_legend(outcome),
    ]
    return "\n".join([*head, *body, "</svg>"]) + "\n"


def _list(outcome: Json) -> tuple[list[str], int]:
    rows = outcome["rows"]
    height = _HEAD + _ROW * len(rows) + _FOOT
    axis = _percents(outcome, _MARGIN + _LABELS, WIDTH - _MARGIN)
    bottom = height - _FOOT
    parts = []
    for tick in axis.ticks:
        x = axis.position(tick)
        parts.append(_path(f"M{x:.1f} {_HEAD}V{bottom}", _GRID))
        parts.append(_text(x, bottom + 16, number(tick), 11, _SOFT, "middle"))
    label = "top-1 on held-out images, percent; bars: standard deviation, small dots: seeds"
    parts.append(_text((axis.start + axis.end) / 2, bottom + 36, label, 12, _SOFT, "middle"))
    for name, value in _lines(outcome):
        x = axis.position(value)
        parts.append(_path(f"M{x:.1f} {_HEAD}V{bottom}", _SOFT, "4 3", title=f"{name}: {value:.1f}"))
        parts.append(_text(x, _HEAD - 5, name, 10, _SOFT, "middle"))
    for i, row in enumerate(rows):
        middle = _HEAD + _ROW * (i + 0.5)
        parts.append(_text(_MARGIN + _LABELS - 12, middle + 4, row["label"], 13, _INK, "end"))
        # The two probes a little apart, so that neither hides the other.
        for probe, y in zip(_PROBES, (middle - 5, middle + 5), strict=True):
            parts += _across(row, probe, axis, y)
        if row["paper"] is not None:
            words = f"{row['label']}, paper: {row['paper']:.1f}"
            parts.append(_mark(axis.position(row["paper"]), middle, _PAPERS, words))
    return parts, height


def _across(row: Json, probe: _Probe, axis: Axis, y: float) -> Iterator[str]:
    summary = row[probe.key]
    if summary["mean"] is None:
        return
    low, high = (axis.position(value) for value in _reach(summary))
    yield _path(f"M{low:.2f} {y:.1f}H{high:.2f}", probe.colour, width=2.0)
    for value in summary["seeds"].values():
        yield _dot(axis.position(value), y, probe)
    yield _mark(axis.position(summary["mean"]), y, probe, _words(row, probe))


def _curves(outcome: Json) -> tuple[list[str], int]:
    """A panel for each series, side by side."""
    series = list(dict.fromkeys(row["series"] for row in outcome["rows"]))
    height = _PANEL_TOP + _PANEL + _FOOT
    y_axis = _percents(outcome, _PANEL_TOP + _PANEL, _PANEL_TOP)
    width = (WIDTH - 2 * _MARGIN) / len(series)
    parts: list[str] = []
    for i, name in enumerate(series):
        rows = sorted((r for r in outcome["rows"] if r["series"] == name), key=lambda row: row["x"])
        xs = [row["x"] for row in rows]
        left = _MARGIN + width * i + _PANEL_LEFT
        right = _MARGIN + width * (i + 1) - 16
        x_axis = Axis(min(xs), max(xs), left + 14, right - 14, log=max(xs) > 8 * min(xs))
        label = (
            f"{name}: {outcome['axis']}"
            if name == "width"
            else ("layers" if name == "depth" else outcome["axis"])
        )
        parts += _panel(x_axis, y_axis, (left, right), xs, label)
        for line, value in _lines(outcome):
            y = y_axis.position(value)
            parts.append(
                _path(f"M{left:.1f} {y:.1f}H{right:.1f}", _SOFT, "4 3", title=f"{line}: {value:.1f}")
            )
            parts.append(_text(right, y - 4, line, 10, _SOFT, "end"))
        for probe in _PROBES:
            parts += _curve(rows, probe, x_axis, y_axis)
        parts += [
            _mark(
                x_axis.position(r["x"]),
                y_axis.position(r["paper"]),
                _PAPERS,
                f"{r['label']}, paper: {r['paper']}",
            )
            for r in rows
            if r["paper"] is not None
        ]
    return parts, height


def _panel(
    x_axis: Axis, y_axis: Axis, sides: tuple[float, float], xs: Sequence[float], label: str
) -> Iterator[str]:
    (left, right), bottom = sides, y_axis.start
    yield _text(
        left, y_axis.end - 12, "top-1 on held-out images, percent; bars: standard deviation", 11, _SOFT
    )
    for tick in y_axis.ticks:
        y = y_axis.position(tick)
        yield _path(f"M{left:.1f} {y:.1f}H{right:.1f}", _GRID)
        yield _text(left - 8, y + 4, number(tick), 11, _SOFT, "end")
    for x in xs:  # the settings that were run, not round numbers between them
        yield _path(f"M{x_axis.position(x):.1f} {bottom}v4", _SOFT)
        yield _text(x_axis.position(x), bottom + 17, f"{x:g}", 11, _SOFT, "middle")
    yield _text((left + right) / 2, bottom + 38, label, 12, _SOFT, "middle")


def _curve(rows: Sequence[Json], probe: _Probe, x_axis: Axis, y_axis: Axis) -> Iterator[str]:
    scored = [row for row in rows if row[probe.key]["mean"] is not None]
    places = [(x_axis.position(row["x"]), y_axis.position(row[probe.key]["mean"])) for row in scored]
    if len(places) > 1:
        points = " ".join(f"{x:.2f},{y:.2f}" for x, y in places)
        yield f'<polyline points="{points}" fill="none" stroke="{probe.colour}" stroke-width="1.5"/>'
    for row, (x, y) in zip(scored, places, strict=True):
        low, high = (y_axis.position(value) for value in _reach(row[probe.key]))
        yield _path(f"M{x:.2f} {low:.2f}V{high:.2f}", probe.colour, width=2.0)
        for value in row[probe.key]["seeds"].values():
            yield _dot(x, y_axis.position(value), probe)
        yield _mark(x, y, probe, _words(row, probe))


def _percents(outcome: Json, start: float, end: float) -> Axis:
    """An axis that shows every mark, bar and line of the picture."""
    shown = [value for _, value in _lines(outcome)]
    for row in outcome["rows"]:
        shown += [] if row["paper"] is None else [row["paper"]]
        for probe in _PROBES:
            if row[probe.key]["mean"] is not None:
                shown += [*_reach(row[probe.key]), *row[probe.key]["seeds"].values()]
    shown = shown or [0.0, 100.0]
    return Axis(min(shown), max(shown), start, end, log=False, pad=True)


def _lines(outcome: Json) -> list[tuple[str, float]]:
    untrained = outcome["untrained"]
    found = [("untrained, linear", untrained["linear"]["mean"])] if untrained else []
    # Curves lie far above chance, and would be flat beside it.
    return found if outcome["axis"] else [("chance", outcome["chance"]), *found]


def _reach(summary: Json) -> tuple[float, float]:
    spread = summary["std"] or 0.0
    return summary["mean"] - spread, summary["mean"] + spread


def _words(row: Json, probe: _Probe) -> str:
    summary = row[probe.key]
    spread = "" if summary["std"] is None else f" ± {summary['std']:.2f}"
    seeds = len(summary["seeds"])
    return f"{row['label']}, {probe.words}: {summary['mean']:.2f}{spread} ({seeds} seed{'s' * (seeds > 1)})"


def _legend(outcome: Json) -> Iterator[str]:
    x = float(_MARGIN) + 6
    has_paper = any(row["paper"] is not None for row in outcome["rows"])
    for probe in (*_PROBES, *((_PAPERS,) if has_paper else ())):
        yield _mark(x, 46, probe, "")
        yield _text(x + 10, 50, probe.words, 12, _SOFT)
        x += 34 + 6.6 * len(probe.words)


def _mark(x: float, y: float, probe: _Probe, words: str) -> str:
    title = f"<title>{escape(words)}</title>" if words else ""
    if probe.shape == "circle":
        return f'<circle cx="{x:.2f}" cy="{y:.2f}" r="5" fill="{probe.colour}">{title}</circle>'
    if probe.shape == "square":
        return (
            f'<rect x="{x - 4:.2f}" y="{y - 4:.2f}" width="8" height="8" fill="{probe.colour}">{title}</rect>'
        )
    return (
        f'<path d="M{x:.2f} {y - 6:.2f}l6 6l-6 6l-6 -6z" fill="{_PAPER}" stroke="{probe.colour}" '
        f'stroke-width="1.5">{title}</path>'
    )


def _dot(x: float, y: float, probe: _Probe) -> str:
    """Of a single seed."""
    edge = f'stroke="{_PAPER}" stroke-width="0.5"'
    return f'<circle cx="{x:.2f}" cy="{y:.2f}" r="2" fill="{probe.colour}" {edge}/>'


def _path(line: str, colour: str, dashes: str = "", *, width: float = 1.0, title: str = "") -> str:
    pattern = f' stroke-dasharray="{dashes}"' if dashes else ""
    inside = f"<title>{escape(title)}</title>" if title else ""
    return f'<path d="{line}" stroke="{colour}" stroke-width="{width:g}" fill="none"{pattern}>{inside}</path>'


def _text(x: float, y: float, words: str, size: int, colour: str = _INK, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}">'
        f"{escape(words)}</text>"
    )
