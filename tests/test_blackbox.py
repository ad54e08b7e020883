"""A run that stops at a step that is not finite, and `barlow replay` of it: to the bit, and what it says."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from barlow.config import from_json
from barlow.data import Order, open_index
from barlow.distributed import World
from barlow.train import blackbox
from barlow.train.checkpoint import find_checkpoint
from barlow.train.learner import Learner, Plan
from barlow.train.replay import replay
from barlow.train.trace import trace
from commands import TINY, barlow, barlow_here, make_images, metrics
from tiny_run import tiny_config

Capture = pytest.CaptureFixture[str]
ILL = (*TINY, "--optim.lr_weights", "1e38", "--optim.variant", "lars", "--train.log_every", "1",
       "--checkpoint.every_steps", "1")  # fmt: skip
"""The first two steps are finite: the warm-up begins at 0. The second moves the weights to 1e36 and more."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose third step is not finite, in a process of its own; its words are in `said`."""
    run = tmp_path_factory.mktemp("runs") / "ill"
    result = barlow("train", images, "--run", run, *ILL)
    assert result.code == 1, result.err
    (run / "said").write_text(result.err)
    return run


@pytest.fixture(scope="module")
def box(run: Path) -> Path:
    (box,) = (run / "black-box").iterdir()
    return box


def test_the_run_says_why_it_ends_and_where_the_box_is(run: Path, box: Path, images: Path) -> None:
    *_, last = (run / "said").read_text().strip().splitlines()
    assert last.startswith(
        "barlow: error: the loss is nan at step 3; no weight was changed by it; first not "
    )
    assert f"`barlow replay {box} {images}`" in last
    assert box.name == "step-00000003"
    assert [line["step"] for line in metrics(run)] == [1, 2]
    good = run / "checkpoints" / "step-00000002"
    assert find_checkpoint(run / "checkpoints") == good
    for name in ("model.safetensors", "optim.safetensors"):  # which is what the box has
        theirs, ours = load_file(good / name), load_file(box / name)
        parameters = [part for part in theirs if "running" not in part and "num_batches" not in part]
        assert parameters
        assert all(torch.equal(theirs[part], ours[part]) for part in parameters)


def test_what_is_in_the_box(run: Path, box: Path, images: Path) -> None:
    state = blackbox.read(box)
    config = from_json((run / "config.json").read_text())
    order = Order(48, 8, seed=config.train.seed)
    assert state["ids"] == order.batch(0, 2).tolist()
    assert (state["loader"], state["seed"], state["world_size"]) == ({"epoch": 0, "step": 2}, 0, 1)
    # What `auto` is for the backbone; the run's own config leaves that open where it cannot change.
    assert from_json(json.dumps(state["config"])) == replace(
        config, optim=replace(config.optim, optimizer="lars")
    )
    assert state["found_loss"] == state["trace"]["loss"] == "nan"
    assert [line["step"] for line in state["metrics"]] == [1, 2]
    assert state["index_digest"] == open_index(images).digest()
    weights = load_file(box / "model.safetensors")
    for name, norm in state["trace"]["weights"].items():
        expected = torch.linalg.vector_norm(weights[name].double()).item()
        assert float(norm) == pytest.approx(expected, rel=1e-12), name
        assert np.isfinite(float(norm)), name  # those from before the step
    assert set(state["trace"]["gradients"]) == set(state["trace"]["weights"])
    assert len(load_file(box / "optim.safetensors")) == len(state["trace"]["weights"])


def test_replay_happens_again_to_the_bit(box: Path, images: Path, capfd: Capture) -> None:
    result = barlow_here(capfd, "replay", box, images)
    assert result.code == 0, result.err
    place = blackbox.read(box)["trace"]["first"]
    assert place["phase"] == "forward"
    assert result.out.count(f"the output of {place['name']}: {place['detail']}") == 2
    assert "reproduced: every layer, gradient and the loss are those of the run, bit for bit" in result.out
    assert "in float64 everything is finite" in result.out


def test_another_batch_tells_that_the_weights_are_ill(box: Path, images: Path, capfd: Capture) -> None:
    result = barlow_here(capfd, "replay", box, images, "--batch", 1)
    assert result.code == 0, result.err
    assert "the batch of step 1 with the weights before step 3: the loss is nan" in result.out
    assert "the weights are ill" in result.out


