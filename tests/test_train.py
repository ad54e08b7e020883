"""Whole runs by the real command: resumption to the bit, numbers of processes, what is said and refused."""

from __future__ import annotations

import json
import math
import shutil
import signal
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import processes
from barlow.config import Config, from_json
from barlow.data import open_index
from barlow.distributed import World
from barlow.model import build_model
from barlow.model.precision import autocast_dtype
from barlow.objectives import loss_floor
from barlow.train.learner import Plan
from barlow.train.loop import Clock, too_many, train
from commands import TINY, barlow, barlow_here, finish, make_images, metrics, start, tensors

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def unbroken(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 steps in one process that nothing disturbed."""
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    result = barlow("train", images, "--run", run, *TINY)
    assert result.code == 0, result.err
    return run


@pytest.fixture(scope="module")
def unbroken_by_two(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same by two gloo processes."""
    run = tmp_path_factory.mktemp("runs") / "by-two"
    result = barlow("train", images, "--run", run, *TINY, "--nproc", 2)
    assert result.code == 0, result.err
    return run


def assert_same(run: Path, reference: Path) -> None:
    assert metrics(run) == metrics(reference)
    assert tensors(run, 12) == tensors(reference, 12)


def events(run: Path) -> dict[str, list[tuple[int, float]]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        accumulator = EventAccumulator(str(run / "tensorboard"))
        accumulator.Reload()
    return {
        tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]
    }


def test_stopped_by_steps_and_continued_is_bit_equal(
    images: Path, unbroken: Path, tmp_path: Path, capfd: Capture
) -> None:
    """Step 5 is in the middle of an epoch and no step that logs or saves by itself."""
    run = tmp_path / "run"
    first = barlow_here(capfd, "train", images, "--run", run, *TINY, "--train.steps", 5)
    assert first.code == 0, first.err
    assert [line["step"] for line in metrics(run)] == [1, 3, 5]
    assert [step for step, _ in events(run)["loss"]] == [1, 3, 5]
    second = barlow_here(
        capfd, "train", images, "--run", run, "--train.steps", 0
    )  # the rest is the run's own
    assert second.code == 0, second.err
    assert_same(run, unbroken)
    assert (run / "config.json").read_text() == (unbroken / "config.json").read_text()
    shown = events(run)
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    assert shown.keys() == {name for line in lines for name in line} - {"step", "time_s"}
    assert "knn_top1" in shown
    for tag, points in shown.items():
        assert points == [(line["step"], pytest.approx(line[tag])) for line in lines if tag in line], tag


def test_killed_after_a_checkpoint_and_continued_is_bit_equal(
    images: Path, unbroken: Path, tmp_path: Path, capfd: Capture
) -> None:
    run = tmp_path / "run"
    process = start("train", images, "--run", run, *TINY)
    deadline_s = time.monotonic() + 90
    while not (run / "checkpoints" / "step-00000006").exists() and time.monotonic() < deadline_s:
        time.sleep(0.005)
    process.kill()
    assert finish(process).code == -signal.SIGKILL
    assert not (run / "checkpoints" / "step-00000012").exists()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "los')  # as a crash of the machine may cut a line
    result = barlow_here(capfd, "train", images, "--run", run, *TINY)
    assert result.code == 0, result.err
    assert "is not a whole line" in result.err
    assert_same(run, unbroken)


def train_here(world: World, images: Path, config: Config, run: Path) -> None:
    train(open_index(images), config, run, world, threads=1)


def test_four_processes_stopped_and_continued_are_bit_equal(
    images: Path, unbroken: Path, tmp_path: Path
) -> None:
    """Four, because the sum of two numbers is the same in any order."""
    config = from_json((unbroken / "config.json").read_text())
    for name, steps in (("unbroken", 8), ("run", 4), ("run", 8)):
        shorter = replace(config, train=replace(config.train, steps=steps, log_every=1))
        processes.run(train_here, 4, images, shorter, tmp_path / name)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "unbroken")
    assert tensors(tmp_path / "run", 8) == tensors(tmp_path / "unbroken", 8)


