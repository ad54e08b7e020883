"""Here: the Barlow Twins loss (Zbontar et al., ICML 2021, equations 1 and 2), its floor, what is said of C.

Not here: how the forms compute it (`correlation.py`, `gram.py`) and what they cost (`forms.py`), the
projector, other objectives, per-rank or joint normalisation of the views.

N samples in all (n on this rank), D dimensions, x and y the standardised views:
    C = x'y / N,   loss = sum_i (1 - C_ii)^2 + lambd * sum_{i != j} C_ij^2.
Means and (biased) variances are those of each view over the N samples of all ranks, so the loss and its
gradient do not depend on how many ranks there are or which samples each of them holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from barlow.distributed import rank_in, world_size
from barlow.objectives.correlation import correlate, correlation
from barlow.objectives.forms import FORMS, Form, Terms, cheapest_form
from barlow.objectives.gram import gram, gram_features, operand_dtype, sample_counts
from barlow.objectives.standardize import Group, stack_views, standardize

AnyForm = Form | Literal["auto"]


def barlow_twins(
    z1_ND: Tensor,
    z2_ND: Tensor,
    lambd: float = 0.0051,
    *,
    form: AnyForm = "auto",
    eps: float = 0.0,
    group: Group = None,
    counts: Sequence[int] | None = None,
) -> Tensor:
    """The loss of the global batch, a scalar that is the same on every rank.

    `z1_ND` and `z2_ND` are this rank's embeddings of the two views, [n, D] floating point; n may differ
    between ranks. Computed in float32 (float64 for float64 embeddings), also under autocast.
    `eps` is added to the variances: 0 is equation 2, 1e-5 the official code. With 0, a dimension that is
    constant over the batch counts as uncorrelated with everything: C_ii = 0, and it gets no gradient.

    `form` says how, not what: "correlation" computes C, [D, D]; "gram" the Gram matrices of the N samples,
    [N, N], each rank its rows of them; "gram_features" the same, each rank from its share of the D features;
    "auto" takes the cheapest (`cheapest_form` has the rule). All agree to rounding. On a GPU the Gram forms
    multiply half-precision embeddings as such, with sums in float32. `counts` are the rows of every rank, for
    callers that know them; without it "auto" and the Gram forms ask the other ranks, if there are any, for
    which the host waits for the device.

    Backward gives this rank's rows of W times the gradient of the loss, W being the size of the group: the
    mean over ranks that DistributedDataParallel takes then gives every parameter the gradient of one process
    with the whole batch. It is computed with the loss, so that backward talks to nobody and nothing of the
    size of C is kept. All ranks must call it together, with one form. `ValueError` for shapes and values that
    can't be.
    """
    _check(z1_ND, z2_ND, eps, form)
    if lambd < 0:
        raise ValueError(f"lambd may not be negative, not {lambd}")
    wants_grad = torch.is_grad_enabled() and (z1_ND.requires_grad or z2_ND.requires_grad)
    with torch.autocast(z1_ND.device.type, enabled=False):
        return _BarlowTwins.apply(z1_ND, z2_ND, lambd, eps, group, wants_grad, form, counts)  # pyright: ignore[reportReturnType]


def cross_correlation(z1_ND: Tensor, z2_ND: Tensor, *, eps: float = 0.0, group: Group = None) -> Tensor:
    """C of equation 2 over the global batch, [D, D] float32 (float64 for float64 embeddings), no gradient."""
    _check(z1_ND, z2_ND, eps)
    with torch.no_grad(), torch.autocast(z1_ND.device.type, enabled=False):
        x_2ND, _, count = standardize(stack_views(z1_ND, z2_ND), eps, group)
        return correlate(x_2ND, count, group)


class Summary(NamedTuple):
    """What C is like, in two numbers."""

    on_diagonal: float
    """Mean of C_ii."""
    off_diagonal_rms: float
    """Root of the mean of C_ij^2 over i != j; 0 if there is one dimension only."""


def correlation_summary(
    z1_ND: Tensor, z2_ND: Tensor, *, form: AnyForm = "auto", eps: float = 0.0, group: Group = None
) -> Summary:
    """The numbers of the global batch's C, without C unless that is cheapest; arguments as of the loss."""
    _check(z1_ND, z2_ND, eps, form)
    with torch.no_grad(), torch.autocast(z1_ND.device.type, enabled=False):
        terms, _ = _compute(z1_ND, z2_ND, 0.0, eps, group, False, form, None)
    num_dims = z1_ND.shape[1]
    num_off = num_dims * (num_dims - 1)
    rms = math.sqrt(terms.redundancy.item() / num_off) if num_off else 0.0
    return Summary(terms.trace.item() / num_dims, rms)


