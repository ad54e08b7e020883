"""Here: the section of the training curves: which metrics are charted, how, and what they mean.

Not here: drawing a chart (charts.py).
"""

from __future__ import annotations

from typing import Any

from barlow.report import charts
from barlow.report.charts import Line
from barlow.report.page import missing, section
from barlow.report.record import Record


def section_of(rec: Record) -> str:
    """The charts of metrics.jsonl."""
    intro = "<h2>Training</h2>"
    if not rec.metrics:
        return section(intro, missing("There are no metrics to draw."))

    def chart(title: str, note: str, lines: list[Line], **axes: Any) -> str:
        drawn = charts.line_chart(title, lines, x_label="optimizer step", **axes)
        return f'<figure><h3>{title}</h3>{drawn}<figcaption class="caption">{note}</figcaption></figure>'

    loss, floor = rec.series("loss"), rec.series("loss_floor")
    shown = [y for _, y in loss + floor]
    positive = [y for y in shown if y > 0]
    wide = bool(positive) and max(positive) > 8 * min(positive) and min(shown) >= 0
    waiting = [(x, 100 * y) for x, y in rec.series("wait_share")]
    drawn = [
        chart(
            "Loss and its floor" if floor else "Loss",
            "No embedding of this batch size and dimension can have a loss below the floor."
            if floor
            else "The loss of the global batch.",
            [Line("loss", "one", loss), *([Line("floor", "floor", floor)] if floor else [])],
            y_label="loss" + (" (log scale)" if wide else ""),
            log_y=wide,
        ),
        chart(
            "On the diagonal",
            "Mean correlation of a dimension with itself across the two views; the goal is 1.",
            [Line("mean", "one", rec.series("on_diagonal"))],
            y_label="correlation",
            include=(0.0, 1.0),
        ),
        chart(
            "Off the diagonal",
            "Root mean square correlation between different dimensions; the goal is 0.",
            [Line("rms", "one", rec.series("off_diagonal_rms"))],
            y_label="correlation (rms)",
            include=(0.0,),
        ),
        chart(
            "Learning rates",
            "Linear warm-up, then half a cosine.",
            [
                Line("weights", "one", rec.series("lr_weights")),
                Line("biases and norms", "two", rec.series("lr_biases")),
            ],
            y_label="learning rate (log scale)",
            log_y=True,
        ),
        chart(
            "Speed",
            "Images per second over all processes; each image is seen as two views.",
            [Line("images/s", "one", rec.series("images_per_s"))],
            y_label="images per second",
            include=(0.0,),
        ),
        chart(
            "Waiting for data",
            "Share of the time in which the training step had no batch to work on.",
            [Line("waiting", "one", waiting)],
            y_label="percent of time",
            include=(0.0, 10.0),
        ),
    ]
    return section(intro, f'<div class="charts">{"".join(drawn)}</div>')
