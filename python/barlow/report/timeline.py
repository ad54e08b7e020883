"""Here: the sections on what went by while a run trained: the matrix over time, where the time went, alarms.

Not here: curves (curves.py), the matrix at the end (exhibits.py).
"""

from __future__ import annotations

import itertools
import math
import re
from html import escape

import numpy as np

from barlow.report import page, pictures
from barlow.report.charts import number
from barlow.report.record import Record
from barlow.train.alarms import TABLE, Illness

_MOST_SHOWN = 8
_WAIT = "wait_share"
_STAGES = {
    "loader_share": "waiting for data",
    "copy_share": "copying images to the device",
    "compute_share": "steps",
    "communication_share": "communication",
    "other_share": "anything else",
}
"""What lines of metrics give as shares of the time since the line before, in words; they add up to 1."""
_ILLNESSES: dict[str, Illness] = {illness.name: illness for illness in TABLE}


def matrices(records: list[Record]) -> str:
    """The snapshots of each run in a row."""
    title = "Cross-correlation over time"
    having = [rec for rec in records if rec.snapshots]
    if not having:
        reason = "These runs kept no snapshots: they were trained by an older version, or elsewhere."
        return page.absent(title, reason, anchor="over-time")
    rows = []
    for rec in having:
        head = f"<h3>{escape(rec.name)}</h3>" if len(records) > 1 else ""
        cells = "".join(_snapshot(step, c_KK) for step, c_KK in spread(rec.snapshots, _MOST_SHOWN))
        rows.append(f'{head}<div class="strip">{cells}</div>')
    side = having[0].snapshots[-1][1].shape[0]
    return page.section(
        f"<h2>{title}</h2>",
        f'<p class="why">The same {side} of the embedding&rsquo;s dimensions, on the training batch of a '
        "step; colours as of the matrix below. Healthy: out of noise a red diagonal grows within the first "
        "epochs, and everything else fades to grey, in time. Blocks and stripes that stay are dimensions "
        "that copy each other; an empty row is a dead one.</p>",
        *rows,
        anchor="over-time",
    )


def spread(snapshots: list[tuple[int, np.ndarray]], most: int) -> list[tuple[int, np.ndarray]]:
    """At most `most` of them, the first and the last among them, evenly spaced by place."""
    if len(snapshots) <= most:
        return snapshots
    return [snapshots[round(i * (len(snapshots) - 1) / (most - 1))] for i in range(most)]


def _snapshot(step: int, c_KK: np.ndarray) -> str:
    diagonal = float(np.diagonal(c_KK).mean())
    off = c_KK[~np.eye(len(c_KK), dtype=bool)]
    rms = float(np.sqrt(np.square(off).mean())) if off.size else 0.0
    words = f"diagonal {diagonal:.2f}, rest {rms:.3f}"
    return (
        f'<figure><img src="{pictures.matrix_uri(c_KK, enlarge=False)}" '
        f'alt="cross-correlation at step {step:,}: {words}">'
        f'<figcaption class="caption"><strong>step {step:,}</strong><br>{words}</figcaption></figure>'
    )


def times(records: list[Record]) -> str:
    """A bar for each run: how its training time divides."""
    rows = []
    for rec in records:
        parts = time_shares(rec)
        if not parts:
            continue
        bars = "".join(
            f'<i class="part-{i % 6}" style="width:{100 * share:.2f}%" title="{escape(name)}"></i>'
            for i, (name, share) in enumerate(parts)
        )
        words = "".join(
            f'<li><i class="swatch part-{i % 6}"></i>{escape(name)} {100 * share:.1f} %</li>'
            for i, (name, share) in enumerate(parts)
        )
        speeds = sorted(value for _, value in rec.series("images_per_s"))
        speed = f"; in the median {number(speeds[len(speeds) // 2])} images/s" if speeds else ""
        trained = page.duration(rec.last("time_s"))
        rows.append(
            f'<div class="time"><h3>{escape(rec.name)}: {trained}{speed}</h3>'
            f'<div class="stack" role="img" aria-label="{escape(_spoken(parts))}">{bars}</div>'
            f'<ul class="legend flush">{words}</ul></div>'
        )
    if not rows:
        return ""
    return page.section(
        "<h2>Where the time went</h2>",
        '<p class="why">Of the time between the first line of metrics and the last. In a healthy run the '
        "steps have nearly all of it. Where waiting for data takes more than a few percent the loader is the "
        "bottleneck: more <code>--data.threads</code>, smaller images, or a faster disk.</p>",
        *rows,
        anchor="time",
    )


def time_shares(rec: Record) -> list[tuple[str, float]]:
    """(what, share of the time) of a run: stage by stage where its lines say so, else the wait for data and
    the rest, which is the steps. Empty if unknown."""
    timed = {step for step, _ in rec.series("time_s")}
    lines = [line for line in rec.metrics if line["step"] in timed]
    keys = [key for key in _STAGES if any(key in line for line in lines)] or [_WAIT]
    total, sums = 0.0, dict.fromkeys(keys, 0.0)
    for before, line in itertools.pairwise(lines):
        elapsed_s = line["time_s"] - before["time_s"]
        if elapsed_s <= 0:  # a resumed run's clock may stand a little back
            continue
        total += elapsed_s
        for key in keys:
            share = line.get(key)
            if isinstance(share, int | float) and math.isfinite(share):
                sums[key] += elapsed_s * min(1.0, max(0.0, share))
    if not total:
        return []
    if keys == [_WAIT]:
        waited = sums[_WAIT] / total
        return [("waiting for data", waited), ("steps", 1 - waited)]
    return [(_STAGES[key], sums[key] / total) for key in keys if sums[key] > 0]


def _spoken(parts: list[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {100 * share:.0f} percent" for name, share in parts)


def alarms(records: list[Record]) -> str:
    """Which alarms stood when, with cause and advice; nothing for runs that had none."""
    rows = []
    for rec in records:
        steps: dict[str, list[int]] = {}
        for line in rec.metrics:
            names = line.get("alarms")
            for name in names if isinstance(names, list) else ():
                steps.setdefault(str(name), []).append(int(line["step"]))
        for name, at in steps.items():
            head = f"<td>{escape(rec.name)}</td>" if len(records) > 1 else ""
            still = " (still at the end)" if at[-1] == rec.done_steps else ""
            title, why = _of_illness(name)
            rows.append(
                f"<tr>{head}<td><strong>{title}</strong>{why}</td>"
                f"<td>{at[0]:,} to {at[-1]:,}{still}</td><td>{len(at):,}</td></tr>"
            )
    if not rows:
        return ""
    head = "<th scope=col>run</th>" if len(records) > 1 else ""
    return page.section(
        "<h2>Alarms</h2>",
        f'<div class="scroll"><table><thead><tr>{head}<th scope=col>alarm</th><th scope=col>steps</th>'
        f"<th scope=col>lines</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>",
        anchor="alarms",
    )


def _of_illness(name: str) -> tuple[str, str]:
    """Title, and cause and advice, as HTML; of a name that is not in the table (any more) itself alone."""
    illness = _ILLNESSES.get(name)
    if illness is None:
        return escape(name.replace("_", " ")), ""
    kind = "note: " if illness.is_note else ""
    words = re.sub("`([^`]*)`", r"<code>\1</code>", escape(f"{illness.cause} {illness.advice}"))
    return escape(kind + illness.title), f'<br><span class="soft">{words}</span>'
