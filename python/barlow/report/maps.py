"""Here: the section with the images of a run as points in the plane, coloured by class.

Not here: where the points lie (layout.py), features (gallery.py).
"""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass
from html import escape

import torch
from torch import Tensor

from barlow.report import gallery, page
from barlow.report.layout import pca, tsne

MOST_POINTS = 600
"""Images on a map; exact t-SNE compares all pairs, 400 times."""
_MOST_CLASSES = 10
_SIDE = 320


@dataclass(frozen=True)
class Map:
    """The same images by two layouts."""

    points: dict[str, list[tuple[float, float]]]
    """By layout: positions in [0, 1], y downwards."""
    explained: tuple[float, float]
    """Shares of the variance along the two directions of PCA."""
    classes: list[str | None]
    """Of each image."""
    held_out: bool


def map_of(features: gallery.Features) -> Map:
    """Of up to 600 of the queries."""
    chosen = gallery.spread(len(features.queries_MF), MOST_POINTS)
    x_NF = features.queries_MF[chosen]
    names = gallery.class_names(features.queries)
    principal_N2, explained = pca(x_NF)
    points = {"PCA": _unit(principal_N2)}
    if len(chosen) >= 8:
        # By direction alone, as the neighbours below are found.
        points["t-SNE"] = _unit(tsne(torch.nn.functional.normalize(x_NF, dim=1)))
    return Map(points, explained, [names[i] for i in chosen], features.held_out)


def _unit(points_N2: Tensor) -> list[tuple[float, float]]:
    """Into the unit square, the same scale along both axes: distances mean something."""
    low_2, high_2 = points_N2.min(0).values, points_N2.max(0).values
    side = (high_2 - low_2).max().clamp_min(1e-12)
    centred_N2 = (points_N2 - (low_2 + high_2) / 2) / side + 0.5
    return [(x, 1 - y) for x, y in centred_N2.tolist()]


def section_of(found: list[tuple[str, Map]]) -> str:
    """The maps of the runs, by name."""
    parts = []
    for name, m in found:
        head = f"<h3>{escape(name)}</h3>" if len(found) > 1 else ""
        common = [name for name, _ in Counter(filter(None, m.classes)).most_common(_MOST_CLASSES)]
        colours = {name: f"c{i}" for i, name in enumerate(sorted(common))}
        figures = "".join(_figure(kind, points, m, colours) for kind, points in m.points.items())
        parts.append(f'{head}<div class="charts maps">{figures}</div>{_key(m, colours)}')
    what = "held-out images" if all(m.held_out for _, m in found) else "training images"
    return page.section(
        "<h2>Map of the features</h2>",
        f'<p class="why">Each point is one of {len(found[0][1].classes):,} {what}, placed by the '
        "backbone&rsquo;s features alone; classes only colour it. Healthy: classes gather, at least in part, "
        "though no label was ever seen. One tight ball with stragglers is a collapse.</p>",
        *parts,
        anchor="map",
    )


def _figure(kind: str, points: list[tuple[float, float]], m: Map, colours: dict[str, str]) -> str:
    place = [(12 + x * (_SIDE - 24), 12 + y * (_SIDE - 24)) for x, y in points]
    # Uncoloured points first, so that they cover none of the others.
    order = sorted(range(len(place)), key=lambda i: m.classes[i] in colours)
    dots = "".join(
        f'<circle class="point {colours.get(m.classes[i] or "", "c-none")}" cx="{place[i][0]:.1f}" '
        f'cy="{place[i][1]:.1f}" r="2.6"/>'
        for i in order
    )
    labels = _labels(place, m.classes, colours) if kind == "t-SNE" else {}
    words = "".join(
        f'<text class="tag-of" x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{escape(short(name))}</text>'
        for name, (x, y) in labels.items()
    )
    note = {
        "PCA": f"The two directions of largest variance, {100 * m.explained[0]:.0f} % and "
        f"{100 * m.explained[1]:.0f} % of it. Distances are true, but most directions are not shown.",
        "t-SNE": "Neighbours stay neighbours; distances between groups mean nothing. Names stand at the "
        "middle of their class.",
    }[kind]
    return (
        f'<figure><h3>{kind}</h3><svg class="chart map" viewBox="0 0 {_SIDE} {_SIDE}" role="img" '
        f'aria-label="{kind} of {len(points)} images">{dots}{words}</svg>'
        f'<figcaption class="caption">{note}</figcaption></figure>'
    )


def _labels(
    place: list[tuple[float, float]], classes: list[str | None], colours: dict[str, str]
) -> dict[str, tuple[float, float]]:
    """Where the names of classes stand: at the medians of their points, moved apart where they overlap."""
    at: dict[str, tuple[float, float]] = {}
    for name in colours:
        own = [place[i] for i, of in enumerate(classes) if of == name]
        x, y = (statistics.median(values) for values in zip(*own, strict=True))
        at[name] = (min(max(x, 36), _SIDE - 36), y)
    placed: dict[str, tuple[float, float]] = {}
    for name, (x, y) in sorted(at.items(), key=lambda item: item[1][1]):
        reach = 3.2 * len(short(name))
        for other, (x2, y2) in placed.items():  # from top to bottom
            if abs(x - x2) < reach + 3.2 * len(short(other)) and y - y2 < 12:
                y = y2 + 12
        placed[name] = (x, min(y, _SIDE - 6))
    return placed


def _key(m: Map, colours: dict[str, str]) -> str:
    if not colours:
        return '<p class="caption">These images have no labels, so no colours.</p>'
    items = "".join(
        f'<li><i class="swatch {style}"></i>{escape(name)}</li>' for name, style in colours.items()
    )
    others = len(set(filter(None, m.classes))) - len(colours)
    rest = f'<li><i class="swatch c-none"></i>{others:,} other classes</li>' if others > 0 else ""
    return f'<ul class="legend flush">{items}{rest}</ul>'


def short(name: str, most: int = 12) -> str:
    """A class name that fits into the map."""
    return name if len(name) <= most else f"{name[: most - 1]}…"