def test_torchrun_is_nproc(images: Path, unbroken_by_two: Path, tmp_path: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "barlow", "--")
    command = ("train", images, "--run", tmp_path / "run", *TINY, "--train.steps", 6)
    result = finish(start(*command, launcher=torchrun, anew=True))
    assert result.code == 0, result.err
    expected = [line for line in metrics(unbroken_by_two) if line["step"] <= 6]
    assert metrics(tmp_path / "run") == expected
    assert tensors(tmp_path / "run", 6) == tensors(unbroken_by_two, 6)
    assert result.out.count("step 6/6") == 1  # one rank speaks
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["world_size"] == 2
    assert record["preset"] == "demo"


def test_one_and_two_processes_learn_the_same(unbroken: Path, unbroken_by_two: Path) -> None:
    one, two = metrics(unbroken), metrics(unbroken_by_two)
    assert [line["step"] for line in two] == [1, 3, 6, 9, 12]
    for left, right in zip(one, two, strict=True):
        # Rounding grows from step to step: batch norm over 8 samples amplifies it.
        assert right == pytest.approx(left, rel=1e-5 if left["step"] == 1 else 2e-2), left["step"]
    states = [
        load_file(run / "checkpoints/step-00000003/model.safetensors") for run in (unbroken, unbroken_by_two)
    ]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():  # running statistics too, which no loss shows
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    images: Path, unbroken: Path, tmp_path: Path, capfd: Capture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    for step in (9, 12):
        weights = run / "checkpoints" / f"step-{step:08d}" / "model.safetensors"
        raw = bytearray(weights.read_bytes())
        raw[len(raw) // 2] ^= 4
        weights.write_bytes(raw)
    (run / "checkpoints" / "step-00000099.tmp-999999999").mkdir()  # of a process that cannot be
    result = barlow_here(capfd, "train", images, "--run", run)
    assert result.code == 0, result.err
    for name in ("step-00000012", "step-00000009"):
        assert f"{name}: model.safetensors has changed" in result.err
    assert_same(run, unbroken)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [
        f"step-{step:08d}" for step in (3, 6, 9, 12)
    ]


def test_a_finished_run_says_so_and_changes_nothing(images: Path, unbroken: Path, capfd: Capture) -> None:
    before = {p: p.stat().st_mtime_ns for p in unbroken.rglob("*.safetensors")}
    lines = (unbroken / "metrics.jsonl").read_bytes()
    result = barlow_here(capfd, "train", images, "--run", unbroken, *TINY)
    assert result.code == 0, result.err
    assert "is finished: 12 of 12 steps are done" in result.out
    assert {p: p.stat().st_mtime_ns for p in unbroken.rglob("*.safetensors")} == before
    assert (unbroken / "metrics.jsonl").read_bytes() == lines


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--optim.momentum", "0.8"), "optim.momentum is 0.9 there and 0.8 here"),
        (("--train.seed", "1"), "train.seed is 0 there and 1 here"),
        (("--model.width", "16", "--optim.epochs", "3"), "optim.epochs is 2 there and 3 here"),
    ],
)
def test_another_config_is_refused(
    images: Path, unbroken: Path, capfd: Capture, flags: tuple[str, ...], message: str
) -> None:
    config = (unbroken / "config.json").read_bytes()
    result = barlow_here(capfd, "train", images, "--run", unbroken, *TINY, *flags)
    assert result.code == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()[-1:]) == 1
    assert (unbroken / "config.json").read_bytes() == config


def test_other_data_are_refused_and_free_fields_are_free(
    images: Path, unbroken: Path, tmp_path: Path, capfd: Capture
) -> None:
    other = shutil.copytree(images, tmp_path / "other")
    make_images(other / "c", num_images=1)
    result = barlow_here(capfd, "train", other, "--run", unbroken)
    assert result.code == 2
    assert "was started on other data (48 images" in result.err
    moved = shutil.copytree(images, tmp_path / "moved")
    run = shutil.copytree(unbroken, tmp_path / "run")
    flags = (
        "--train.log_every",
        "5",
        "--data.threads",
        "1",
        "--checkpoint.keep",
        "1",
        "--evaluate.knn_k",
        "3",
    )
    result = barlow_here(capfd, "train", moved, "--run", run, *flags)
    assert result.code == 0, result.err


