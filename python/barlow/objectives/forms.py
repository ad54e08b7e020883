"""Here: the forms in which the one loss can be computed: what each costs, which is cheapest, what it gives.

Not here: the computation (`correlation.py`, `gram.py`).

Samples N in all, n = N/W on each of W ranks, D dimensions. With x and y the standardised views,
    |C|^2 = |x'y|^2 / N^2 = <xx', yy'> / N^2,
so the sum of C's squares needs C, [D, D], or the Gram matrices of the samples, [N, N], whichever is smaller
(Garrido et al., "On the duality between contrastive and non-contrastive self-supervised learning", 2022).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from torch import Tensor

Form = Literal["correlation", "gram", "gram_features"]
FORMS: tuple[Form, ...] = get_args(Form)


class Terms(NamedTuple):
    """The sums that the loss is made of, over the global batch: float64 scalars, the same on every rank."""

    invariance: Tensor
    """Sum of (1 - C_ii)^2."""
    redundancy: Tensor
    """Sum of C_ij^2 over i != j."""
    trace: Tensor
    """Sum of C_ii."""


def choose_form(
    num_samples: int, num_dims: int, world_size: int = 1, *, half: bool = False
) -> tuple[Form, str]:
    """`cheapest_form`, and why it is, in words for a log."""
    size = num_samples, num_dims, world_size
    form = cheapest_form(*size, half=half)
    work = {form: operations(form, *size) for form in FORMS}
    sent = {form: sent_bytes(form, *size, 2 if half else 4) for form in FORMS}
    other = "gram" if form == "correlation" else "correlation"
    what = {
        "correlation": f"the {num_dims} x {num_dims} correlation matrix",
        "gram": f"{num_samples} x {num_samples} Gram matrices, sharded over the samples",
        "gram_features": f"{num_samples} x {num_samples} Gram matrices, sharded over the features",
    }
    reason = f"{what[form]}: {_si(work[form])}FLOP a step and rank, not {_si(work[other])}FLOP ({other})"
    if world_size > 1:
        others = ", ".join(f"{_si(sent[name])}B ({name})" for name in FORMS if name != form)
        reason += f"; {_si(sent[form])}B sent, not {others}"
    return form, reason


def cheapest_form(num_samples: int, num_dims: int, world_size: int = 1, *, half: bool = False) -> Form:
    """The cheapest form for N samples in all, D dimensions and W ranks.

    The rule: the fewest operations, so C where N >= 3/4 D and the Gram matrices otherwise; of their two
    forms, which do the same work, the one that sends fewer bytes: sharded over the features where about
    2 D/W + N < D, over the samples otherwise. `half` says that embeddings travel in 2 bytes (half precision
    on a GPU), which makes that 6 D/W + 4 N < 2 D.
    """
    # Without any text: a compiler that traces the loss knows the numbers as symbols, which have no digits.
    size = num_samples, num_dims, world_size
    if operations("gram", *size) >= operations("correlation", *size):
        return "correlation"
    # Alone, both Gram forms are one.
    embedding_bytes = 2 if half else 4
    fewer = sent_bytes("gram_features", *size, embedding_bytes) < sent_bytes("gram", *size, embedding_bytes)
    return "gram_features" if fewer else "gram"


def operations(form: str, num_samples: int, num_dims: int, world_size: int) -> float:
    """Additions and multiplications of the matrix products of one rank, loss and gradient."""
    rows = num_samples / world_size
    if form == "correlation":
        return 6 * rows * num_dims**2
    return 8 * rows * num_samples * num_dims


def sent_bytes(
    form: str, num_samples: int, num_dims: int, world_size: int, embedding_bytes: int = 4
) -> float:
    """Bytes that one rank sends in a step, loss and gradient, in rings, all but n in float32.

    `embedding_bytes` is the size of a number of the embeddings on their way out. Exact where N and D are
    multiples of W: the tests count what goes into the collectives.
    """
    others, shard = world_size - 1, (world_size - 1) / world_size
    rows, counts, moments = num_samples / world_size, 8, 4 * (4 * num_dims + 1)
    if form == "correlation":
        return others * moments + 2 * shard * 4 * (num_dims**2 + 2 * num_dims)
    views = 2 * rows * num_dims
    if form == "gram":
        gathered = counts + moments + embedding_bytes * views
        return others * gathered + 2 * shard * 4 * (3 * num_dims + 1)
    grams = 2 * shard * 4 * (num_samples**2 + num_samples + 3)
    return others * counts + shard * (embedding_bytes + 4) * views + grams


def _si(number: float) -> str:
    for unit in ("", "k", "M", "G", "T"):
        if number < 1000 or unit == "T":
            break
        number /= 1000
    return f"{number:.3g} {unit}"
