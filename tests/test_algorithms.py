"""Which algorithms torch may choose: set while a run trains, restored after it, without effect on a CPU.

That a GPU's bits are the same then is for test_gpu.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from barlow.data import open_index
from barlow.distributed import World
from barlow.train import launch, loop
from barlow.train.algorithms import algorithms, check_compiler
from barlow.train.learner import Learner
from tiny_run import tiny_config, write_pictures

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(WORKSPACE, raising=False)
    before = state()
    yield
    assert state() == before


def state() -> tuple[Any, ...]:
    modes: Any = torch.utils.deterministic
    return (
        torch.backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        modes.fill_uninitialized_memory,
        os.environ.get(WORKSPACE),
    )


def test_a_gpu_tries_algorithms_or_takes_deterministic_ones() -> None:
    """The settings are torch's own and need no GPU to be set."""
    with algorithms(GPU, deterministic=False):
        assert state() == (True, False, False, True, None)
        with algorithms(GPU, deterministic=True):
            assert state() == (False, True, False, False, ":4096:8")
        assert state() == (True, False, False, True, None)
    with algorithms(CPU, deterministic=False):
        assert state() == (False, False, False, True, None)


def test_what_the_caller_has_set_stays() -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with algorithms(GPU, deterministic=False):
            assert torch.are_deterministic_algorithms_enabled()
        with algorithms(GPU, deterministic=True):
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_workspace_in_which_cublas_promises_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WORKSPACE, ":16:8")
    with algorithms(GPU, deterministic=True):
        assert os.environ[WORKSPACE] == ":16:8"
    monkeypatch.setenv(WORKSPACE, ":0:0")
    refusal = "--train.deterministic needs CUBLAS_WORKSPACE_CONFIG to be :4096:8 or :16:8 or unset, not :0:0"
    with pytest.raises(ValueError, match=refusal), algorithms(GPU, deterministic=True):
        pass
    pictures, config = write_pictures(tmp_path / "pictures", per_class=4), tiny_config()
    with pytest.raises(ValueError, match=refusal):
        launch(pictures, replace(config, train=replace(config.train, deterministic=True)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with algorithms(GPU, deterministic=False):
        pass
    monkeypatch.delenv(WORKSPACE)


def test_a_run_has_it_while_it_trains_and_on_a_cpu_the_same_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    class Watched(Learner):
        def step(self, *arguments: Any, **settings: Any) -> Any:
            seen.append(torch.are_deterministic_algorithms_enabled())
            return super().step(*arguments, **settings)

    monkeypatch.setattr(loop, "Learner", Watched)
    index = open_index(write_pictures(tmp_path / "pictures", per_class=8))
    config = tiny_config(epochs=1)
    lines = []
    for deterministic in (False, True):
        run = tmp_path / str(deterministic)
        train = replace(config.train, deterministic=deterministic)
        assert loop.train(index, replace(config, train=train), run, World(0, 1, 0, CPU), 1) == 0
        texts = (run / "metrics.jsonl").read_text().splitlines()
        lines.append([(line["loss"], line["grad_norm"]) for line in map(json.loads, texts)])
    assert seen == [False, False, True, True]
    assert lines[0] == lines[1]


def test_what_compiles_is_there_before_a_run_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, config = write_pictures(tmp_path / "pictures", per_class=4), tiny_config()
    both = replace(config.train, fused_lars=True, compile=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    check_compiler(config.train, CPU)  # nothing is compiled
    refusal = (
        r"--train.compile and --train.fused-lars: no compiler \(g\+\+\) is here: apt-get install g\+\+, or"
    )
    with pytest.raises(ValueError, match=refusal):
        launch(pictures, replace(config, train=both), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for device, variable in ((CPU, "CXX"), (GPU, "CC")):
        program = tmp_path / f"own-{variable}"
        monkeypatch.setenv(variable, f"{program} -O2")
        with pytest.raises(ValueError, match=f"or name one in the environment's {variable}$"):
            check_compiler(both, device)
        program.touch(mode=0o755)
        check_compiler(both, device)
    monkeypatch.delenv("CC")
    with pytest.raises(ValueError, match=r"no compiler \(gcc or clang\)"):
        check_compiler(both, GPU)
    (tmp_path / "clang").touch(mode=0o755)
    check_compiler(both, GPU)