def changed(box: Path, to: Path, change: Any) -> Path:
    """The box with another state.json, and a manifest that knows it."""
    contents = {name: (box / name).read_bytes() for name in ("model.safetensors", "optim.safetensors")}
    state = json.loads((box / "state.json").read_text())
    change(state)
    blackbox.durable.write_folder(to / box.name, {**contents, "state.json": json.dumps(state).encode()})
    return to / box.name


def test_a_replay_sees_one_bit_of_difference_and_another_place(
    box: Path, images: Path, tmp_path: Path
) -> None:
    def nudge(state: dict[str, Any]) -> None:
        peaks = state["trace"]["layers"]
        peaks["backbone.conv1"] = float(np.nextafter(peaks["backbone.conv1"], np.inf))

    said: list[str] = []
    verdict = replay(changed(box, tmp_path / "nudged", nudge), images, said.append)
    assert (verdict.reproduced, verdict.bit_equal) == (True, False)
    assert "reproduced at the same place" in said

    def move(state: dict[str, Any]) -> None:
        state["trace"]["first"]["name"] = "projector.0"

    verdict = replay(changed(box, tmp_path / "moved", move), images, said.append)
    assert not verdict.reproduced
    assert "not reproduced at the same place" in said


@pytest.mark.parametrize("what", ["other data", "other views", "damaged", "a checkpoint", "nothing"])
def test_what_cannot_be_replayed_is_refused(
    what: str, box: Path, images: Path, tmp_path: Path, capfd: Capture
) -> None:
    data, target = images, tmp_path / "boxes" / box.name
    if what == "other data":
        target, data = box, make_images(tmp_path / "other", num_images=9)
        message = "is not the data of the run, which was"
    elif what == "other views":
        target = changed(box, tmp_path, lambda state: state.update(views_sha256=["0"]))
        message = "other views than in the run"
    elif what == "damaged":
        shutil.copytree(box, target)
        (target / "state.json").write_text("{}")
        message = "state.json has"
    elif what == "a checkpoint":
        target = changed(box, tmp_path, lambda state: state.pop("trace"))
        message = "is not a black box: its state.json lacks trace"
    else:
        message = "is not a black box: there is no such folder"
    result = barlow_here(capfd, "replay", target, data)
    assert result.code == 2
    assert message in result.err


def test_two_ranks_stop_together_and_leave_one_box(images: Path, tmp_path: Path, capfd: Capture) -> None:
    run = tmp_path / "run"
    result = barlow("train", images, "--run", run, *ILL, "--nproc", 2)
    assert result.code == 1, result.err
    assert result.err.count("the loss is nan at step 3") == 1  # one rank speaks
    (box,) = (run / "black-box").iterdir()
    state = blackbox.read(box)
    assert (state["world_size"], len(state["views_sha256"]), len(state["ids"])) == (2, 2, 8)
    alone = barlow_here(capfd, "replay", box, images)  # sums round otherwise; it happens all the same
    assert alone.code == 0, alone.err + alone.out
    assert "1 process here, 2 there" in alone.out


PLACES = {
    "weights": "projector.0.weight",
    "forward": "backbone.layer2.0.conv2",
    "backward": "backbone.layer3.0.conv1",
    "gradient": "projector.3.weight",
}


@pytest.mark.parametrize("phase", PLACES)
def test_a_trace_names_the_first_place(phase: str) -> None:
    """One number is spoiled in each phase of a step; what follows it is not finite either, and not named."""
    learner = Learner(tiny_config(), Plan(10, 30, 30, 100, 100), World(0, 1, 0, torch.device("cpu")))
    generator = torch.Generator().manual_seed(0)
    views = [torch.randint(0, 256, (12, 3, 16, 16), generator=generator, dtype=torch.uint8) for _ in range(2)]
    assert trace(learner, 1, views).first is None
    before = {name: t.detach().clone() for name, t in learner.network.named_parameters()}
    name = PLACES[phase]
    if phase in ("weights", "gradient"):
        parameter = learner.network.get_parameter(name)
        if phase == "weights":
            with torch.no_grad():
                parameter.flatten()[3] = torch.inf
            before[name] = parameter.detach().clone()
        else:
            parameter.register_hook(lambda grad: torch.full_like(grad, torch.nan))
    else:

        def spoil(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            if phase == "forward":
                return output * torch.tensor(float("inf"))
            output.register_hook(lambda grad: grad * torch.nan)
            return output

        learner.network.get_submodule(name).register_forward_hook(spoil)
    first = trace(learner, 1, views).first
    assert first is not None
    assert (first.phase, first.name) == (phase, name)
    assert all(torch.equal(t, before[n]) for n, t in learner.network.named_parameters())
