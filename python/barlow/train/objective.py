"""Here: a run's objective: which loss its config names, and what a method keeps for it beside the twins.

Not here: formulas (objectives/), the twins, the optimizer. Most objectives keep nothing: they are functions
of two embeddings. What others keep is a parameter or buffer of this module, and so in the optimizer and in
checkpoints: a predictor, a target network. What is drawn is a function of the seed and the step.
"""

from __future__ import annotations

import contextlib
import copy
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from barlow.config import Config, ObjectiveConfig
from barlow.distributed import all_reduce_, world_size
from barlow.model import Twins, build_predictor
from barlow.model.batchnorm import num_views_of, one_advance_of
from barlow.objectives import Form, barlow_twins
from barlow.objectives.auto_correlation import auto_correlation
from barlow.objectives.byol import advance_target_, byol, target_momentum
from barlow.objectives.cross_covariance import cross_covariance
from barlow.objectives.cross_entropy import cross_entropy
from barlow.objectives.feature_normalized import feature_normalized
from barlow.objectives.fft import fft_barlow_twins
from barlow.objectives.hsic import hsic
from barlow.objectives.infonce import infonce
from barlow.objectives.mixed_barlow_twins import mix_views, mixed_barlow_twins
from barlow.objectives.redundancy_reduction import redundancy_reduction
from barlow.objectives.simclr import simclr
from barlow.objectives.simsiam import simsiam
from barlow.objectives.vicreg import vicreg
from barlow.objectives.w_mse import w_mse
from barlow.train.accumulate import Batch, split

Loss = Callable[[Sequence[Tensor]], Tensor]


class Draw(NamedTuple):
    """What all ranks know of a step alike."""

    generator: torch.Generator
    counts: list[int]
    """Rows of each rank; so no loss has to ask for them, for which hosts would wait for their devices."""


# Of this rank's two embeddings, the settings, and the draw of a step (same on all ranks).
OF_TWO: dict[str, Callable[[Tensor, Tensor, ObjectiveConfig, Draw], Tensor]] = {
    "barlow_twins": lambda z1, z2, of, draw: barlow_twins(
        z1, z2, of.lambd, form=of.form, eps=of.eps, counts=draw.counts
    ),
    "redundancy_reduction": lambda z1, z2, of, _: redundancy_reduction(z1, z2, of.lambd, eps=of.eps),
    "feature_normalized": lambda z1, z2, of, _: feature_normalized(z1, z2, of.lambd, eps=of.eps),
    "cross_covariance": lambda z1, z2, of, _: cross_covariance(z1, z2, of.lambd),
    "cross_entropy": lambda z1, z2, of, _: cross_entropy(z1, z2, of.lambd, of.temperature, eps=of.eps),
    "auto_correlation": lambda z1, z2, of, _: auto_correlation(z1, z2, of.lambd, eps=of.eps),
    "hsic": lambda z1, z2, of, _: hsic(z1, z2, of.lambd, eps=of.eps),
    "fft": lambda z1, z2, of, draw: fft_barlow_twins(
        z1, z2, of.lambd, block=of.block or None, generator=draw.generator, eps=of.eps
    ),
    "vicreg": lambda z1, z2, of, _: vicreg(z1, z2, of.invariance, of.variance, of.covariance),
    "w_mse": lambda z1, z2, of, draw: w_mse(
        z1, z2, generator=draw.generator, sub_batch=of.sub_batch or None, counts=draw.counts
    ),
    "simclr": lambda z1, z2, of, draw: simclr(z1, z2, of.temperature, counts=draw.counts),
    "infonce": lambda z1, z2, of, draw: infonce(z1, z2, of.temperature, counts=draw.counts),
}