def loss_floor(num_samples: int, num_dims: int, lambd: float) -> float:
    """The least loss that any embeddings of `num_samples` in `num_dims` dimensions can have.

    C has rank at most N - 1, so its squared norm is at least (trace C)^2 / (N - 1): with more dimensions than
    samples the off-diagonal can't vanish. With K = D^2 / (N - 1) - D > 0 the least loss is
    D lambd K / (D + lambd K), at the uniform diagonal D / (D + lambd K). Holds for lambd < 1; beyond that
    the bound is not proven and 0 is returned.
    """
    if num_samples < 2 or num_dims < 1 or lambd < 0:
        raise ValueError(f"no loss of {num_samples} samples, {num_dims} dimensions and lambd {lambd}")
    surplus = num_dims**2 / (num_samples - 1) - num_dims
    if surplus <= 0 or lambd >= 1:
        return 0.0
    return num_dims * lambd * surplus / (num_dims + lambd * surplus)


def _check(z1_ND: Tensor, z2_ND: Tensor, eps: float, form: str = "auto") -> None:
    if z1_ND.dim() != 2 or z1_ND.shape != z2_ND.shape or 0 in z1_ND.shape:
        shapes = f"{list(z1_ND.shape)} and {list(z2_ND.shape)}"
        raise ValueError(f"embeddings must be two [N, D] tensors of one shape, N, D > 0, not {shapes}")
    if not z1_ND.is_floating_point() or not z2_ND.is_floating_point():
        raise ValueError(f"embeddings must be floating point, not {z1_ND.dtype} and {z2_ND.dtype}")
    if eps < 0:
        raise ValueError(f"eps may not be negative, not {eps}")
    if form not in ("auto", *FORMS):
        raise ValueError(f"form must be auto, {', '.join(FORMS)}, not {form!r}")


def _compute(
    z1_ND: Tensor,
    z2_ND: Tensor,
    lambd: float,
    eps: float,
    group: Group,
    wants_grad: bool,
    form: AnyForm,
    known: Sequence[int] | None,
) -> tuple[Terms, Tensor | None]:
    """The terms of the loss and, if wanted, its gradient at this rank's rows, [2, n, D]."""
    if form == "correlation":
        return correlation(z1_ND, z2_ND, lambd, eps, group, wants_grad)
    counts = sample_counts(len(z1_ND), z1_ND.device, group) if known is None else list(known)
    if len(counts) != world_size(group) or counts[rank_in(group)] != len(z1_ND):
        raise ValueError(f"counts {counts} are not the rows of each rank: this one has {len(z1_ND)}")
    if form == "auto":
        half = operand_dtype(z1_ND, z2_ND).itemsize == 2
        form = cheapest_form(sum(counts), z1_ND.shape[1], len(counts), half=half)
        if form == "correlation":
            return correlation(z1_ND, z2_ND, lambd, eps, group, wants_grad)
    compute = gram if form == "gram" else gram_features
    return compute(z1_ND, z2_ND, lambd, eps, group, wants_grad, counts=counts)


class _BarlowTwins(torch.autograd.Function):
    """Loss and gradient in one go: nothing but the gradient outlives the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        z1_ND: Tensor,
        z2_ND: Tensor,
        lambd: float,
        eps: float,
        group: Group,
        wants_grad: bool,
        form: AnyForm,
        counts: Sequence[int] | None,
    ) -> Tensor:
        terms, dz_2ND = _compute(z1_ND, z2_ND, lambd, eps, group, wants_grad, form, counts)
        if dz_2ND is not None:
            ctx.save_for_backward(dz_2ND)
        ctx.dtypes = z1_ND.dtype, z2_ND.dtype
        ctx.factor = world_size(group)
        both_64 = z1_ND.dtype == z2_ND.dtype == torch.float64
        loss = terms.invariance + lambd * terms.redundancy
        return loss.to(torch.float64 if both_64 else torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (dz_2ND,) = ctx.saved_tensors
        # A gradient scaler's factor arrives in grad_loss: it must be in before the cast to half precision.
        dz1_ND, dz2_ND = (grad_loss * ctx.factor * dz_2ND).unbind()
        return dz1_ND.to(ctx.dtypes[0]), dz2_ND.to(ctx.dtypes[1]), None, None, None, None, None, None