def test_metrics_mean_what_they_say(unbroken: Path) -> None:
    lines = [json.loads(text) for text in (unbroken / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 3, 6, 9, 12]
    for line in lines:
        assert line["epoch"] == line["step"] / 6
        assert line["loss_floor"] == pytest.approx(loss_floor(8, 32, 0.0051))
        assert line["loss"] > line["loss_floor"]
        assert line["images_per_s"] > 0
        assert 0 <= line["wait_share"] <= 1
        # Equation 1 from the two statistics: with all C_ii equal the first bound is met.
        off_diagonal = 0.0051 * 32 * 31 * line["off_diagonal_rms"] ** 2
        assert line["loss"] >= 32 * (1 - line["on_diagonal"]) ** 2 + off_diagonal - 1e-3
        assert line["loss"] <= 32 * 4 + off_diagonal
    assert sorted(line["time_s"] for line in lines) == [line["time_s"] for line in lines]
    # Official schedule: 3 warm-up steps from 0, then the cosine over the other 9 down to a thousandth.
    peak = 0.3 * 8 / 256
    cosine = 0.5 * (1 + math.cos(math.pi * (11 - 3) / 9))
    assert lines[0]["lr_weights"] == 0
    assert lines[1]["lr_weights"] == pytest.approx(peak * 2 / 3)
    assert lines[-1]["lr_weights"] == pytest.approx(peak * (cosine + 1e-3 * (1 - cosine)))
    assert lines[-1]["lr_biases"] == pytest.approx(lines[-1]["lr_weights"] / 10)


def test_a_failing_rank_shows_its_own_error_once(images: Path, tmp_path: Path) -> None:
    data = shutil.copytree(images, tmp_path / "data")
    spoiled = data / "a" / "004.jpg"
    raw = spoiled.read_bytes()
    spoiled.write_bytes(raw[: len(raw) // 2])  # the header is good, the pixels are not
    result = barlow("train", data, "--run", tmp_path / "run", *TINY, "--nproc", 2)
    assert result.code != 0
    assert "Traceback" not in result.err
    lines = [line for line in result.err.splitlines() if "error" in line]
    assert len(lines) == 1
    assert "004.jpg" in lines[0]


def test_bf16_on_a_cpu_is_close_to_float32(
    images: Path, unbroken: Path, tmp_path: Path, capfd: Capture
) -> None:
    flags = (*TINY, "--train.precision", "bf16", "--train.steps", "3")
    result = barlow_here(capfd, "train", images, "--run", tmp_path / "run", *flags)
    assert result.code == 0, result.err
    left, right = metrics(unbroken)[0]["loss"], metrics(tmp_path / "run")[0]["loss"]
    assert left != right
    assert right == pytest.approx(left, rel=0.05)
    weights = load_file(tmp_path / "run" / "checkpoints" / "step-00000003" / "model.safetensors")
    assert {t.dtype for t in weights.values()} == {torch.float32, torch.int64}


def test_the_papers_preset_starts(tmp_path: Path, capfd: Capture) -> None:
    """ResNet-50. Views of 96 px save time; the paper's projector alone has 604 MB of weights, hence 512."""
    data = make_images(tmp_path / "images", num_images=6, side_px=96)
    flags = ("--preset", "imagenet", "--optim.batch_size", "4", "--train.steps", "3", "--optim.epochs", "3",
             "--model.projector", "512", "512", "512", "--data.image_size", "96",
             "--checkpoint.every_epochs", "3")  # fmt: skip
    result = barlow_here(capfd, "train", data, "--run", tmp_path / "run", *flags)
    assert result.code == 0, result.err
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 3]
    weights = load_file(tmp_path / "run" / "checkpoints" / "step-00000003" / "model.safetensors")
    assert weights["backbone.layer4.2.conv3.weight"].shape == (2048, 512, 1, 1)


def test_a_plan_counts_from_one() -> None:
    plan = Plan.of(Config(), steps_per_epoch=625)
    assert plan == Plan(625, 625_000, 625_000, 20, 625, keep_every=0, judge_every=6250)
    assert [step for step in range(1, 2000) if plan.saves(step)] == [625, 1250, 1875]
    assert [step for step in range(1, 50) if plan.logs(step)] == [1, 20, 40]
    assert plan.saves(625_000)
    assert plan.logs(625_000)
    assert [step for step in (1, 6249, 6250, 12_500, 625_000) if plan.judges(step)] == [6250, 12_500, 625_000]
    assert replace(plan, log_every=6000).logs(6250)
    assert not replace(plan, judge_every=0).judges(625_000)


def test_more_steps_than_the_epochs_have_are_told() -> None:
    config = Config()
    config = replace(config, optim=replace(config.optim, epochs=6), train=replace(config.train, steps=60))
    plan = Plan.of(config, steps_per_epoch=8)
    assert plan.last_step == 48
    words = "--train.steps 60: the 6 epochs of 8 steps end before, after step 48"
    assert too_many(config, plan) == words
    for steps in (0, 47, 48):
        assert too_many(replace(config, train=replace(config.train, steps=steps)), plan) is None


def test_a_clock_goes_on_and_laps_start_anew() -> None:
    clock = Clock(past_s=100.0, step=50)
    time.sleep(0.02)
    first = clock.lap(step=60, waited_s=0.01)
    time.sleep(0.02)
    second = clock.lap(step=61, waited_s=0.01)
    assert 0.02 <= first["time_s"] - 100 < second["time_s"] - 100.02 < 10
    assert first["steps_per_s"] == pytest.approx(10 / (first["time_s"] - 100), rel=1e-3)
    assert first["wait_share"] == pytest.approx(0.01 / (first["time_s"] - 100), rel=1e-3)
    assert second["steps_per_s"] == pytest.approx(1 / (second["time_s"] - first["time_s"]), rel=1e-3)
    assert second["wait_share"] == 0


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_on_a_cpu(precision: str, dtype: torch.dtype) -> None:
    assert autocast_dtype(precision, torch.device("cpu")) == dtype
    matrix_units = "amx_bf16" in Path("/proc/cpuinfo").read_text()
    best = torch.bfloat16 if matrix_units else torch.float32
    assert autocast_dtype("auto", torch.device("cpu")) in (best, torch.float32)
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        autocast_dtype("fp16", torch.device("cpu"))


def test_the_first_step_moves_statistics_and_no_weight(images: Path, tmp_path: Path, capfd: Capture) -> None:
    """The warm-up starts at a learning rate of 0, so after step 1 the weights are `build_model`'s."""
    result = barlow_here(capfd, "train", images, "--run", tmp_path / "run", *TINY, "--train.steps", 1)
    assert result.code == 0, result.err
    config = from_json((tmp_path / "run" / "config.json").read_text())
    untrained = build_model(config.model, config.train.seed).state_dict()
    weights = load_file(tmp_path / "run" / "checkpoints" / "step-00000001" / "model.safetensors")
    assert weights.keys() == untrained.keys()
    moved = {name.rpartition(".")[2] for name, t in untrained.items() if not torch.equal(t, weights[name])}
    assert moved == {"running_mean", "running_var", "num_batches_tracked"}


def test_a_damaged_image_ends_a_run_or_is_replaced(images: Path, tmp_path: Path, capfd: Capture) -> None:
    data = Path(shutil.copytree(images, tmp_path / "data"))
    spoiled = data / "b" / "007.jpg"
    spoiled.write_bytes(spoiled.read_bytes()[:-200])
    run = tmp_path / "run"
    result = barlow_here(capfd, "train", data, "--run", run, *TINY)
    assert result.code == 2
    assert "b/007.jpg" in result.err
    # The same command with another policy goes on where there is a checkpoint, or begins again.
    result = barlow_here(capfd, "train", data, "--run", run, *TINY, "--data.on_error", "replace")
    assert result.code == 0, result.err
    assert "b/007.jpg" in result.err
    assert "was replaced" in result.err
    assert [line["step"] for line in metrics(run)][-1] == 12
