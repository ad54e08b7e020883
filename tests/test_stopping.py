"""Ctrl-C and SIGTERM while a command works that goes on later: one line that says so, and the exit code."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import tiny_run
from barlow import reproduce
from barlow.commands.stopping import goes_on
from barlow.embed import write as embedding
from barlow.export import write as exporting
from barlow.model import build_model, weights
from commands import barlow_here, finish, start

GOES_ON = "the same command goes on from what is saved"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with labelled pictures and weights."""
    folder, config = tmp_path_factory.mktemp("stopping"), tiny_run.tiny_config(width=4)
    tiny_run.write_pictures(folder / "train", per_class=5)
    tensors = build_model(config.model, 0).backbone.state_dict()
    (folder / "w.safetensors").write_bytes(weights.encode(tensors, config.model, config))
    return folder


@pytest.mark.parametrize(
    ("number", "nproc", "code", "words"),
    [
        (signal.SIGINT, 1, 130, "interrupted"),
        (signal.SIGTERM, 1, 143, "stopped by SIGTERM"),
        (signal.SIGTERM, 2, 143, "stopped by SIGTERM"),
    ],
)
def test_an_evaluation_says_that_it_goes_on(
    place: Path, tmp_path: Path, number: signal.Signals, nproc: int, code: int, words: str
) -> None:
    process = start(
        "eval", place / "w.safetensors", place / "train", "--protocols", "linear", "--cache-gib", 0,
        "--evaluate.linear-epochs", 10**8, "--nproc", nproc, "--out", tmp_path / "e.json",
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("trained: test images"):
            break  # the probe is next, and has no end
    time.sleep(0.2)
    process.send_signal(number)
    result = finish(process, timeout_s=60)
    assert result.code == code
    assert result.err.splitlines()[-1:] == [f"barlow: {words}; {GOES_ON}"], result.err
    assert result.err.count(GOES_ON) == 1


def test_so_do_the_other_commands(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`barlow detect` does in test_detect_command.py."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(embedding, "network", lambda *_: stop)
    monkeypatch.setattr(reproduce, "reproduce", stop)
    for words in (
        ("embed", place / "w.safetensors", place / "train", tmp_path / "e.npy"),
        ("reproduce", "table-5", place, "--scale", "cifar10-minute", "--out", tmp_path / "grid"),
    ):
        found = barlow_here(capfd, *words)
        assert found.code == 130
        assert found.err.splitlines()[-1] == f"barlow: interrupted; {GOES_ON}"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_a_stopped_export_leaves_nothing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    number: signal.Signals, code: int,
) -> None:  # fmt: skip
    def stop(*_: Any) -> None:
        assert list((tmp_path / "out").iterdir())  # something is unfinished
        os.kill(os.getpid(), number)
        time.sleep(60)

    before = signal.getsignal(number)
    monkeypatch.setattr(exporting, "_images", stop)
    found = barlow_here(capfd, "export", place / "w.safetensors", tmp_path / "out", "--format", "safetensors")
    assert (found.code, found.err) == (code, f"barlow: stopped by {number.name}\n")
    assert list((tmp_path / "out").iterdir()) == []
    assert signal.getsignal(number) == before


def test_other_ends_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    for code in (0, 1, 2, 130):
        with pytest.raises(SystemExit), goes_on():
            raise SystemExit(code)
    assert capsys.readouterr().err == ""
    assert before == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
