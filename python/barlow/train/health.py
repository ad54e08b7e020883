"""Here: how a run is doing, as one line of metrics.

Not here: where lines go (metrics.py, progress.py), how often they are made (loop.py).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from barlow.objectives import correlation_summary, loss_floor
from barlow.train.learner import Learner


def line(
    step: int, learner: Learner, loss: Tensor, embeddings: list[Tensor], lap: dict[str, float]
) -> dict[str, Any]:
    """One line of metrics. Every rank calls it: the cross-correlation is that of the global batch."""
    config, plan = learner.config, learner.plan
    objective = config.objective
    summary = correlation_summary(*embeddings, form=learner.form, eps=objective.eps)
    num_dims = embeddings[0].shape[1]
    lr_weights, lr_biases = learner.rates(step)
    floor = {}
    if objective.name == "barlow_twins":  # of no other loss is one known
        floor["loss_floor"] = loss_floor(config.optim.batch_size, num_dims, objective.lambd)
    return {
        "step": step,
        "epoch": step / plan.steps_per_epoch,
        "loss": loss.item(),
        **floor,
        "lr_weights": lr_weights,
        "lr_biases": lr_biases,
        "images_per_s": lap["steps_per_s"] * config.optim.batch_size,
        "wait_share": lap["wait_share"],
        "on_diagonal": summary.on_diagonal,
        "off_diagonal_rms": summary.off_diagonal_rms,
        "time_s": lap["time_s"],
    }
