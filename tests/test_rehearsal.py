"""`barlow train --dry-run`: what it says is so, and it leaves nothing behind."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import tiny_run
from barlow.commands import rehearsal as words
from barlow.config import Config, flat
from barlow.model import build_model
from barlow.train import rehearsal
from barlow.train.rehearsal import Rehearsal, _Kept, rehearse
from commands import barlow_here, finish, start
from conftest import one_core


@pytest.fixture(scope="module", autouse=True)
def on_one_core() -> Iterator[None]:
    with one_core():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.write_pictures(tmp_path_factory.mktemp("rehearsal") / "data", per_class=20)


@pytest.fixture(scope="module")
def config() -> Config:
    return tiny_run.tiny_config(epochs=6)


@pytest.fixture(scope="module")
def found(data: Path, config: Config, tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    run = tmp_path_factory.mktemp("none") / "run"
    found = rehearse(data, config, run, nproc=1)
    assert found is not None
    assert not run.exists()
    return found


def test_parameters_and_lasting_memory_are_those_of_the_network(found: Rehearsal, config: Config) -> None:
    twins = build_model(config.model, 0)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in twins.named_children()}
    assert found.parameters == counts
    assert set(counts) == {"backbone", "projector"}
    floats = sum(counts.values())
    buffers = sum(b.numel() * b.element_size() for b in twins.buffers())
    assert found.memory["weights"] == 4 * floats + buffers
    assert found.memory["gradients"] == 4 * floats
    assert found.memory["optimizer"] == 4 * floats  # momentum
    assert found.memory["batches"] == 4 * 12 * 2 * 3 * 16 * 16


def test_steps_and_time(found: Rehearsal) -> None:
    assert (found.steps_per_epoch, found.last_step, found.resumes_at) == (5, 30, 0)
    assert (found.measured, found.processes) == (20, 1)
    assert found.step_s > 0
    assert 0 <= found.wait_share <= 1
    assert found.remaining_s == pytest.approx(30 * found.step_s)


def test_activations_are_what_autograd_keeps() -> None:
    # ReLU keeps its output [8, 100]; the linear layer its input and its weight, which is there anyway.
    layer, x = nn.Linear(50, 100), torch.randn(8, 50).requires_grad_() * 1
    with _Kept(layer.parameters()) as kept:
        y = layer(x).relu()
        assert kept.peak == 4 * (8 * 50 + 8 * 100)
        y.sum().backward()
        del y
        z = layer(x).relu()  # the first graph is gone: the peak stays
        assert kept.peak == 4 * (8 * 50 + 8 * 100)
        w = layer(x).relu()  # shares its input with z
        assert kept.peak == 4 * (8 * 50 + 2 * 8 * 100)
        del z, w


def test_micro_batches_keep_less(
    data: Path, config: Config, found: Rehearsal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "MEASURED_STEPS", 1)
    small = dataclasses.replace(config, train=dataclasses.replace(config.train, micro_batch=3, steps=2))
    less = rehearse(data, small, tmp_path / "run", nproc=1)
    assert less is not None
    assert less.memory["activations"] < 0.6 * found.memory["activations"]
    assert (less.last_step, less.measured) == (2, 1)


def test_two_ranks_measure_together_and_nothing_is_left(data: Path, config: Config, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    code = (
        "import json, sys, tempfile, dataclasses; from pathlib import Path\n"
        "import tiny_run; from barlow.train.rehearsal import rehearse\n"
        f"tempfile.tempdir = {str(temporary)!r}\n"
        f"found = rehearse(Path({str(data)!r}), tiny_run.tiny_config(epochs=6),"
        f" Path({str(tmp_path / 'run')!r}), nproc=2)\n"
        "print(json.dumps(dataclasses.asdict(found)))"
    )
    result = finish(start("--nproc", launcher=("-c", code)), timeout_s=240)  # a word for the nursery
    assert result.code == 0, result.err
    found = Rehearsal(**json.loads(result.out.splitlines()[-1]))
    assert (found.processes, found.measured, found.last_step) == (2, 20, 30)
    assert found.memory["batches"] == 4 * 6 * 2 * 3 * 16 * 16
    assert not (tmp_path / "run").exists()
    assert list(temporary.iterdir()) == []


def test_the_command_prints_it_and_writes_nothing(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = ("--preset", "cifar10-cpu", "--model.width", "8", "--model.projector", "32", "24",
             "--data.image-size", "16", "--optim.batch-size", "12", "--optim.epochs", "3",
             "--data.augmentation", "barlow_twins_small", "--nproc", "1")  # fmt: skip
    result = barlow_here(capfd, "train", data, "--run", tmp_path / "run", *flags, "--dry-run")
    assert result.code == 0, result.err
    told = "dry run: takes up to 21 steps and throws them away (processes: 1); nothing is written"
    assert f"barlow: {told}" in result.err.splitlines()
    assert list(tmp_path.iterdir()) == []
    for pattern in (
        r"^  optim.batch_size +12$",
        r"^  backbone +[\d,]+$",
        r"^  projector +[\d,]+$",
        r"^  activations +[\d.]+ MiB +kept for the backward pass; counted in the first step$",
        r"^memory of the process, on cpu$",
        r"^  together     +[\d.]+ MiB  of ",  # in the columns above it
        r"^steps  15: 3 epochs of 5, 12 images each$",
        r"^time   0:\d\d:\d\d without evaluations and checkpoints; measured over 14 steps: ",
        r"^nothing was written$",
    ):
        assert re.search(pattern, result.out, re.MULTILINE), f"{pattern}\n{result.out}"
    refused = barlow_here(capfd, "train", data, "--run", tmp_path / "run", *flags, "--optim.batch-size", "99",
                          "--dry-run")  # fmt: skip
    assert refused.code == 2
    assert len(refused.err.splitlines()) == 3  # the note about the index, that of the dry run, the error
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_has_less_to_do(config: Config, found: Rehearsal) -> None:
    later = dataclasses.replace(found, resumes_at=24, step_s=10.0)
    assert later.remaining_s == 60
    text = "\n".join(words.lines(config, later))
    assert "; 24 are done" in text
    assert "time   0:01:00 without" in text
    single = "\n".join(words.lines(config, dataclasses.replace(found, measured=0, step_s=0.0)))
    assert "not measured" in single


def test_every_field_is_printed(config: Config, found: Rehearsal) -> None:
    text = "\n".join(words.lines(config, found))
    assert all(re.search(rf"^  {re.escape(name)} +{re.escape(value)}$", text, re.MULTILINE) or value == ""
               for name, value in flat(config))  # fmt: skip
    assert words.size(5 * 2**29) == "2.50 GiB"
    assert words.size(2**20) == "1.0 MiB"
