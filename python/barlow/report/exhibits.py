"""Here: the sections made of images: views and neighbours.

Not here: computing them (gallery.py).
"""

from __future__ import annotations

from html import escape

from barlow.report.gallery import Neighbour, Neighbourhood, Source
from barlow.report.page import section

PIXELATED_PX = 64
"""Views up to this size are enlarged with hard pixels, so that one sees what the network sees."""


def contact_sheet(sources: list[Source], *, view_px: int, of: str = "") -> str:
    """Images beside their two views, with the crop windows drawn into the image; `of` names the run."""
    small = " small" if view_px <= PIXELATED_PX else ""
    figures = []
    for source in sources:
        frames = "".join(
            f'<rect class="window-halo" {_rect(view.window)}/>'
            f'<rect class="window window-{name}" {_rect(view.window)}/>'
            for view, name in zip(source.views, ("one", "two"), strict=True)
        )
        picture = (
            f'<svg viewBox="0 0 {source.width} {source.height}" role="img" aria-label="source image: '
            f'{escape(source.caption)}, with both crop windows"><image href="{source.uri}" '
            f'width="{source.width}" height="{source.height}"/>{frames}</svg>'
        )
        cells = [
            f"<div>{picture}<div class=caption>{escape(source.caption)}<br>"
            f"{source.width} &times; {source.height} px</div></div>"
        ]
        for number, view in enumerate(source.views, 1):
            x, y, width, height = view.window
            words = [
                f"crop {width:g} &times; {height:g} at {x:g}, {y:g}",
                *(escape(step) for step in view.steps),
            ]
            cells.append(
                f'<div><img src="{view.uri}" alt="view {number} of {escape(source.caption)}">'
                f"<div class=caption>{'<br>'.join(words)}</div></div>"
            )
        figures.append(f'<figure class="sample{small}"><div class="trio">{"".join(cells)}</div></figure>')
    return section(
        f"<h2>What the network is shown{_of(of)}</h2>",
        f'<p class="why">Each image and its two views, {view_px} px, exactly as epoch 0 drew them: the '
        'window of the <span class="key-one">first view</span> is solid, of the '
        '<span class="key-two">second</span> dashed. Below each view, what was done to it, in order. '
        "Healthy: views that differ much, and still show that they are of one image.</p>",
        f'<div class="samples{"" if small else " large"}">{"".join(figures)}</div>',
        anchor="views",
    )


def _rect(window: tuple[float, float, float, float]) -> str:
    x, y, width, height = window
    return f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'


def neighbours(hood: Neighbourhood, *, held_out: bool, of: str = "") -> str:
    """Query images, each with its nearest neighbours; `of` names the run."""
    rows = []
    for query in hood.shown:
        cells = [
            f'<figure class="query"><img src="{query.uri}" alt="query: {escape(query.caption)}">'
            f"<figcaption><strong>{escape(query.caption)}</strong></figcaption></figure>"
        ]
        cells += [_found(neighbour) for neighbour in query.found]
        rows.append(f'<div class="hood">{"".join(cells)}</div>')
    kind = "held-out images" if held_out else "training images (each finds others than itself)"
    of = "" if hood.num_searched == hood.num_train else f", evenly spaced ones of {hood.num_train:,},"
    score = ""
    if hood.num_judged:
        judged = [found.hit for query in hood.shown for found in query.found if found.hit is not None]
        score = (
            f" Of the {len(judged)} neighbours shown, {sum(judged)} have the query&rsquo;s class; of the "
            f"neighbours of {hood.num_judged:,} queries, {100 * hood.same_class:.1f} %."
        )
    return section(
        f"<h2>Nearest neighbours{_of(of)}</h2>",
        f'<p class="why">Queries (framed) are {kind}; beside each the nearest of {hood.num_searched:,} '
        f"training images{of} by cosine of the backbone&rsquo;s features. &#10003; same class, "
        f"&#10007; another.{score}</p>",
        f'<div class="hoods">{"".join(rows)}</div>',
        anchor="neighbours",
    )


def _of(name: str) -> str:
    return f": {escape(name)}" if name else ""


def _found(neighbour: Neighbour) -> str:
    mark, words = {
        True: ('<span class="hit" aria-hidden="true">&#10003;</span> ', "same class: "),
        False: ('<span class="miss" aria-hidden="true">&#10007;</span> ', "other class: "),
        None: ("", ""),
    }[neighbour.hit]
    return (
        f'<figure><img src="{neighbour.uri}" alt="{words}{escape(neighbour.caption)}">'
        f"<figcaption>{mark}{neighbour.similarity:.2f}<br>{escape(neighbour.caption)}</figcaption></figure>"
    )
