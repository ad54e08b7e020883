"""Here: one run, top to bottom: loader -> twins -> DDP -> LARS -> steps -> metrics and checkpoints.

Not here: starting ranks and checking what the user asked for (`launch.py`), what a checkpoint holds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from pathlib import Path

import torch

from barlow.config import Config
from barlow.data import Index
from barlow.data.staged import endless
from barlow.distributed import World
from barlow.train import snapshots
from barlow.train.algorithms import algorithms
from barlow.train.beginning import initial_weights
from barlow.train.blackbox import record
from barlow.train.feed import Feed
from barlow.train.guard import NotFinite
from barlow.train.health import line, possible_rank
from barlow.train.learner import Learner, Plan
from barlow.train.loading import open_loader
from barlow.train.metrics import Metrics
from barlow.train.observer import MakeJudge, Observer
from barlow.train.preempt import Stop
from barlow.train.progress import Display
from barlow.train.saving import FAILED, Saver, resume
from barlow.train.throughput import Throughput
from barlow.train.turns import Turns


def train(
    index: Index, config: Config, run: Path, world: World, threads: int, make_judge: MakeJudge | None = None
) -> int:
    """Trains until `config` says stop, from the run's newest checkpoint if there is one; returns 0.

    SIGTERM or SIGUSR1 to any rank stops all of them after the same step, with a checkpoint: then it returns
    the signal's number, on every rank. Nobody waits for a batch any more then: a read may hang for ever. A
    second signal ends the process (`preempt.py`).
    `threads` is this rank's share of the machine's cores: loader threads unless the config says otherwise
    and, on a CPU, torch's. `FloatingPointError` when the loss, a gradient or a weight stops being finite: of
    the step that was not made there is a black box then (`blackbox.py`). `make_judge`: see `observer.py`.
    """
    if world.device.type == "cpu":
        torch.set_num_threads(threads)
    with contextlib.ExitStack() as stack:
        stack.enter_context(algorithms(world.device, deterministic=config.train.deterministic))
        loader, stage = open_loader(index, config, world, threads)
        stack.enter_context(loader)
        plan = Plan.of(config, steps_per_epoch=len(loader))
        initial = initial_weights(run, config, world)
        learner = Learner(config, plan, world, initial)
        resumed_step, past_s, note = resume(run, learner, loader, world)
        step = resumed_step
        display = Display(
            step,
            plan.last_step,
            plan.steps_per_epoch,
            quiet=world.rank != 0,
            title=str(run),
            possible_rank=possible_rank(config),
        )
        display.saved(resumed_step or -1)
        if step >= plan.last_step:
            display.say(f"{run} is finished: {_all_done(step, plan)}")
            return 0
        for said in filter(None, (note, initial and initial.said, too_many(config, plan))):
            display.say(said)
        form = f"{learner.form} form, {learner.form_reason}"
        display.say(f"loss: {form if config.objective.name == 'barlow_twins' else config.objective.name}")
        if learner.config.optim.optimizer != "lars":
            display.say(f"optimizer: {learner.config.optim.optimizer}, since {learner.optimizer_reason}")
        if stage:
            display.say(stage)
        stop = stack.enter_context(Stop())
        metrics = observer = None
        if world.rank == 0:
            metrics = Metrics(
                run,
                keep=lambda kept: kept["step"] <= resumed_step and plan.logs(kept["step"]),
                survivable=config.checkpoint.on_error == "warn",
                wandb=config.train.wandb,
                config=dataclasses.asdict(config),
            )
            stack.enter_context(metrics)
            snapshots.forget_after(run, resumed_step)
            judge = make_judge(index, config, world.device) if make_judge else None
            observer = Observer(metrics, display, config, judge, lambda: stop.number > 0)
        stack.enter_context(display)
        saver = stack.enter_context(Saver(run, learner, metrics, world, resumed_step))
        turns = stack.enter_context(Turns(loader, lambda: saver.poll() or stop.number))
        clock = Clock(past_s, step)
        feed = Feed(world.device)
        meter = Throughput(learner, plan.last_step, world.size, lambda: loader.stats().waited_s)
        if initial:
            saver.save(0, loader, past_s)  # from now on the run needs nobody else's weights
        batches = endless(loader)
        stopped_by = 0
        while step < plan.last_step and not (stopped_by := stopped_by or turns.wait()):
            batch = next(batches)
            step += 1
            saver.make_room(step)
            turns.ask()
            saves = plan.saves(step) or plan.bridges(step)
            with meter.step():
                with meter.stage("copy"):
                    views_u8 = feed(batch.views)
                with meter.stage("compute"):
                    try:
                        loss, embeddings = learner.step(step, views_u8, check=plan.logs(step) or saves)
                    except NotFinite as found:
                        lines = metrics.lines if metrics else ()
                        raise record(found, run, learner, index, world, lines) from None
            if plan.logs(step):
                metered = line(step, learner, loss, embeddings, clock.lap(step, loader.stats().waited_s))
                metered |= meter.lap(step)
                if observer:
                    observer.tell(metered, learner.twins.backbone if plan.judges(step) else None)
                    # What came since the line is no part of the next one's time.
                    clock.lap(step, loader.stats().waited_s)
            if limits := meter.every_minute(step):
                display.limits(limits)
            if snapshots.due(step, plan):
                snapshots.take(run if metrics else None, step, embeddings, config.objective.eps)
            display.saved(saver.newest)
            display.advance(step)
            stopped_by = turns.answer()
            if saves and not stopped_by and step < plan.last_step:
                saver.save(step, loader, clock.now_s())
        if stopped_by == FAILED:
            saver.raise_failure()
        saver.save(step, loader, clock.now_s())
        # Before all is saved no late copy of the signal may find a rank without handlers.
        saver.finish(needed=step == plan.last_step)
        display.saved(saver.newest)
        if step < plan.last_step:
            saved = "is saved" if saver.newest == step else "could not be saved"
            name = signal.Signals(stopped_by).name
            display.say(f"stopped by {name} after step {step}, which {saved}; the same command goes on")
            return stopped_by
    return 0


def too_many(config: Config, plan: Plan) -> str | None:
    """A note that the epochs end before the steps that were asked for."""
    if config.train.steps <= plan.total_steps:
        return None
    epochs = f"{config.optim.epochs} epochs of {plan.steps_per_epoch:,} steps"
    return f"--train.steps {config.train.steps}: the {epochs} end before, after step {plan.total_steps:,}"


def _all_done(step: int, plan: Plan) -> str:
    more = "--extend-to EPOCHS gives it more"
    asked = more if step >= plan.total_steps else f"--train.steps {plan.last_step} asks for no more"
    return f"{step} of {plan.total_steps} steps are done; {asked}"


class Clock:
    """Seconds of training, those before a resumption included, and what happened since the last lap."""

    def __init__(self, past_s: float, step: int) -> None:
        self._origin_s = time.perf_counter() - past_s
        self._lap_s, self._step, self._waited_s = time.perf_counter(), step, 0.0

    def now_s(self) -> float:
        """Seconds of training so far."""
        return time.perf_counter() - self._origin_s

    def lap(self, step: int, waited_s: float) -> dict[str, float]:
        """Since the last lap: steps per second, and the share of time in `waited_s` (a running total)."""
        now_s = time.perf_counter()
        elapsed_s = now_s - self._lap_s
        lap = {
            "steps_per_s": (step - self._step) / elapsed_s,
            "wait_share": (waited_s - self._waited_s) / elapsed_s,
            "time_s": now_s - self._origin_s,
        }
        self._lap_s, self._step, self._waited_s = now_s, step, waited_s
        return lap
