"""benches/cifar10.py: the whole of it with a tiny network, over two calls, and what it writes."""

from __future__ import annotations

import importlib.util
import itertools
import json
import signal
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

from commands import ROOT, barlow_here, make_images
from conftest import one_core


@pytest.fixture
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cifar10_bench", ROOT / "benches" / "cifar10.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_two_calls_make_the_result_and_the_curve(
    bench: ModuleType,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_images(tmp_path / "data" / "train", num_images=24)
    make_images(tmp_path / "data" / "held-out", num_images=8)
    ran: list[tuple[Any, ...]] = []

    def barlow(until_s: float, *words: Any) -> int:
        ran.append(words)
        if len(ran) == 1:
            return 128 + signal.SIGTERM  # the time was up
        with one_core():
            return barlow_here(capfd, *words).code

    monkeypatch.setattr(bench, "_barlow", barlow)
    words = [str(tmp_path / "data"), str(tmp_path / "out"), "--steps", "2", "--", "--optim.momentum", "0.8"]
    assert bench.main(words) == 3
    assert "the same command goes on" in capfd.readouterr().out
    assert bench.main(words) == 0
    assert [call[0] for call in ran] == ["train", "train", "eval"]
    result = json.loads((tmp_path / "out" / "cifar10.json").read_text())
    run = json.loads((tmp_path / "out" / "run" / "config.json").read_text())
    evaluated = json.loads((tmp_path / "out" / "run" / "eval.json").read_text())
    assert run["optim"]["momentum"] == 0.8
    assert result["calls"] == 2
    assert result["top1"] == {probe: evaluated[probe]["top1"] for probe in ("knn", "linear")}
    assert result["reached"]["knn"] == (evaluated["knn"]["top1"] >= 86)
    assert [line["epoch"] for line in result["curve"]] == [pytest.approx(1 / 3), pytest.approx(2 / 3)]
    drawn = ElementTree.fromstring((tmp_path / "out" / "cifar10.svg").read_text())
    titles = {title.text for title in drawn.iter("{http://www.w3.org/2000/svg}title")}
    assert titles == {f"{probe} {score:.1f}" for probe, score in result["top1"].items()}
    # All is there, so a third call only says so again.
    assert bench.main(words) == 0
    assert len(ran) == 3


def test_the_curve_goes_through_what_was_measured(bench: ModuleType) -> None:
    curve = [
        {"epoch": e, "time_s": 60.0 * e, "knn_top1": None if e % 2 else 40.0 + e, "loss": 1.0}
        for e in range(1, 11)
    ]
    root = ElementTree.fromstring(bench.curve({"curve": curve, "top1": {"knn": 50.0, "linear": 60.0}}))
    (line,) = root.iter("{http://www.w3.org/2000/svg}polyline")
    points = [tuple(map(float, pair.split(","))) for pair in line.get("points", "").split()]
    assert len(points) == 5
    # Equal steps in time and accuracy are equal steps on paper, upwards.
    assert all(
        b[0] - a[0] == pytest.approx(points[1][0] - points[0][0], abs=0.2)
        for a, b in itertools.pairwise(points)
    )
    dots = {d[0].text: float(d.get("cy", "")) for d in root.iter("{http://www.w3.org/2000/svg}circle")}
    assert dots["knn 50.0"] == pytest.approx(points[-1][1], abs=0.1)
    assert dots["linear 60.0"] < dots["knn 50.0"] < points[0][1]


def test_time_that_is_up_asks_the_command_to_stop(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\ntrap 'exit 143' TERM\nsleep 60 & wait\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    began = time.monotonic()
    assert bench._barlow(began + bench._GRACE_S, "train") == 143
    assert time.monotonic() - began < 30
