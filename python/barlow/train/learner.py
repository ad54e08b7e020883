"""Here: one training step (twins, DDP, autocast, objective, optimizer), and when a run logs, saves, stops.

Not here: forward and backward (accumulate.py), which loss it is (objective.py), data, metrics, checkpoints,
the order of the steps (loop.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from barlow.config import Config
from barlow.data import to_float
from barlow.distributed import World
from barlow.model import Twins, build_model
from barlow.model.parallel import data_parallel
from barlow.model.precision import autocast, training_dtype
from barlow.objectives import Form, choose_form
from barlow.optim import LARS, AdamW, choose_optimizer, learning_rate, parameter_groups, true_gradient_rates
from barlow.train.accumulate import backward, split
from barlow.train.beginning import Initial
from barlow.train.guard import PATIENCE, Guard
from barlow.train.objective import Objective
from barlow.validation import num_micro_batches


@dataclass(frozen=True)
class Plan:
    """When a run logs, saves and stops, in optimizer steps counted from 1."""

    steps_per_epoch: int
    total_steps: int
    last_step: int
    """`total_steps`, or where `--train.steps` stops short of them."""
    log_every: int
    save_every: int
    """The most steps that a kill may cost."""
    keep_every: int = 0
    """Checkpoints at multiples of this are kept for good; 0: at none."""
    judge_every: int = 0
    """Steps between two kNN classifications; 0: none."""

    @classmethod
    def of(cls, config: Config, steps_per_epoch: int) -> Plan:
        """The plan for a loader that gives `steps_per_epoch` batches."""
        total = config.optim.epochs * steps_per_epoch
        return cls(
            steps_per_epoch=steps_per_epoch,
            total_steps=total,
            last_step=min(config.train.steps or total, total),
            log_every=config.train.log_every,
            save_every=config.checkpoint.every_steps
            or max(1, round(config.checkpoint.every_epochs * steps_per_epoch)),
            keep_every=config.checkpoint.keep_every_epochs * steps_per_epoch,
            judge_every=math.ceil(config.evaluate.online_every_epochs * steps_per_epoch),
        )

    def logs(self, step: int) -> bool:
        """Whether this step gives a line of metrics; the first is a sign of life, the last the result."""
        return step % self.log_every == 0 or step in (1, self.last_step) or self.judges(step)

    def judges(self, step: int) -> bool:
        """Whether kNN follows this step, if there are labels; its result is in this step's line."""
        return self.judge_every > 0 and (step % self.judge_every == 0 or step == self.last_step)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint follows this step."""
        return step % self.save_every == 0 or step == self.last_step or self.keeps(step)

    def bridges(self, step: int) -> bool:
        """Whether a checkpoint follows this step that only has to last until the next one is there.

        So each one has the time of half an interval to be written in, and a whole interval is never at stake.
        """
        return step % self.save_every == math.ceil(self.save_every / 2) and not self.saves(step)

    def keeps(self, step: int) -> bool:
        """Whether the checkpoint of this step stays when newer ones have come."""
        return self.keep_every > 0 and step % self.keep_every == 0


class Learner:
    """All that a step changes: the twins, what the objective keeps, momentum, the gradient scaler.

    `network` is the parameters and buffers of twins and objective, under the names of a checkpoint.
    """

    def __init__(self, config: Config, plan: Plan, world: World, initial: Initial | None = None) -> None:
        """`initial`: weights to begin with instead of those drawn from the seed."""
        self.plan, self.device = plan, world.device
        self.twins = build_model(config.model, config.train.seed).to(world.device)
        optimizer, self.optimizer_reason = choose_optimizer(config.optim, self.twins.backbone)
        """Why it is LARS or AdamW."""
        self.config = config = replace(config, optim=replace(config.optim, optimizer=optimizer))
        if initial is not None:  # before the objective, whose target network is a copy of the twins
            initial.load(self.twins)
        if config.train.channels_last:
            self.twins.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.autocast_dtype = training_dtype(
            config.train.precision, world.device, config.model, config.data.image_size
        )
        self.form: Form
        self.form, self.form_reason = _form(config, world, half=self.autocast_dtype != torch.float32)
        """The form of the loss, never "auto", and why it was chosen."""
        self._autocast = partial(autocast, world.device, self.autocast_dtype)
        self.objective = Objective(config, self.twins, plan.total_steps, self.form, self._autocast)
        self.objective.to(world.device)
        self.network = nn.ModuleDict({**dict(self.twins.named_children()), "objective": self.objective})
        self.num_micro_batches = num_micro_batches(config, world.size)
        static, compression = self.num_micro_batches == 1, config.train.gradient_compression
        parallel = data_parallel(self.twins, static=static, compression=compression)
        self._model = _rehearsed(parallel, self.twins, world.device, config.model.image_size)
        if config.train.compile:
            compile_parts(self.twins)  # now, or it would compile for the rehearsal's size as well
        self._peak = true_gradient_rates(config.optim)
        self.optimizer = _optimizer(config, self.network, self._peak.weight_decay)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.autocast_dtype == torch.float16)
        self._guard = Guard(world.device, PATIENCE if self.scaler.is_enabled() else 1)

    def step(self, step: int, views_u8: list[Tensor], *, check: bool) -> tuple[Tensor, list[Tensor]]:
        """Step `step` on this rank's views: the loss of the global batch and their embeddings on this rank.

        A loss or gradient that is not finite is a `NotFinite`, and no weight changes: with `check`, and on a
        CPU always, at this step, otherwise perhaps at the next one (guard.py).
        """
        loss, embeddings = self.differentiate(step, views_u8)
        self.scaler.unscale_(self.optimizer)
        skip = self._guard.examine(step, loss, self.gradients().values(), views_u8)
        weights, biases = self.optimizer.param_groups
        weights["lr"], biases["lr"] = self.rates(step)
        # The name by which torch's own optimizers hear of it: then they change nothing (optim/lars.py).
        self.optimizer.found_inf = None if skip is None else skip.float()
        self.optimizer.step()
        self.scaler.update()
        if check:
            self._guard.settle()
        self.objective.end(step, self.twins)
        return loss, embeddings

    def differentiate(self, step: int, views_u8: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The step without its update: the parameters are left with gradients, times the scaler's factor."""
        batches = [partial(self._floats, part) for part in split(views_u8, self.num_micro_batches)]
        to_embed, objective_of = self.objective.begin(step, batches)
        self.optimizer.zero_grad(set_to_none=True)
        loss, embeddings = backward(self._model, to_embed, objective_of, self.scaler, self._autocast)
        self.objective.average_gradients()
        return loss.detach(), [z_ND.detach() for z_ND in embeddings[: len(views_u8)]]

    def gradients(self) -> dict[str, Tensor]:
        """The gradients of the latest step by parameter, in the order of the network; unscaled."""
        return {name: p.grad for name, p in self.network.named_parameters() if p.grad is not None}

    def _floats(self, views_u8: list[Tensor]) -> list[Tensor]:
        if views_u8[0].is_floating_point():  # a device stage has done it
            return views_u8
        data = self.config.data
        # What autocast would round the network's input to; mixtures of images are made in float32.
        mixes = self.config.objective.name == "mixed_barlow_twins"
        dtype = torch.float32 if mixes or self.device.type == "cpu" else self.autocast_dtype
        views = to_float(views_u8, data.mean, data.std, device=self.device, dtype=dtype)
        return views if self.config.train.channels_last else [view.contiguous() for view in views]

    def rates(self, step: int) -> tuple[float, float]:
        """The learning rates of weights and of biases at a step (from 1)."""
        ratio = learning_rate(step - 1, self.config.optim, self.plan.steps_per_epoch)
        return self._peak.lr_weights * ratio, self._peak.lr_biases * ratio


