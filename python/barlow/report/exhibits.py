"""Here: the sections made of pictures: views, cross-correlation matrix, neighbours.

Not here: computing them (gallery.py).
"""

from __future__ import annotations

from html import escape

from barlow.report import charts
from barlow.report.gallery import Matrix, Neighbour, Neighbourhood, Source
from barlow.report.page import section
from barlow.report.pictures import MATRIX_SIDE, scale_uri

PIXELATED_PX = 64
"""Views up to this size are enlarged with hard pixels, so that one sees what the network sees."""


def contact_sheet(sources: list[Source], *, view_px: int) -> str:
    """Images beside their two views, with the crop windows drawn into the image."""
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
        "<h2>What the network is shown</h2>",
        f'<p class="why">Each image and its two views, {view_px} px, exactly as epoch 0 drew them: the '
        'window of the <span class="key-one">first view</span> is solid, of the '
        '<span class="key-two">second</span> dashed. Below each view, what was done to it, in order.</p>',
        f'<div class="samples{"" if small else " large"}">{"".join(figures)}</div>',
    )


def _rect(window: tuple[float, float, float, float]) -> str:
    x, y, width, height = window
    return f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'


def matrix(m: Matrix, *, held_out: bool) -> str:
    """The cross-correlation matrix as a picture with its scale."""
    block = -(-m.num_dims // MATRIX_SIDE)
    reduced = f" Each pixel is the value farthest from 0 among {block} &times; {block}." if block > 1 else ""
    text = (
        f"cross-correlation matrix, {m.num_dims} by {m.num_dims}: mean on the diagonal {m.on_diagonal:.3f}, "
        f"rms off the diagonal {m.off_diagonal_rms:.4f}"
    )
    ticks = "".join(
        f'<span style="left:{100 * place:g}%">{label}</span>'
        for place, label in ((0, "&minus;1"), (0.25, "&minus;0.25"), (0.5, "0"), (0.75, "0.25"), (1, "1"))
    )
    facts = (
        ("images", f"{m.num_images:,}, {'held out' if held_out else 'of the training data'}"),
        ("dimensions", f"{m.num_dims:,}"),
        ("mean on the diagonal (goal 1)", f"{m.on_diagonal:.3f}"),
        ("rms off the diagonal (goal 0)", f"{m.off_diagonal_rms:.4f}"),
        ("chance level of that rms", f"{m.num_images**-0.5:.4f}"),
    )
    goal = "A loss other than Barlow Twins has no such goal in itself."
    if m.loss is not None:
        facts += (("loss of this batch (floor)", f"{charts.number(m.loss)} ({charts.number(m.floor)})"),)
        goal = "The loss pulls the diagonal to 1 and everything else to 0."
    side = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    return section(
        "<h2>Cross-correlation of the two views</h2>",
        '<p class="why">Row: dimension of the first view&rsquo;s embedding; column: of the second&rsquo;s. '
        f"{goal}{reduced}</p>",
        f'<div class="matrix"><img src="{m.uri}" alt="{text}"><div>'
        f'<img class="scale" src="{scale_uri()}" alt="colour scale from -1 to 1">'
        f'<div class="scale-ticks">{ticks}</div>'
        '<p class="caption">Correlation; the scale is stretched around 0.</p>'
        f'<dl class="facts">{side}</dl></div></div>',
    )


def neighbours(hood: Neighbourhood, *, held_out: bool) -> str:
    """Query images, each with its nearest neighbours."""
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
        "<h2>Nearest neighbours</h2>",
        f'<p class="why">Queries (framed) are {kind}; beside each the nearest of {hood.num_searched:,} '
        f"training images{of} by cosine of the backbone&rsquo;s features. &#10003; same class, "
        f"&#10007; another.{score}</p>",
        f'<div class="hoods">{"".join(rows)}</div>',
    )


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
