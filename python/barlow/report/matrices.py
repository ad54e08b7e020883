"""Here: the cross-correlation matrix of a run's embeddings: its picture, its numbers, its section.

Not here: embedding images (gallery.py), the matrix during training (timeline.py), colours (pictures.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import numpy as np
import torch
from torch import Tensor

from barlow.config import Config
from barlow.objectives import barlow_twins, correlation_summary, loss_floor
from barlow.objectives.standardize import stack_views, standardize_here
from barlow.report import charts
from barlow.report.page import section
from barlow.report.pictures import MATRIX_SIDE, block_extremes, matrix_uri, scale_uri

_MOST_VALUES = 1 << 22
"""Entries of the matrix that are computed at a time: the whole of 65,536 dimensions would take 16 GiB."""
_MOST_DIMS = 1 << 14
"""Dimensions that are drawn, evenly spaced ones of more: the time, too, grows with their square."""


@dataclass(frozen=True)
class Matrix:
    """The cross-correlation matrix of one batch."""

    uri: str
    num_images: int
    num_dims: int
    num_drawn: int
    """Dimensions behind the picture."""
    on_diagonal: float
    off_diagonal_rms: float
    loss: float | None
    """Of Barlow Twins on these images; None where the run minimised another loss."""
    floor: float


def matrix_of(z1_ND: Tensor, z2_ND: Tensor, config: Config) -> Matrix:
    """The matrix of embeddings, its picture and the numbers that belong to it, in bounded memory."""
    name, eps, lambd = config.objective.name, config.objective.eps, config.objective.lambd
    num_images, num_dims = z1_ND.shape
    summary = correlation_summary(z1_ND, z2_ND, eps=eps)
    reduced = picture_of(z1_ND, z2_ND, eps)
    return Matrix(
        uri=matrix_uri(reduced),
        num_images=num_images,
        num_dims=num_dims,
        num_drawn=min(num_dims, _MOST_DIMS),
        on_diagonal=summary.on_diagonal,
        off_diagonal_rms=summary.off_diagonal_rms,
        loss=barlow_twins(z1_ND, z2_ND, lambd, eps=eps).item() if name == "barlow_twins" else None,
        floor=loss_floor(num_images, num_dims, lambd),
    )


def picture_of(z1_ND: Tensor, z2_ND: Tensor, eps: float, *, most_values: int = _MOST_VALUES) -> np.ndarray:
    """`block_extremes` of the matrix, at most 512 x 512, without ever holding more of it than that."""
    num_dims = min(z1_ND.shape[1], _MOST_DIMS)
    dims_D = (2 * torch.arange(num_dims) + 1) * z1_ND.shape[1] // (2 * num_dims)
    x_2ND, _ = standardize_here(stack_views(z1_ND[:, dims_D], z2_ND[:, dims_D]), eps)
    block = -(-num_dims // MATRIX_SIDE)
    rows = max(block, most_values // num_dims // block * block)
    strips = [
        block_extremes((x_2ND[0, :, first : first + rows].T @ x_2ND[1] / x_2ND.shape[1]).numpy(), block)
        for first in range(0, num_dims, rows)
    ]
    return np.concatenate(strips)


def section_of(found: list[tuple[str, Matrix]], *, held_out: bool) -> str:
    """The matrices of the runs, by name."""
    drawn = "".join(_matrix(name if len(found) > 1 else "", m, held_out=held_out) for name, m in found)
    goal = "A loss other than Barlow Twins has no such goal in itself."
    if any(m.loss is not None for _, m in found):
        goal = "The loss pulls the diagonal to 1 and everything else to 0."
    return section(
        "<h2>Cross-correlation of the two views</h2>",
        '<p class="why">Row: dimension of the first view&rsquo;s embedding; column: of the second&rsquo;s. '
        f"{goal} Healthy: a crisp red diagonal on grey without pattern.</p>",
        drawn,
        anchor="matrix",
    )


def _matrix(name: str, m: Matrix, *, held_out: bool) -> str:
    block = -(-m.num_drawn // MATRIX_SIDE)
    reduced = f" Each pixel is the value farthest from 0 among {block} &times; {block}." if block > 1 else ""
    if m.num_drawn < m.num_dims:
        reduced = f" {m.num_drawn:,} evenly spaced ones of {m.num_dims:,} dimensions are drawn.{reduced}"
    text = (
        f"cross-correlation matrix, {m.num_dims} by {m.num_dims}: mean on the diagonal {m.on_diagonal:.3f}, "
        f"rms off the diagonal {m.off_diagonal_rms:.4f}"
    )
    ticks = "".join(
        f'<span style="left:{100 * place:g}%">{label}</span>'
        for place, label in ((0, "&minus;1"), (0.25, "&minus;0.25"), (0.5, "0"), (0.75, "0.25"), (1, "1"))
    )
    facts = [
        ("images", f"{m.num_images:,}, {'held out' if held_out else 'of the training data'}"),
        ("dimensions", f"{m.num_dims:,}"),
        ("mean on the diagonal (goal 1)", f"{m.on_diagonal:.3f}"),
        ("rms off the diagonal (goal 0)", f"{m.off_diagonal_rms:.4f}"),
        ("chance level of that rms", f"{m.num_images**-0.5:.4f}"),
    ]
    if m.loss is not None:
        facts.append(("loss of this batch (floor)", f"{charts.number(m.loss)} ({charts.number(m.floor)})"))
    side = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    return (
        (f"<h3>{escape(name)}</h3>" if name else "")
        + f'<div class="matrix"><img src="{m.uri}" alt="{text}"><div>'
        f'<img class="scale" src="{scale_uri()}" alt="colour scale from -1 to 1">'
        f'<div class="scale-ticks">{ticks}</div>'
        f'<p class="caption">Correlation; the scale is stretched around 0.{reduced}</p>'
        f'<dl class="facts">{side}</dl></div></div>'
    )
