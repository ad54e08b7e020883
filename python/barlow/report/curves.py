"""Here: the section of the training curves: which metrics are charted, how, and what they mean.

Not here: drawing a chart (charts.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from barlow.report import charts
from barlow.report.charts import Line
from barlow.report.page import missing, section
from barlow.report.record import Record

_BOUNDS = ("floor", "chance")
"""Names of lines that are not the run's own."""


@dataclass(frozen=True)
class Chart:
    """What one chart shows. `keys` are entries of a line of metrics, the first of which is the subject."""

    title: str
    note: str
    y_label: str
    keys: tuple[tuple[str, str], ...]
    """(entry, name of its line in the chart of one run)."""
    include: tuple[float, ...] = ()
    log_y: bool = False
    factor: float = 1.0
    always: bool = False
    """Whether its absence is worth a word: what every version of the trainer logs."""


CHARTS = (
    Chart(
        "Loss",
        "Healthy: a steep fall in the first epochs, then a slow one towards the floor, below which no "
        "embedding of this batch size and dimension can get.",
        "loss",
        (("loss", "loss"), ("loss_floor", "floor")),
        always=True,
    ),
    Chart(
        "On the diagonal",
        "Mean correlation of a dimension with itself across the two views. Healthy: it climbs towards 1 and "
        "stays below. At 1 from the start the views are identical.",
        "correlation",
        (("on_diagonal", "mean"),),
        include=(0.0, 1.0),
        always=True,
    ),
    Chart(
        "Off the diagonal",
        "Root mean square correlation of different dimensions. Healthy: after a rise in the first steps it "
        "sinks towards what chance gives in a batch of this size.",
        "correlation (rms)",
        (("off_diagonal_rms", "rms"), ("off_diagonal_expected", "chance")),
        include=(0.0,),
        always=True,
    ),
    Chart(
        "Nearest neighbours while training",
        "Percent of held-out images that their neighbours classify rightly. Healthy: it still rises when the "
        "loss has become flat.",
        "kNN top-1, percent",
        (("knn_top1", "kNN"),),
    ),
    Chart(
        "Directions in use",
        "RankMe: how many directions the embeddings of a batch spread over. Healthy: it grows or holds; a "
        "fall is the start of a collapse.",
        "RankMe",
        (("rank_me", "RankMe"),),
        include=(0.0,),
    ),
    Chart(
        "Decay of the spectrum",
        "Exponent of the power law of the eigenvalues (alpha-ReQ). Healthy: it sinks towards 1; far above, a "
        "few directions hold everything.",
        "alpha",
        (("alpha_req", "alpha"),),
        include=(1.0,),
    ),
    Chart(
        "Dead dimensions",
        "Dimensions that are the same number for every image. Healthy: none, or a few in thousands.",
        "dimensions",
        (("dead_dimensions", "dead"),),
        include=(0.0, 1.0),
    ),
    Chart(
        "Gradient",
        "Norm of all gradients together. Healthy: within a factor of ten from the end of the warm-up on.",
        "norm (log scale)",
        (("grad_norm", "norm"),),
        log_y=True,
    ),
    Chart(
        "Longest step",
        "Largest relative change of a weight tensor in one step. Healthy: below a few percent.",
        "relative (log scale)",
        (("update_ratio", "largest"),),
        log_y=True,
    ),
    Chart(
        "Trust ratios",
        "Smallest and largest factor by which LARS scaled a tensor's step.",
        "factor (log scale)",
        (("trust_ratio_max", "largest"), ("trust_ratio_min", "smallest")),
        log_y=True,
    ),
    Chart(
        "Learning rates",
        "Linear warm-up, then half a cosine.",
        "learning rate (log scale)",
        (("lr_weights", "weights"), ("lr_biases", "biases and norms")),
        log_y=True,
        always=True,
    ),
    Chart(
        "Speed",
        "Images per second over all processes; each image is seen as two views. Healthy: flat.",
        "images per second",
        (("images_per_s", "images/s"),),
        include=(0.0,),
        always=True,
    ),
    Chart(
        "Waiting for data",
        "Share of the time in which the training step had no batch to work on. Healthy: below a few percent.",
        "percent of time",
        (("wait_share", "waiting"),),
        include=(0.0, 10.0),
        factor=100.0,
        always=True,
    ),
)


def section_of(records: list[Record]) -> str:
    """The charts of metrics.jsonl: of one run, or of several in the same charts."""
    intro = "<h2>Training</h2>"
    if not any(rec.metrics for rec in records):
        return section(intro, missing("There are no metrics to draw."), anchor="curves")
    over = _axis(records)
    legend, why = "", ""
    if len(records) > 1:
        legend = charts.legend([Line(rec.name, f"r{i % 6}", []) for i, rec in enumerate(records)])
        why = (
            f'<p class="why">One line for each run. The colours are the same all over this page.</p>{legend}'
        )
    drawn = [_chart(chart, records, over) for chart in CHARTS if chart.always or _has(chart, records)]
    return section(intro, why, f'<div class="charts">{"".join(drawn)}</div>', anchor="curves")


def _axis(records: list[Record]) -> str:
    """Steps, unless those of the runs are worth different numbers of images: then epochs."""
    sizes = {rec.config.optim.batch_size for rec in records if rec.config}
    return "epoch" if len(sizes) > 1 else "step"


def _has(chart: Chart, records: list[Record]) -> bool:
    return any(rec.series(chart.keys[0][0]) for rec in records)


def _chart(chart: Chart, records: list[Record], over: str) -> str:
    if len(records) == 1:
        styles = ("one", "floor" if chart.keys[-1][1] in _BOUNDS else "two")
        lines = [
            Line(name, style, _points(records[0], key, over, chart.factor))
            for (key, name), style in zip(chart.keys, styles, strict=False)
        ]
    else:
        key = chart.keys[0][0]
        lines = [
            Line(rec.name, f"r{i % 6}", _points(rec, key, over, chart.factor))
            for i, rec in enumerate(records)
        ]
    lines = [line for line in lines if line.points]
    log_y = chart.log_y or (chart.title == "Loss" and _wide(lines))
    drawn = charts.line_chart(
        chart.title,
        lines,
        x_label="epoch" if over == "epoch" else "optimizer step",
        y_label=chart.y_label + (" (log scale)" if log_y and "log" not in chart.y_label else ""),
        log_y=log_y,
        include=chart.include,
        with_legend=len(records) == 1,
    )
    note = chart.note
    if len(records) > 1 < len(chart.keys) and chart.keys[1][1] not in _BOUNDS:
        note += f" Drawn of several runs: {chart.keys[0][1]}."
    title = chart.title + (
        " and its floor" if chart.title == "Loss" and len(lines) > 1 == len(records) else ""
    )
    return (
        f"<figure><h3>{escape(title)}</h3>{drawn}"
        f'<figcaption class="caption">{escape(note)}</figcaption></figure>'
    )


def _points(rec: Record, key: str, over: str, factor: float) -> list[tuple[float, float]]:
    return [(x, factor * y) for x, y in rec.series(key, over)]


def _wide(lines: list[Line]) -> bool:
    """Whether the values span so much that only a logarithm shows the smaller ones."""
    shown = [y for line in lines for _, y in line.points]
    positive = [y for y in shown if y > 0]
    return bool(positive) and max(positive) > 8 * min(positive) and min(shown) >= 0
