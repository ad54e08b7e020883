"""Every objective in the training step: W processes have the gradient of one; real runs of all of them."""

from __future__ import annotations

import contextlib
import math
import shutil
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from barlow.config import Config, ModelConfig, Objective, ObjectiveConfig
from barlow.distributed import World
from barlow.model import build_model, load_backbone
from barlow.model.parallel import data_parallel
from barlow.train.accumulate import backward, split
from barlow.train.objective import Objective as Objectives
from commands import TINY, barlow_here, finish, make_images, metrics, start, tensors
from processes import run
from tiny_run import tiny_config

Capture = pytest.CaptureFixture[str]

NAMES = get_args(Objective)
NUM_SAMPLES = 12
FLAGS: dict[str, tuple[object, ...]] = {
    "w_mse": ("--model.projector", 32, 3, "--objective.sub_batch", 4),
    "byol": ("--objective.predictor", 24),
}
"""What a name needs to fit a batch of 8 and seconds of time."""
KEEPING = {"byol": {"predictor", "target"}, "simsiam": {"predictor"}}
SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {"name": name} for name in NAMES},
    "w_mse": {"name": "w_mse", "sub_batch": 6},
    "byol": {"name": "byol", "predictor": (16,)},
    "fft in blocks": {"name": "fft", "block": 2},
    "stop-gradient": {"stop_gradient": True},
    "predictor": {"predictor": (16, 8)},
    "stop-gradient and predictor": {"stop_gradient": True, "predictor": (16,)},
}


def config_of(settings: dict[str, Any]) -> Config:
    base = tiny_config()
    model = ModelConfig(backbone="resnet10", width=4, stem="cifar", projector=(8, 5), projector_norm="all")
    return replace(base, model=model, objective=ObjectiveConfig(**settings))


def gradients(
    world: World, case: str, rows: list[list[int]], *, micro_batches: int = 1, frozen: bool = False
) -> dict[str, Tensor]:
    """Of one step in float64 on this rank's samples: the loss, every gradient, what the step left behind.

    `frozen`: batch norm in the backbone takes its running statistics, which couples no samples.
    """
    config = config_of(SETTINGS[case])
    twins = build_model(config.model, seed=3).double()
    generator = torch.Generator().manual_seed(5)
    for p in twins.parameters():
        if p.ndim == 1 and p.requires_grad:  # zero-initialised scales would hide half of the network
            p.data.copy_(torch.rand(p.shape, generator=generator, dtype=torch.float64) + 0.5)
    twins.backbone.train(not frozen)
    objective = Objectives(config, twins, total_steps=4, counts=[len(own) for own in rows]).double()
    views = [
        torch.randn(NUM_SAMPLES, 3, 8, 8, generator=generator, dtype=torch.float64)[rows[world.rank]]
        for _ in range(2)
    ]
    batches, loss_of = objective.begin(2, [partial(list, part) for part in split(views, micro_batches)])
    parallel = data_parallel(twins)  # must outlive the backward pass
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    loss, _ = backward(parallel, batches, loss_of, scaler, contextlib.nullcontext)
    objective.average_gradients()
    found = {"loss": loss.detach()}
    for module in (twins, objective):
        found |= {f"{n} grad": p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    with torch.no_grad():
        for p in twins.parameters():
            p.add_(1.0)
    objective.end(2, twins)
    return found | {name: value.clone() for name, value in objective.state_dict().items()}


def every_case(world: World, rows: list[list[int]]) -> dict[str, dict[str, Tensor]]:
    return {case: gradients(world, case, rows) for case in SETTINGS}


def in_micro_batches(world: World, rows: list[list[int]]) -> dict[str, dict[str, Tensor]]:
    return {case: gradients(world, case, rows, micro_batches=3, frozen=True) for case in SETTINGS}


@pytest.fixture(scope="module")
def of_one() -> dict[str, dict[str, Tensor]]:
    return every_case(World(0, 1, 0, torch.device("cpu")), [list(range(NUM_SAMPLES))])


@pytest.mark.parametrize("sizes", [[5, 7], [3, 2, 3, 4]])
def test_several_processes_have_the_gradient_of_one(
    sizes: list[int], of_one: dict[str, dict[str, Tensor]]
) -> None:
    """Of twins and predictor, to 1e-9, with the samples in order: what is drawn refers to their places."""
    rows = [part.tolist() for part in torch.arange(NUM_SAMPLES).split(sizes)]
    for result in run(every_case, len(sizes), rows):
        for case, expected in of_one.items():
            assert_equal(result[case], expected, case)


def assert_equal(ours: dict[str, Tensor], expected: dict[str, Tensor], case: str) -> None:
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1e-3, float(value.abs().max()))
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-9 * scale, msg=f"{case}: {name}")


def test_micro_batches_have_the_gradient_of_the_whole_batch() -> None:
    """On two processes, predictor and target included; batch norm in the projector sees all samples."""
    alone = World(0, 1, 0, torch.device("cpu"))
    rows = [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9, 10, 11]]
    results = run(in_micro_batches, 2, rows)
    for case in SETTINGS:
        expected = gradients(alone, case, [list(range(NUM_SAMPLES))], frozen=True)
        for result in results:
            assert_equal(result[case], expected, case)


