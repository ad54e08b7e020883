"""Here: the frame of the report: the document, its header, the settings, a section and a gap.

Not here: what fills the sections (results.py, curves.py, ...), several runs at once (overview.py), files.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any

from barlow.config import TIMM, flat
from barlow.report import charts
from barlow.report.record import Record
from barlow.terminal import end_of

_STYLE = Path(__file__).with_name("report.css")


def page(title: str, sections: list[str]) -> str:
    """The whole document. It loads nothing: style, pictures and charts are inside."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE.read_text()}</style></head><body><main>"
        + "\n".join(section for section in sections if section)
        + "</main></body></html>\n"
    )


def header(rec: Record, *, synthetic: bool, nav: str = "") -> str:
    """Name, state and the facts that one asks for first, and the links to the sections."""
    tags = []
    total, done = rec.total_steps, rec.done_steps
    if total is not None:
        finished = done >= total
        tags.append(
            f'<span class="tag{"" if finished else " strong"}">'
            f"{'finished' if finished else 'not finished'}: {done:,} of {total:,} steps</span>"
        )
    if synthetic:
        tags.append(synthetic_tag())
    facts = "".join(
        f"<div{' class=wide' if wide else ''}><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value, wide in _facts(rec)
    )
    gaps = ""
    if rec.missing:
        items = "".join(f"<li>{escape(line)}</li>" for line in rec.missing)
        gaps = f'<div class="missing"><strong>Left out of this report</strong><ul>{items}</ul></div>'
    return (
        f'<header><p class="soft">barlow report</p><h1>{escape(rec.folder.resolve().name)}</h1>'
        f'<div>{"".join(tags)}</div>{headline(rec)}<dl class="facts">{facts}</dl>{gaps}{nav}</header>'
    )


def synthetic_tag() -> str:
    """So that nobody takes a demonstration for a result."""
    return '<span class="tag strong">synthetic data: drawn by a program, not photographs</span>'


def headline(rec: Record) -> str:
    """The few numbers that say how a run is, large."""
    evaluation = rec.evaluation or {}
    numbers: list[tuple[str, str]] = []
    for probe, words in (("linear", "linear top-1, percent"), ("knn", "kNN top-1, percent")):
        value = (evaluation.get(probe) or {}).get("top1")
        if isinstance(value, int | float):
            numbers.append((f"{value:.1f}", words))
    for key, words in (
        ("loss", "loss"),
        ("on_diagonal", "on the diagonal (goal 1)"),
        ("off_diagonal_rms", "off the diagonal (goal 0)"),
        ("rank_me", "RankMe"),
        ("images_per_s", "images per second"),
    ):
        if (value := rec.last(key)) is not None:
            numbers.append((charts.number(float(f"{value:.3g}")), words))
    items = "".join(f"<li><strong>{value}</strong><span>{words}</span></li>" for value, words in numbers[:6])
    return f'<ul class="headline">{items}</ul>' if items else ""


def links(sections: list[str]) -> str:
    """A row of links to those of the sections that can be linked to."""
    found = [
        match for section in sections for match in re.findall(r'<section id="([\w-]+)"><h2>([^:<]+)', section)
    ]
    items = "".join(f'<li><a href="#{anchor}">{title}</a></li>' for anchor, title in dict(found).items())
    return f'<nav aria-label="sections"><ul>{items}</ul></nav>' if len(found) > 2 else ""


def _facts(rec: Record) -> list[tuple[str, str, bool]]:
    facts: list[tuple[str, str, bool]] = []

    def add(name: str, value: Any, wide: bool = False) -> None:
        if value not in (None, "", {}):
            facts.append((name, f"{value:,}" if isinstance(value, int) else str(value), wide))

    add("preset", rec.run.get("preset"))
    add("training images", rec.run.get("num_samples"))
    if rec.config is not None:
        model, optim, train = rec.config.model, rec.config.optim, rec.config.train
        width = "" if model.width == 64 else f", width {model.width}"
        shape = "" if model.backbone.startswith(TIMM) else f"{width}, {model.stem} stem"
        add("backbone", f"{model.backbone}{shape}")
        add("projector", "-".join(map(str, model.projector)))
        add("view size", f"{rec.config.data.image_size} px")
        add("batch", f"{optim.batch_size} images")
        add("epochs", optim.epochs)
        if rec.config.objective.name == "barlow_twins":
            add("lambda", charts.number(rec.config.objective.lambd))
        else:
            add("objective", rec.config.objective.name)
        add("seed", f"{train.seed}")
    add("processes", rec.run.get("world_size"))
    add("device", rec.run.get("device"))
    if rec.metrics:
        add("last loss", _loss_and_floor(rec.metrics[-1]))
        add("time trained", duration(rec.metrics[-1].get("time_s")))
    versions = rec.run.get("versions")
    if isinstance(versions, dict):
        add("versions", ", ".join(f"{name} {value}" for name, value in versions.items()), True)
    if isinstance(data := rec.run.get("data"), str):
        # The report may travel: where the images lay is nobody else's business.
        add("data", end_of(data), True)
    return facts


def _loss_and_floor(line: dict[str, Any]) -> str | None:
    loss, floor = line.get("loss"), line.get("loss_floor")
    if not isinstance(loss, int | float):
        return None
    return charts.number(loss) + (
        f" (floor {charts.number(floor)})" if isinstance(floor, int | float) else ""
    )


def duration(seconds: Any) -> str | None:
    """Seconds in words, such as `2 h 5 min`; None for what is no number."""
    if not isinstance(seconds, int | float):
        return None
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def settings(records: list[Record]) -> str:
    """Every field of the configs, folded away."""
    parts = []
    for rec in records:
        if rec.config is not None:
            rows = "".join(
                f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>"
                for name, value in flat(rec.config)
            )
            of = f" of {escape(rec.name)}" if len(records) > 1 else ""
            parts.append(
                f'<details><summary>All settings{of}</summary><table class="config">{rows}</table></details>'
            )
    return section("<h2>Configuration</h2>", *parts, anchor="config") if parts else ""


def absent(title: str, reason: str, *, anchor: str = "") -> str:
    """A section that could not be drawn, and why."""
    return section(f"<h2>{escape(title)}</h2>", missing(escape(reason)), anchor=anchor)


def footer() -> str:
    """What this file is."""
    return "<footer>Written by barlow report. This file is complete: it loads nothing.</footer>"


def section(*parts: str, anchor: str = "") -> str:
    """One card of the page; `anchor` is the name that links to it use."""
    name = f' id="{anchor}"' if anchor else ""
    return f"<section{name}>{''.join(parts)}</section>"


def missing(html: str) -> str:
    """A visible gap and its reason."""
    return f'<p class="missing">{html}</p>'