def _optimizer(config: Config, network: nn.Module, weight_decay: float) -> LARS | AdamW:
    """For every parameter that is trained; each step sets its own learning rate."""
    optim, groups = config.optim, parameter_groups(network)
    if optim.optimizer == "adamw":
        return AdamW(groups, lr=0.0, betas=optim.adamw_betas, weight_decay=weight_decay)
    return LARS(
        groups,
        lr=0.0,
        momentum=optim.momentum,
        weight_decay=weight_decay,
        trust_coefficient=optim.trust_coefficient,
        variant=optim.variant,
        fused=config.train.fused_lars or config.train.compile,
    )


def _form(config: Config, world: World, *, half: bool) -> tuple[Form, str]:
    if config.objective.form != "auto":
        return config.objective.form, "by --objective.form"
    num_dims = config.model.projector[-1]
    half = half and world.device.type == "cuda"
    return choose_form(config.optim.batch_size, num_dims, world.size, half=half)


def compile_parts(twins: Twins, backend: str = "inductor") -> None:
    """Compiles backbone and projector where they are called next, for each size of their input.

    Each by itself: gradients come out of a compiled part all at once, and those of the projector, most of
    all, then travel between the ranks while the backbone's are computed.
    """
    for part in (twins.backbone, twins.projector):
        part.compile(dynamic=False, backend=backend)


def _rehearsed(
    model: Twins | DistributedDataParallel, twins: Twins, device: torch.device, image_size: int
) -> Twins | DistributedDataParallel:
    """The data-parallel twins after two passes that leave no trace in them. `image_size`: 0 is any."""
    if model is twins:
        return model
    # DDP lays its buckets out anew after the first backward pass, and a ring's sums round by the place in
    # the bucket: with more than two ranks the first step of a resumed run would differ from the same step
    # of one that never stopped. A rehearsal puts that behind us; it leaves only the statistics to restore.
    # Two passes: with a static graph the first one only learns what there is to be laid out.
    before = [buffer.clone() for buffer in twins.buffers()]
    side = image_size or 32
    blank = torch.zeros(2, 3, side, side, device=device)
    for _ in range(2):
        torch.stack(model([blank, blank])).sum().backward()
    for buffer, value in zip(twins.buffers(), before, strict=True):
        buffer.copy_(value)
    twins.zero_grad(set_to_none=True)
    return model