def test_what_a_method_keeps_is_trained_or_moved(of_one: dict[str, dict[str, Tensor]]) -> None:
    for case, found in of_one.items():
        name = SETTINGS[case].get("name", "barlow_twins")
        kept = {key.split(".")[0] for key in found if "." in key} - {"backbone", "projector"}
        predictor = {"predictor"} if SETTINGS[case].get("predictor") else set()
        assert kept == KEEPING.get(name, set()) | predictor, case
        for key, value in found.items():
            if key.startswith("predictor.") and key.endswith(".weight grad") and value.ndim == 2:
                assert value.abs().max() > 1e-6, (case, key)
    # Step 2 of 4: 1 - 0.004 * (cos(pi / 4) + 1) / 2 of the target stays, and the twins had moved by 1.
    config = config_of(SETTINGS["byol"])
    before = build_model(config.model, seed=3).double().projector.get_parameter("0.weight")
    moved = of_one["byol"]["target.projector.0.weight"] - before
    torch.testing.assert_close(moved, torch.full_like(moved, 0.002 * (math.cos(math.pi / 4) + 1)))


def test_a_stopped_gradient_reaches_the_twins_by_one_view_only(of_one: dict[str, dict[str, Tensor]]) -> None:
    both, one = (of_one[case]["projector.0.weight grad"] for case in ("barlow_twins", "stop-gradient"))
    assert of_one["barlow_twins"]["loss"] == of_one["stop-gradient"]["loss"]
    assert 0.1 < one.norm() / both.norm() < 0.9


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize("name", NAMES)
def test_a_run(images: Path, tmp_path: Path, capfd: Capture, name: str) -> None:
    folder = tmp_path / "run"
    flags = ("--objective.name", name, *FLAGS.get(name, ()), "--train.steps", 3, "--train.log_every", 1)
    result = barlow_here(capfd, "train", images, "--run", folder, *TINY, *flags)
    assert result.code == 0, result.err
    lines = metrics(folder)
    assert [line["step"] for line in lines] == [1, 2, 3]
    for line in lines:
        assert math.isfinite(line["loss"])
        assert -1 <= line["on_diagonal"] <= 1
        assert 0 <= line["off_diagonal_rms"] <= 1
        assert ("loss_floor" in line) == (name == "barlow_twins")
    # The first step's rate is 0: what has changed after three is what steps 2 and 3 have done.
    weights = load_file(folder / "checkpoints" / "step-00000003" / "model.safetensors")
    assert {key.split(".")[0] for key in weights} - {"objective"} == {"backbone", "projector"}
    kept = {key.split(".")[1] for key in weights if key.startswith("objective.")}
    assert kept == KEEPING.get(name, set())
    _, model, config = load_backbone(folder)
    assert config is not None
    assert config.objective.name == name
    untrained = build_model(model, config.train.seed).backbone.conv1.weight
    assert not torch.equal(untrained, weights["backbone.conv1.weight"])


BYOL = (*TINY, "--method", "byol", "--model.projector", 32, 16, "--objective.predictor", 24)


@pytest.fixture(scope="module")
def unbroken(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of BYOL, 12 steps, that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    process = start("train", images, "--run", folder, *BYOL)
    result = finish(process)
    assert result.code == 0, result.err
    return folder


def test_killed_after_a_checkpoint_and_continued_is_bit_equal(
    images: Path, unbroken: Path, tmp_path: Path, capfd: Capture
) -> None:
    """With the target network and its statistics, and the predictor's momentum."""
    folder = tmp_path / "run"
    process = start("train", images, "--run", folder, *BYOL)
    deadline_s = time.monotonic() + 90
    while not (folder / "checkpoints" / "step-00000006").exists() and time.monotonic() < deadline_s:
        time.sleep(0.005)
    process.kill()
    assert finish(process).code == -signal.SIGKILL
    assert not (folder / "checkpoints" / "step-00000012").exists()
    result = barlow_here(capfd, "train", images, "--run", folder, *BYOL)
    assert result.code == 0, result.err
    assert metrics(folder) == metrics(unbroken)
    assert tensors(folder, 12) == tensors(unbroken, 12)


def test_two_processes_learn_what_one_does(images: Path, unbroken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = finish(start("train", images, "--run", folder, *BYOL, "--nproc", 2, "--train.steps", 3))
    assert result.code == 0, result.err
    one, two = (
        load_file(path / "checkpoints" / "step-00000003" / "model.safetensors") for path in (unbroken, folder)
    )
    assert one.keys() == two.keys()
    assert any(key.startswith("objective.target.backbone.") for key in one)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_evaluation_export_and_report_take_the_backbone(
    unbroken: Path, images: Path, tmp_path: Path, capfd: Capture
) -> None:
    folder = Path(shutil.copytree(unbroken, tmp_path / "run"))
    quick = ("--evaluate.linear_epochs", 1, "--evaluate.linear_crops", 1, "--evaluate.knn_k", 3)
    assert barlow_here(capfd, "train", images, "--run", folder, *quick).code == 0
    evaluated = barlow_here(capfd, "eval", folder, images, "--no-baselines")
    assert evaluated.code == 0, evaluated.err
    out = tmp_path / "exported"
    exported = barlow_here(capfd, "export", folder, out, "--format", "safetensors")
    assert exported.code == 0, exported.err
    (weights,) = out.glob("*.safetensors")
    assert not any(name.startswith("objective") for name in load_file(weights))
    (card,) = out.glob("*.md")
    assert "objective byol" in card.read_text()
    reported = barlow_here(capfd, "report", folder)
    assert reported.code == 0, reported.err
    page = (folder / "report.html").read_text()
    assert "byol" in page
    assert "Loss and its floor" not in page
    assert "loss of this batch" not in page
