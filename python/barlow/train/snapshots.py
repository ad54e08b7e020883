"""Here: small pictures of the cross-correlation matrix while a run trains, ever more seldom, for its report.

Not here: drawing them (report/), the numbers of every line of metrics (health.py).

A snapshot is `snapshots/step-00000123.safetensors` with `cross_correlation`, float32 [K, K], the matrix of
the global batch at K evenly spaced dimensions, and `dims`, int64 [K], their numbers. A part of the matrix
rather than a shrunken whole: it costs K K instead of D D, and each of its entries is a correlation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from barlow import durable
from barlow.objectives import cross_correlation
from barlow.train.learner import Plan

FOLDER = "snapshots"
MAX_DIMS = 64
"""Most dimensions of a snapshot: 16 KiB, about twenty times in a run of any length."""


def due(step: int, plan: Plan) -> bool:
    """Whether a snapshot follows this step: the first that is logged at or after each power of two, and the
    last. A function of the step and of what is logged, so a resumed run takes the same ones."""
    if not plan.logs(step):
        return False
    previous = (step - 1) // plan.log_every * plan.log_every or min(1, step - 1)
    return step == plan.last_step or previous.bit_length() < step.bit_length()


def take(run: Path | None, step: int, embeddings: Sequence[Tensor], eps: float) -> None:
    """Writes the snapshot of a step from this rank's two embeddings [n, D]; `OSError`.

    Every rank calls it, the first one with the run folder, the others with None.
    """
    num_dims = embeddings[0].shape[1]
    count = min(num_dims, MAX_DIMS)
    dims_K = (2 * torch.arange(count) + 1) * num_dims // (2 * count)
    z1_NK, z2_NK = (z_ND[:, dims_K.to(z_ND.device)] for z_ND in embeddings)
    c_KK = cross_correlation(z1_NK, z2_NK, eps=eps)
    if run is not None:
        raw = save({"cross_correlation": c_KK.float().cpu().contiguous(), "dims": dims_K})
        durable.write_file(run / FOLDER / f"step-{step:08d}.safetensors", raw)


def forget_after(run: Path, step: int) -> None:
    """Removes the snapshots of steps after `step`, where the run is resumed, and what a crash left."""
    durable.remove_leftovers(run / FOLDER)
    for path in (run / FOLDER).glob("step-*.safetensors"):
        if path.stem[5:].isdigit() and int(path.stem[5:]) > step:
            path.unlink()
