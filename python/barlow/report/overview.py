"""Here: the head of a report of several runs: who they are, how they stand, in what they differ.

Not here: the head of one run (page.py), curves.
"""

from __future__ import annotations

from html import escape

from barlow.config import flat
from barlow.report import charts, page
from barlow.report.record import Record


def header(records: list[Record], nav: str, *, synthetic: bool) -> str:
    """The names, a table of how the runs stand, what each lacks, and the links to the sections."""
    rows = "".join(_row(i, rec) for i, rec in enumerate(records))
    heads = ("run", "steps", "loss (floor)", "diagonal", "off it", "RankMe", "images/s", "time", "device")
    head = "".join(f"<th scope=col>{name}</th>" for name in heads)
    gaps = "".join(f"<li>{escape(rec.name)}: {escape(line)}</li>" for rec in records for line in rec.missing)
    lacking = (
        f'<div class="missing"><strong>Left out of this report</strong><ul>{gaps}</ul></div>' if gaps else ""
    )
    return (
        f'<header><p class="soft">barlow report</p><h1>{len(records)} runs side by side</h1>'
        f"{page.synthetic_tag() if synthetic else ''}"
        f'<div class="scroll"><table class="runs"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        f"</div>{lacking}{nav}</header>"
    )


def _row(i: int, rec: Record) -> str:
    total = rec.total_steps
    steps = f"{rec.done_steps:,}" + ("" if total is None else f" of {total:,}")
    floor = rec.last("loss_floor")
    cells = (
        steps,
        _number(rec, "loss") + ("" if floor is None else f" ({charts.number(floor)})"),
        _number(rec, "on_diagonal"),
        _number(rec, "off_diagonal_rms"),
        _number(rec, "rank_me"),
        _number(rec, "images_per_s"),
        page.duration(rec.last("time_s")) or "&ndash;",
        escape(f"{rec.run.get('world_size', '?')} x {rec.run.get('device', '?')}"),
    )
    name = f'<th scope=row><i class="swatch r{i % 6}"></i>{escape(rec.name)}</th>'
    return f"<tr>{name}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _number(rec: Record, key: str) -> str:
    value = rec.last(key)
    return "&ndash;" if value is None else charts.number(value)


def differences(records: list[Record]) -> str:
    """The fields of config and environment that are not the same in all runs."""
    tables = [dict(_facts(rec)) for rec in records]
    names = [name for name in dict.fromkeys(name for table in tables for name in table)
             if len({table.get(name) for table in tables}) > 1]  # fmt: skip
    title = "<h2>What differs</h2>"
    if not names:
        text = '<p class="why">Config, data and environment are the same; not even the seed differs.</p>'
        return page.section(title, text, anchor="differences")
    head = "".join(
        f'<th scope=col><i class="swatch r{i % 6}"></i>{escape(rec.name)}</th>'
        for i, rec in enumerate(records)
    )
    rows = "".join(
        f"<tr><th scope=row><code>{escape(name)}</code></th>"
        + "".join(f"<td>{escape(table.get(name, '-'))}</td>" for table in tables)
        + "</tr>"
        for name in names
    )
    return page.section(
        title,
        '<p class="why">Settings, and what is known of data and machine, that are not the same in all.</p>',
        f'<div class="scroll"><table class="runs"><thead><tr><th scope=col>setting</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>",
        anchor="differences",
    )


def _facts(rec: Record) -> list[tuple[str, str]]:
    facts = flat(rec.config) if rec.config else []
    versions = rec.run.get("versions")
    facts += (
        [(f"versions.{name}", str(v)) for name, v in versions.items()] if isinstance(versions, dict) else []
    )
    for name in ("num_samples", "index_digest", "world_size", "device"):
        if name in rec.run:
            facts.append((f"run.{name}", str(rec.run[name])[:24]))
    return facts
