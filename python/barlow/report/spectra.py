"""Here: how many directions embeddings and features use: the section of their spectra.

Not here: eigenvalues and what is drawn from them (objectives/spectrum.py), embedding images (gallery.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

from torch import Tensor

from barlow.objectives.spectrum import effective_rank, fitted_places, power_law_exponent, spectrum
from barlow.report import charts, page
from barlow.report.charts import Line

_MOST_ROWS = 2048
"""Of features; evenly spaced ones of more. The spectrum's cost grows with the cube of the smaller side."""
_NOISE = 1e-10
"""Eigenvalues below this share of the largest are rounding; drawn, they would take up half of the chart."""


@dataclass(frozen=True)
class Spectrum:
    """Of one matrix: eigenvalues of the covariance, largest first, as shares of their sum."""

    num_rows: int
    num_dims: int
    values: list[float]
    rank_me: float
    alpha: float | None
    fit: list[tuple[float, float]]
    """Two points of the power law, at the first and the last place that it was fitted to."""


def spectrum_of(x_ND: Tensor) -> Spectrum:
    """Of embeddings or features, one row for each image."""
    x_ND = x_ND[:: -(-len(x_ND) // _MOST_ROWS)]
    values_K = spectrum(x_ND)
    total = values_K.sum().item() or 1.0
    values = [value / total for value in values_K.tolist()]
    alpha, fit = power_law_exponent(values_K), []
    if alpha is not None:
        first, last = fitted_places(int((values_K > 1e-12 * values_K[:1]).sum()))
        logs = [(math.log(i), math.log(values[i - 1])) for i in range(first, last + 1)]
        offset = sum(y + alpha * x for x, y in logs) / len(logs)
        fit = [(float(i), math.exp(offset) * i**-alpha) for i in (first, last)]
    return Spectrum(len(x_ND), x_ND.shape[1], values, effective_rank(values_K), alpha, fit)


def section_of(found: list[tuple[str, Spectrum, Spectrum]]) -> str:
    """(run, of its embeddings, of its backbone's features), drawn log-log with the fitted power laws."""
    several = len(found) > 1
    figures = _figure("Embeddings: what the loss sees", [(name, z) for name, z, _ in found])
    figures += _figure("Backbone features: what is kept", [(name, h) for name, _, h in found])
    rows = "".join(
        f"<tr><th scope=row>{_swatch(i) if several else ''}{escape(name) if several else ''} {kind}</th>"
        f"<td>{s.rank_me:.1f}</td><td>{min(s.num_dims, s.num_rows - 1):,}</td>"
        f"<td>{'&ndash;' if s.alpha is None else f'{s.alpha:.2f}'}</td><td>{s.num_rows:,}</td></tr>"
        for i, (name, z, h) in enumerate(found)
        for kind, s in (("embeddings", z), ("features", h))
    )
    return page.section(
        "<h2>Spectrum</h2>",
        '<p class="why">Each direction&rsquo;s share of the variance, largest first. Healthy: a line that '
        "falls slowly and evenly, with an exponent &alpha; near 1. A cliff after a few directions is a "
        "collapse: everything beyond it is unused.</p>",
        f'<div class="charts maps">{figures}</div>',
        '<div class="scroll"><table class="runs"><thead><tr><th scope=col></th><th scope=col>RankMe</th>'
        "<th scope=col>of at most</th><th scope=col>&alpha;</th><th scope=col>images</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>",
        anchor="spectrum",
    )


def _places(count: int) -> list[int]:
    """Places from 1 to `count`, as dense on a logarithmic axis as it can show."""
    return sorted({round(count ** (i / 200)) for i in range(201)} | set(range(1, min(count, 20) + 1)))


def _swatch(i: int) -> str:
    return f'<i class="swatch r{i % 6}"></i>'


def _figure(title: str, of: list[tuple[str, Spectrum]]) -> str:
    lines = []
    for i, (name, s) in enumerate(of):
        style = f"r{i % 6}" if len(of) > 1 else "one"
        floor = _NOISE * s.values[0]
        points = [(float(k), s.values[k - 1]) for k in _places(len(s.values)) if s.values[k - 1] > floor]
        lines.append(Line(name if len(of) > 1 else "variance", style, points))
        if len(of) == 1 and s.alpha is not None:
            lines.append(Line(f"power law, exponent {s.alpha:.2f}", "two", s.fit))
    drawn = charts.line_chart(
        title, lines, x_label="direction (log scale)", y_label="share (log scale)", log_x=True, log_y=True
    )
    return f"<figure><h3>{escape(title)}</h3>{drawn}</figure>"
