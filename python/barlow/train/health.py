"""Here: how a run is doing, as one line of metrics; what each number means is in docs/health.md.

Not here: what is ill and what to do about it (alarms.py), where lines go (metrics.py, progress.py), how often
they are made (loop.py).

Everything is measured on what the step has computed anyway, and only when a line is due: between two lines
health costs nothing, and the device is not waited for.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from barlow.config import Config
from barlow.distributed import all_gather, world_size
from barlow.objectives import correlation_summary, loss_floor
from barlow.objectives.spectrum import effective_rank, power_law_exponent, spectrum
from barlow.optim import LARS, AdamW, StepNorms, step_norms
from barlow.train.learner import Learner

MAX_ROWS = 512
"""Samples that the spectrum is taken of, evenly spaced over the global batch: its cost has a bound."""
_DEAD = 1e-5
"""A dimension whose deviation is below this share of the embeddings' root mean square says nothing."""


def line(
    step: int, learner: Learner, loss: Tensor, embeddings: list[Tensor], lap: dict[str, float]
) -> dict[str, Any]:
    """One line of metrics, what is not finite as None. Every rank calls it: all is of the global batch.

    After the step has been found good: weights, gradients and embeddings are those that it left.
    """
    config, plan = learner.config, learner.plan
    objective, num_dims = config.objective, embeddings[0].shape[1]
    summary = correlation_summary(*embeddings, form=learner.form, eps=objective.eps)
    lr_weights, lr_biases = learner.rates(step)
    loss_value = loss.item()
    floor = {}
    if objective.name == "barlow_twins":  # of no other loss is one known
        least = loss_floor(config.optim.batch_size, num_dims, objective.lambd)
        floor = {"loss_floor": least, "loss_over_floor": loss_value - least}
    scale = {"loss_scale": learner.scaler.get_scale()} if learner.scaler.is_enabled() else {}
    return finite(
        {
            "step": step,
            "epoch": step / plan.steps_per_epoch,
            "loss": loss_value,
            **floor,
            "lr_weights": lr_weights,
            "lr_biases": lr_biases,
            "images_per_s": lap["steps_per_s"] * config.optim.batch_size,
            "wait_share": lap["wait_share"],
            "on_diagonal": summary.on_diagonal,
            "off_diagonal_rms": summary.off_diagonal_rms,
            "off_diagonal_expected": expected_correlation(config.optim.batch_size),
            **of_embeddings(sample(embeddings[0])),
            **_of_update(learner.optimizer),
            **scale,
            "time_s": lap["time_s"],
        }
    )


def _of_update(optimizer: LARS | AdamW) -> dict[str, float]:
    """`step_norms` by name; NaN for a step that the scaler has left out, which has none."""
    skipped = optimizer.found_inf is not None and optimizer.found_inf.item() > 0
    return dict.fromkeys(StepNorms._fields, math.nan) if skipped else step_norms(optimizer)._asdict()


def expected_correlation(num_samples: int) -> float:
    """Root mean square of C_ij for two dimensions that have nothing to do with each other, over N samples.

    About 1 / sqrt(N). Exactly 1 / sqrt(N - 1): centred samples have one direction less to differ in.
    """
    return 1 / math.sqrt(num_samples - 1)


def possible_rank(config: Config) -> int:
    """The most directions that RankMe can find in a run: fewer than samples, not more than dimensions."""
    return min(config.optim.batch_size - 1, MAX_ROWS - 1, config.model.projector[-1])


def sample(z_ND: Tensor) -> Tensor:
    """At most about `MAX_ROWS` rows of the global batch's embeddings, in order, on every rank."""
    stride = -(-len(z_ND) * world_size() // MAX_ROWS)
    return all_gather(z_ND[::stride].float()).flatten(0, 1)


def of_embeddings(z_ND: Tensor) -> dict[str, float]:
    """What a sample of embeddings says without labels: see docs/health.md."""
    deviation_D = z_ND.std(0, unbiased=False)
    rms = z_ND.square().mean().sqrt()
    dead = (deviation_D <= _DEAD * rms).sum()
    spread = deviation_D.square().mean().sqrt() / rms.clamp_min(torch.finfo(rms.dtype).tiny)
    spectrum_K = spectrum(z_ND)
    alpha = power_law_exponent(spectrum_K)
    return {
        "dead_dimensions": int(dead.item()),
        "spread": spread.item(),
        "rank_me": effective_rank(spectrum_K),
        **({} if alpha is None else {"alpha_req": alpha}),
    }


def finite(line: dict[str, Any]) -> dict[str, Any]:
    """The same with None in place of numbers that JSON does not know."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in line.items()
    }