class Objective(nn.Module):
    """What stands between the twins' embeddings and the loss. The same on every rank.

    A step is: `batches, loss_of = objective.begin(step, batches)`, the backward pass of `loss_of` the twins'
    embeddings, `objective.average_gradients()`, the optimizer's step, `objective.end(step, twins)`.
    """

    def __init__(
        self,
        config: Config,
        twins: Twins,
        total_steps: int,
        form: Form | None = None,
        autocast: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
        counts: Sequence[int] | None = None,
    ) -> None:
        """`counts`: rows of each rank; None: as many on each, which `validate` has seen to in a run."""
        super().__init__()
        self._autocast = autocast  # of the target network; the twins and losses run under the caller's
        # A form that has been chosen already spares the loss a look at the other ranks' samples.
        self._config = replace(config.objective, form=form or config.objective.form)
        self._seed, self._total_steps = config.train.seed, total_steps
        self._counts = list(counts or [config.optim.batch_size // world_size()] * world_size())
        self.predictor = _predictor(config)
        # Its own statistics of the batch, never gradients; as the twins are now, memory layout included.
        is_byol = config.objective.name == "byol"
        self.target = copy.deepcopy(twins).requires_grad_(False) if is_byol else None

    def begin(self, step: int, batches: Sequence[Batch]) -> tuple[Sequence[Batch], Loss]:
        """What the twins must embed in step `step` (from 1), and the loss of the embeddings.

        `batches` give this rank's two views in micro-batches, floats [m, 3, H, W]; what is returned gives
        these and perhaps more. The loss takes the embeddings of all, [n, D] each, and is the global batch's.
        """
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self._seed}/{step}".encode()))
        of, draw = self._config, Draw(generator, self._counts)
        if of.name == "mixed_barlow_twins":
            views = [torch.cat(view) for view in zip(*(batch() for batch in batches), strict=True)]
            mixed, mixture = mix_views(*views, generator=generator, counts=self._counts)
            parts = split([*views, mixed], len(batches))
            return [partial(list, part) for part in parts], lambda z: mixed_barlow_twins(
                *z, mixture=mixture, lambd=of.lambd, weight=of.mixed, eps=of.eps
            )
        if of.name == "byol":
            targets = self._targets(batches)
            return batches, lambda z: byol(*targets, *self._predictions(z))
        if of.name == "simsiam":
            return batches, lambda z: simsiam(*z, *self._predictions(z))
        return batches, lambda z: self._of_two(z, draw)

    @torch.no_grad()
    def _targets(self, batches: Sequence[Batch]) -> list[Tensor]:
        """The target network's embeddings of both views, micro-batch by micro-batch like the twins'."""
        assert self.target is not None
        parts = []
        with one_advance_of(self.target.backbone):
            for batch in batches:
                with self._autocast():
                    parts.append(self.target.represent(batch()))
        with self._autocast():
            return self.target.project([torch.cat(view) for view in zip(*parts, strict=True)])

    def _of_two(self, embeddings: Sequence[Tensor], draw: Draw) -> Tensor:
        z1_ND, z2_ND = embeddings
        if self.predictor is not None:
            (z1_ND,) = self._predictions([z1_ND])
        if self._config.stop_gradient:
            z2_ND = z2_ND.detach()
        return OF_TWO[self._config.name](z1_ND, z2_ND, self._config, draw)

    def _predictions(self, embeddings: Sequence[Tensor]) -> Sequence[Tensor]:
        assert self.predictor is not None
        with num_views_of(self.predictor, len(embeddings)):
            return self.predictor(torch.cat(list(embeddings))).chunk(len(embeddings))

    def average_gradients(self) -> None:
        """After backward: makes gradients means over the ranks, as is done with the twins'."""
        for parameter in self.parameters():
            if parameter.grad is not None:
                all_reduce_(parameter.grad).div_(world_size())

    def end(self, step: int, twins: Twins) -> None:
        """After the optimizer's step `step`: moves the target network towards the twins."""
        if self.target is not None:
            kept = target_momentum(step - 1, self._total_steps, self._config.target_momentum)
            advance_target_(self.target, twins, kept)


def _predictor(config: Config) -> nn.Module | None:
    """With weights that are a function of the config alone; the global random state stays."""
    of, num_dims = config.objective, config.model.projector[-1]
    usual = {"byol": (4096,), "simsiam": (max(1, num_dims // 4),)}
    hidden = of.predictor or usual.get(of.name, ())
    if not hidden:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.train.seed + 1)  # not the twins' own numbers again
        return build_predictor(num_dims, hidden, bias=of.name == "simsiam")
