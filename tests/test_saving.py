"""Saving beside the training: what is copied when, one at a time, errors that surface between steps."""

from __future__ import annotations

import errno
import itertools
import os
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

import processes
from barlow.config import Config
from barlow.data import Loader, open_index, views
from barlow.distributed import World
from barlow.train import checkpoint, saving
from barlow.train.learner import Learner, Plan
from barlow.train.loop import train
from barlow.train.metrics import Metrics
from barlow.train.saving import FAILED, Saver, resume
from commands import make_images
from tiny_run import tiny_config

ONE = World(0, 1, 0, torch.device("cpu"))
LINE = {"step": 1, "time_s": 0.5, "loss": 3.0}


def configuration(on_error: str = "raise", every_steps: int = 2) -> Config:
    config = tiny_config(epochs=2, width=4)
    of = replace(config.checkpoint, every_steps=every_steps, keep=2, on_error=on_error)
    return replace(config, optim=replace(config.optim, batch_size=8), checkpoint=of)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"), num_images=24, side_px=16)


@pytest.fixture
def loader(images: Path) -> Iterator[Loader]:
    of = views.training(configuration().data)
    with Loader(open_index(images), views=of, batch_size=8, seed=0, epochs=2, threads=1) as made:
        yield made


class Gate:
    """Stops the writing of checkpoints at their first flush until it is opened; can fail them instead."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.opened, self.error, self._fsync = threading.Event(), 0, os.fsync
        self.flushed: list[str] = []
        patch.setattr(os, "fsync", self._flush)

    def _flush(self, descriptor: int) -> None:
        assert self.opened.wait(60)
        self.flushed.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        self._fsync(descriptor)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


def learner_of(config: Config) -> Learner:
    torch.set_num_threads(1)
    return Learner(config, Plan.of(config, steps_per_epoch=3), ONE)


def scramble(learner: Learner, value: float) -> None:
    with torch.no_grad():
        for parameter in learner.network.parameters():
            parameter.fill_(value)
            learner.optimizer.state[parameter]["mu"] = torch.full_like(parameter, value)


def test_what_is_saved_is_the_moment_of_the_save(tmp_path: Path, loader: Loader, gate: Gate) -> None:
    """`save` returns while nothing has reached the disk; what training does meanwhile leaves no trace."""
    learner = learner_of(configuration())
    scramble(learner, 1.0)
    with Saver(tmp_path, learner, None, ONE) as saver:
        saver.save(2, loader, 7.5)
        assert not gate.flushed
        assert not (tmp_path / "checkpoints" / "step-00000002").exists()
        scramble(learner, 9.0)
        next(iter(loader))
        gate.opened.set()
        saver.finish(needed=True)
        assert saver.newest == 2
    other = learner_of(configuration())
    assert resume(tmp_path, other, loader, ONE) == (2, 7.5, None)
    assert loader.state_dict() == {"epoch": 0, "step": 0}
    assert all(bool((p == 1).all()) for p in other.network.parameters())
    assert all(bool((other.optimizer.state[p]["mu"] == 1).all()) for p in other.network.parameters())


def test_one_at_a_time_and_none_is_left_out(
    tmp_path: Path, loader: Loader, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = learner_of(configuration())
    monkeypatch.setattr(saving, "_LONG_WAIT_S", 0.01)
    with Saver(tmp_path, learner, None, ONE) as saver:
        scramble(learner, 1.0)
        saver.save(2, loader, 0.0)
        scramble(learner, 2.0)
        timer = threading.Timer(0.3, gate.opened.set)
        timer.start()
        began_s = time.monotonic()
        with pytest.warns(UserWarning, match=r"step 4 waited 0\.\d s for the checkpoint before it"):
            saver.save(4, loader, 0.0)
        assert time.monotonic() - began_s > 0.2
        saver.finish(needed=True)
        timer.join()
    for step, value in ((2, 1.0), (4, 2.0)):
        folder = tmp_path / "checkpoints" / f"step-{step:08d}"
        assert load_file(folder / "model.safetensors")["backbone.conv1.weight"].unique().tolist() == [value]


@pytest.mark.parametrize(
    ("every_steps", "saved", "free", "waits"),
    [(1, 1, 1, 2), (2, 1, 2, 3), (5, 3, 5, 6)],
)
def test_no_step_begins_that_would_put_more_than_an_interval_at_stake(
    tmp_path: Path, loader: Loader, gate: Gate, every_steps: int, saved: int, free: int, waits: int
) -> None:
    """The first checkpoint hangs: up to step `free` nothing waits for it, the one after that does."""
    learner = learner_of(configuration(every_steps=every_steps))
    assert learner.plan.saves(saved) or learner.plan.bridges(saved)
    with Saver(tmp_path, learner, None, ONE) as saver:
        for step in range(1, free + 1):
            saver.make_room(step)
            if step == saved:
                saver.save(step, loader, 0.0)
        assert not gate.opened.is_set()
        assert saver.newest == -1
        threading.Timer(0.2, gate.opened.set).start()
        saver.make_room(waits)
        assert saver.newest == saved


def test_a_step_that_is_saved_is_not_saved_again(tmp_path: Path, loader: Loader, gate: Gate) -> None:
    gate.opened.set()
    with Saver(tmp_path, learner_of(configuration("warn")), None, ONE, resumed_step=2) as saver:
        saver.save(2, loader, 0.0)
        assert not gate.flushed
        gate.error = errno.EIO
        saver.save(4, loader, 0.0)
        with pytest.warns(UserWarning, match=r"step 4 could not .*; that of step 2 is the newest"):
            saver.finish(needed=False)
        gate.error = 0
        saver.save(4, loader, 0.0)  # unless it has failed
        saver.finish(needed=True)
        count = len(gate.flushed)
        saver.save(4, loader, 0.0)
        saver.finish(needed=True)
        assert saver.newest == 4
        assert len(gate.flushed) == count


def test_metrics_are_on_the_disk_before_the_checkpoint(tmp_path: Path, loader: Loader, gate: Gate) -> None:
    gate.opened.set()
    with Metrics(tmp_path, keep=lambda line: True) as metrics:
        metrics.write(LINE)
        gate.flushed.clear()
        with Saver(tmp_path, learner_of(configuration()), metrics, ONE) as saver:
            saver.save(1, loader, 0.5)
            saver.finish(needed=True)
    assert gate.flushed[0] == str(tmp_path / "metrics.jsonl")
    written = [Path(path).name for path in gate.flushed if ".tmp-" in path]
    assert written[:4] == ["model.safetensors", "optim.safetensors", "state.json", "MANIFEST.json"]


def test_a_failed_save_ends_the_run_between_two_steps(tmp_path: Path, loader: Loader, gate: Gate) -> None:
    gate.opened.set()
    learner = learner_of(configuration())
    with Saver(tmp_path, learner, None, ONE) as saver:
        saver.save(2, loader, 0.0)
        saver.finish(needed=True)
        assert saver.poll() == 0
        gate.error = errno.ENOSPC
        saver.save(4, loader, 0.0)
        saver._join()
        assert saver.poll() == FAILED
        gate.error = 0
        saver.save(6, loader, 0.0)  # the failure is not forgotten over the next one
        with pytest.raises(OSError, match="No space left") as caught:
            saver.raise_failure()
        assert caught.value.filename == str(tmp_path / "checkpoints" / "step-00000004" / "model.safetensors")
        with pytest.raises(OSError, match="No space left"):
            saver.finish(needed=False)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def test_a_failed_save_may_be_survived_but_not_the_last(tmp_path: Path, loader: Loader, gate: Gate) -> None:
    gate.opened.set()
    with Saver(tmp_path, learner_of(configuration("warn")), None, ONE) as saver:
        gate.error = errno.EIO
        saver.save(2, loader, 0.0)
        with pytest.warns(UserWarning, match=r"step 2 could .*: Input/output error\); there is none yet"):
            saver.finish(needed=False)
        assert saver.poll() == 0
        gate.error = 0
        saver.save(4, loader, 0.0)
        saver.finish(needed=True)
        gate.error = errno.EIO
        saver.save(6, loader, 0.0)
        with pytest.raises(OSError, match="Input/output error"):
            saver.finish(needed=True)
        assert saver.newest == 4
    assert resume(tmp_path, learner_of(configuration()), loader, ONE).step == 4


@pytest.mark.parametrize("on_error", ["raise", "warn"])
def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, loader: Loader, on_error: str) -> None:
    learner = learner_of(configuration(on_error))
    scramble(learner, float("nan"))
    with Saver(tmp_path, learner, None, ONE) as saver:
        saver.save(3, loader, 0.0)
        with pytest.raises(FloatingPointError, match="a weight is not finite after step 3"):
            saver.finish(needed=False)
    assert not (tmp_path / "checkpoints").exists()


def test_a_run_that_fails_waits_for_its_checkpoint_and_tells_of_a_second_failure(
    tmp_path: Path, loader: Loader, gate: Gate
) -> None:
    learner = learner_of(configuration())
    threading.Timer(0.2, gate.opened.set).start()
    with pytest.raises(KeyboardInterrupt):
        interrupted_after(2, tmp_path, learner, loader)
    assert resume(tmp_path, learner, loader, ONE).step == 2
    gate.error = errno.EIO
    told = pytest.warns(UserWarning, match=r"step 4 could not be saved \(.*step-00000004")
    with told, pytest.raises(KeyboardInterrupt):
        interrupted_after(4, tmp_path, learner, loader)


def interrupted_after(step: int, run: Path, learner: Learner, loader: Loader) -> None:
    with Saver(run, learner, None, ONE) as saver:
        saver.save(step, loader, 0.0)
        raise KeyboardInterrupt


def test_a_death_between_writing_and_removing_is_made_good(tmp_path: Path, loader: Loader) -> None:
    learner = learner_of(configuration())
    state = {"loader": loader.state_dict(), "scaler": {}, "time_s": 0.0}
    state["config"] = {"optim": {"epochs": 2}}
    for step in (2, 4, 6):
        checkpoint.save_checkpoint(
            tmp_path / "checkpoints", step, learner.network, learner.optimizer,
            state, keep=3,
        )  # fmt: skip
    assert resume(tmp_path, learner, loader, ONE).step == 6
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000004", "step-00000006"]


def test_the_bytes_are_those_of_the_library() -> None:
    draw = torch.Generator().manual_seed(0)
    tensors = {
        "b.weight": torch.randn(3, 4, generator=draw), "a": torch.tensor(7), "none": torch.zeros(0, 3),
        "half": torch.randn(3, generator=draw).half(), "flag": torch.tensor([True, False, True]),
        "brain": torch.randn(5, generator=draw).bfloat16(), "é": torch.randn(2, generator=draw).double(),
    }  # fmt: skip
    assert b"".join(checkpoint._safetensors(tensors)) == save(tensors)
    assert b"".join(checkpoint._safetensors({})) == save({})


def test_tensors_may_lie_in_any_layout() -> None:
    image = torch.randn(2, 3, 4, 4)
    turned = image.to(memory_format=torch.channels_last)
    written = [b"".join(checkpoint._safetensors({"x": of})) for of in (image, turned)]
    assert turned.stride() != image.stride()
    assert written[0] == written[1] == save({"x": image})


def test_when_a_plan_saves_and_keeps() -> None:
    base = Config()
    of = replace(base.checkpoint, every_steps=100, keep_every_epochs=2)
    plan = Plan.of(replace(base, checkpoint=of), steps_per_epoch=625)
    assert [step for step in range(1, 1400) if plan.saves(step)] == [*range(100, 1201, 100), 1250, 1300]
    assert [step for step in range(1, 4000) if plan.keeps(step)] == [1250, 2500, 3750]
    assert not any(map(Plan.of(base, 625).keeps, range(4000)))
    assert [step for step in range(1, 700) if plan.bridges(step)] == [50, 150, 250, 350, 450, 550, 650]


@pytest.mark.parametrize("every_steps", range(2, 8))
def test_any_two_checkpoints_are_half_an_interval_apart(every_steps: int) -> None:
    plan = Plan(steps_per_epoch=50, total_steps=100, last_step=100, log_every=1, save_every=every_steps)
    steps = [0, *(step for step in range(1, 101) if plan.saves(step) or plan.bridges(step))]
    gaps = {later - earlier for earlier, later in itertools.pairwise(steps)}
    assert max(gaps) == -(-every_steps // 2)
    assert all(later - earlier <= every_steps for earlier, later in zip(steps, steps[2:], strict=False))


def train_where_nothing_can_be_saved(world: World, images: Path, config: Config, run: Path) -> str:
    """What the rank raises; the disk of the first one fails from the second checkpoint on."""
    if world.rank == 0:
        fsync = os.fsync

        def fails(descriptor: int) -> None:
            name = str(Path(f"/proc/self/fd/{descriptor}").readlink())
            if "step-00000004" in name or "step-00000006" in name:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(descriptor)

        os.fsync = fails
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            train(open_index(images), config, run, world, threads=1)
    except OSError as error:
        return f"{error.strerror}: {error.filename}"
    return "finished"


def test_every_rank_ends_of_the_first_ones_failed_save(images: Path, tmp_path: Path) -> None:
    """R61: in the middle of a run; and where that is to be survived, all the same at its end."""
    for on_error, step, halfway in (("raise", 4, 3), ("warn", 6, 5)):
        run = tmp_path / on_error
        config = configuration(on_error)
        config = replace(config, optim=replace(config.optim, epochs=9 if on_error == "raise" else 2))
        found = processes.run(train_where_nothing_can_be_saved, 2, images, config, run, timeout_s=90)
        lost = run / "checkpoints" / f"step-{step:08d}" / "model.safetensors"
        assert found == [f"{os.strerror(errno.ENOSPC)}: {lost}"] * 2
        assert checkpoint.newest_step(run / "checkpoints") == halfway


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpus_state_is_copied_before_the_next_step_changes_it(tmp_path: Path, loader: Loader) -> None:
    """Nobody waits for the device: the copies and the change queue up behind work that takes a while."""
    config = configuration()
    learner = Learner(config, Plan.of(config, steps_per_epoch=3), World(0, 1, 0, torch.device("cuda", 0)))
    scramble(learner, 1.0)
    with Saver(tmp_path, learner, None, ONE) as saver:
        for step, value in ((2, 1.0), (4, 2.0)):  # the second save uses the first one's memory again
            torch.cuda._sleep(200_000_000)
            saver.save(step, loader, 0.0)
            scramble(learner, value + 1)
        saver.finish(needed=True)
    for step, value in ((2, 1.0), (4, 2.0)):
        found = load_file(tmp_path / "checkpoints" / f"step-{step:08d}" / "model.safetensors")
        assert found["backbone.conv1.weight"].unique().tolist() == [value]
