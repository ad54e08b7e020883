"""`barlow bench step` and benches/gpu.py: all formulations are one function, what is said of them is so."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from barlow.bench import step as bench
from barlow.bench.step import StepSettings, end_to_end, ladder, largest, report, rungs
from commands import ROOT, barlow_here, make_images

SMALL = StepSettings(
    device="cpu", backbone="resnet10", image_size=32, projector=(16, 12), batch_size=6,
    rounds=2, round_s=0.01, only="official,bf16,one-pass,gram,lists",
)  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    path = tmp_path_factory.mktemp("bench") / "step.json"
    assert bench.run(replace(SMALL, json=path), command="barlow bench step")
    return json.loads(path.read_text())


def test_all_formulations_give_the_losses_of_the_first(
    result: dict[str, dict[str, dict[str, list[float]]]],
) -> None:
    found = [entry["losses"] for entry in result["losses"].values()]
    assert len(found) == 5
    for losses in found[1:]:
        assert losses == pytest.approx(found[0], rel=1e-3)
    assert abs(found[0][2] - found[0][0]) > 1e-3 * found[0][0], "the steps must move something"


def test_a_formulation_that_computes_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rungs, "LAMBD", 0.1)  # of our loss alone
    wrong = report.Report(SMALL, "")
    ladder.agree([rungs.LADDER[0], rungs.LADDER[3]], SMALL, wrong, CPU)
    assert not wrong.well
    assert "Losses in float32 disagree: gram." in report.table(wrong.result)


def test_every_rung_has_its_rounds_and_ours_asks_less_of_torch(
    result: dict[str, dict[str, dict[str, list[float]]]],
) -> None:
    ladder_of = result["ladder"]
    assert list(ladder_of) == ["official", "bf16", "one-pass", "gram", "lists"]
    assert all(len(rung["views_per_s"]) == 2 and min(rung["views_per_s"]) > 0 for rung in ladder_of.values())
    counts = [rung["operators"] for rung in ladder_of.values()]
    assert counts[4] < counts[3]
    text = report.table(result)
    assert text.count("views/s") == 1
    assert text.count("\n| + ") == 4
    assert "All give the same losses." in text


def test_gains_are_those_over_the_rung_before() -> None:
    facts = {"settings": {"backbone": "x", "image_size": 1, "projector": [1], "batch_size": 1}, "gpu": "G",
             "versions": {}, "losses": {}, "skipped": {"compile": "no time left"}, "failed": {}}  # fmt: skip
    rates = {"a": [90, 100, 120], "b": [150.0], "none": [], "c": [300.0]}
    steps = {
        name: {"title": name, "views_per_s": found, "peak_bytes": 2**31} for name, found in rates.items()
    }
    text = report.table({**facts, "ladder": steps})
    assert "| a | 100 [90-120] | +0 % | 1.00 | 2.0 |" in text
    assert "| b | 150 [150-150] | +50 % | 1.50 |" in text
    assert "| c | 300 [300-300] | +100 % | 3.00 |" in text
    assert "skipped: compile (no time left)" in text


def test_a_budget_ends_it_with_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "partial.json"
    assert bench.run(replace(SMALL, only="lists", budget_s=0.0, json=path))
    partial = json.loads(path.read_text())
    assert partial["skipped"] == {"lists": "no time left"}
    assert partial["losses"]["lists"]["same"]


@pytest.mark.parametrize("limit", [0, 31, 32, 95, 640, 1000])
def test_the_largest_batch_is_found(limit: int) -> None:
    tried: list[int] = []

    def fits(batch_size: int) -> bool:
        tried.append(batch_size)
        return batch_size <= limit

    assert largest.largest(fits) == limit // 32 * 32
    assert len(tried) <= 2 + 2 * math.log2(max(32, limit) / 16)
    assert largest.largest(fits, lambda: True) <= limit


def test_the_largest_batch_of_a_formulation_is_found_with_one_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built: list[rungs.Contestant] = []
    sizes: list[int] = []

    class Limited(rungs.Contestant):
        """Steps of more than 96 images find no memory, as late as they can: after the backward pass."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            built.append(self)

        def step(self, views: list[Tensor] | None = None) -> Tensor:
            assert views is not None
            assert all(p.grad is None for p in self.twins.parameters()) or sizes[-1] == len(views[0])
            assert not torch.backends.cudnn.benchmark
            sizes.append(len(views[0]))
            loss = super().step(views)
            if len(views[0]) > 96:
                raise torch.OutOfMemoryError("more than there is")
            return loss

    monkeypatch.setattr(largest, "Contestant", Limited)
    for name in ("bf16", "lists"):
        rung = next(one for one in rungs.LADDER if one.name == name)
        sizes.clear()
        assert largest._largest_of(rung, replace(SMALL, image_size=8), CPU, lambda: False) == 96
        assert sorted(set(sizes)) == [32, 64, 96, 128]
        assert built[-1].images[0].is_contiguous(memory_format=torch.channels_last) == (name == "bf16")
    assert len(built) == 2


def test_losses_are_compared_in_whole_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32
    monkeypatch.setattr(ladder, "losses", lambda *_: seen.append(cudnn.allow_tf32) or [1.0])
    ladder.agree(list(rungs.LADDER[:2]), SMALL, report.Report(SMALL, ""), CPU)
    assert seen == [False, False]
    assert cudnn.allow_tf32 == before


def test_real_images_go_through_all_three_lanes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(end_to_end.os, "sched_getaffinity", lambda _: {0})
    images = make_images(tmp_path / "images", 24)
    measured = report.Report(replace(SMALL, budget_s=300), "")
    end_to_end.measure(images, replace(SMALL, rounds=1), measured, window_s=0.2)
    rates = measured.result["end_to_end"]["views_per_s"]
    assert {name: len(found) for name, found in rates.items()} == {"official": 1, "barlow": 1, "synthetic": 1}
    lines = report.end_to_end_lines(
        {"cores": 1, "views_per_s": {"barlow": [97.0], "synthetic": [100.0], "official": [20.0]}}
    )
    assert lines[1:] == [
        "barlow has 97.0% of its rate with synthetic data.",
        "barlow has 4.85 times the official rate.",
    ]


def test_the_command_line(capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("loader", "step", "loss"):
        told = barlow_here(capfd, "bench", name, "--help")
        assert told.code == 0
        assert f"usage: barlow bench {name}" in told.out
    assert barlow_here(capfd, "bench", "--help").code == 0
    assert barlow_here(capfd, "bench").code == 2
    wrong = barlow_here(capfd, "bench", "step", "--device", "cpu", "--only", "nothing")
    assert (wrong.code, wrong.err) == (2, "barlow: error: --only: there is no nothing, only official, bf16, "
                                          "one-pass, gram, lists, fused, compile\n")  # fmt: skip
    small = barlow_here(capfd, "bench", "loss", "--samples", "8", "--dims", "16", "--rounds", "1")
    assert "N = 8, D = 16, W = 1; auto is gram" in small.out
    assert "usage: gpu.py" in _help_of_the_script()


def _help_of_the_script() -> str:
    import subprocess
    import sys

    script = [sys.executable, str(ROOT / "benches" / "gpu.py"), "--help"]
    return subprocess.run(script, capture_output=True, text=True, check=True).stdout
