"""Where a run's time goes: arithmetic on known times, real steps, two processes, operations, the sentence."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from barlow import distributed
from barlow.config import Config, ModelConfig
from barlow.data import open_index
from barlow.distributed import World, all_reduce_
from barlow.train import throughput
from barlow.train.flops import peak_flops, step_flops
from barlow.train.learner import Learner, Plan
from barlow.train.loop import train
from barlow.train.throughput import Throughput, Totals
from commands import make_images, metrics
from processes import run
from test_steady_step import ALONE, config_of, views_u8
from tiny_run import tiny_config

SHARES = ("loader", "copy", "compute", "communication", "other")


def test_the_shares_add_up_and_waiting_counts_only_while_nothing_runs() -> None:
    totals = Totals(steps=4, wall_s=10, copy_s=1, compute_s=5, sampled_s=2, communication_s=0.5, waited_s=3)
    assert totals.shares() == pytest.approx(
        {"loader": 0.3, "copy": 0.1, "compute": 0.375, "communication": 0.125, "other": 0.1}
    )
    # A host that waits for the loader while the device still works on the last step costs nothing.
    totals.waited_s = 9
    assert totals.shares()["loader"] == pytest.approx(0.4)
    assert totals.shares()["other"] == pytest.approx(0)
    assert Totals().shares() == {}


class Waits:
    """A loader's running total, as slow as it is told."""

    def __init__(self) -> None:
        self.total_s = 0.0

    def __call__(self) -> float:
        return self.total_s

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)
        self.total_s += seconds


def steps_of(meter: Throughput, learner: Learner, views: list[Tensor], waits: Waits, wait_s: float) -> None:
    for step in (2, 3, 4):
        waits.wait(wait_s)
        with meter.step():
            with meter.stage("copy"):
                time.sleep(0.05)
            with meter.stage("compute"):
                learner.step(step, views, check=False)


def measured(world: World, wait_s: float) -> tuple[dict[str, float], dict[str, float], str]:
    """A lap of metrics and the one after it, and the sentence."""
    torch.set_num_threads(1)
    config = config_of("barlow_twins", micro_batch=5)
    learner, waits = Learner(config, Plan.of(config, 5), world), Waits()
    rows = config.optim.batch_size // world.size
    views = [view[world.rank * rows :][:rows] for view in views_u8(config)]
    patch = pytest.MonkeyPatch()
    patch.setattr(throughput, "_SAMPLE_EVERY_S", 0.0)
    patch.setattr(throughput, "PRINT_EVERY_S", math.inf)  # this machine may be slow
    meter = Throughput(learner, 100, world.size, waits)
    steps_of(meter, learner, views, waits, 0.0)
    meter.lap(4)
    begin_s = time.perf_counter()
    steps_of(meter, learner, views, waits, wait_s * (world.rank + 1))
    lap, whole_s = meter.lap(7), time.perf_counter() - begin_s
    ends_in_s = lap["ends_at_s"] - time.time()
    assert meter.every_minute(7) is None
    patch.setattr(throughput, "PRINT_EVERY_S", 0.0)
    sentence = meter.every_minute(7) or ""
    steps_of(meter, learner, views, waits, 0.0)
    after = meter.lap(10)
    waited_s = 3 * wait_s * (world.rank + 1)
    assert lap["loader_share"] == pytest.approx(waited_s / whole_s, abs=0.05)
    assert ends_in_s == pytest.approx(93 * whole_s / 3, rel=0.1)
    patch.undo()
    assert distributed._timed is None
    return lap, after, sentence


def test_a_slow_loader_is_found_and_forgotten() -> None:
    lap, after, sentence = measured(ALONE, wait_s=1.0)
    shares = {name: lap[f"{name}_share"] for name in SHARES}
    assert sum(shares.values()) == pytest.approx(1)
    assert lap["loader_share_max"] == lap["loader_share"]
    assert after["loader_share"] == 0
    assert after["copy_share"] > 0
    assert lap["communication_share"] == after["communication_share"] == 0
    assert "mfu" not in lap
    limits = {"loader": "loader", "compute": "CPU", "copy": "host-to-device"}[
        max(shares, key=lambda n: shares[n])
    ]
    assert sentence.startswith(f"{limits} limits: loader ")
    assert "host-to-device " in sentence
    assert "CPU " in sentence
    assert "; ends about 20" in sentence
    assert "MFU" not in sentence


def slow_collectives(world: World) -> tuple[dict[str, float], dict[str, float], str]:
    """Each collective of ours takes a fortieth of a second more."""
    patch = pytest.MonkeyPatch()
    plain = torch.distributed.all_reduce

    def slow(*arguments: object, **keywords: object) -> object:
        time.sleep(0.025)
        return plain(*arguments, **keywords)  # pyright: ignore

    patch.setattr(torch.distributed, "all_reduce", slow)
    try:
        return measured(world, wait_s=0.02)
    finally:
        patch.undo()


def test_communication_is_found_on_several_processes() -> None:
    results = run(slow_collectives, 2, timeout_s=300)
    for lap, _, sentence in results:
        # Each step makes more than a dozen such calls, a micro-batch or two at a time.
        assert lap["communication_share"] > 0.1
        assert lap["loader_share_max"] == max(r[0]["loader_share"] for r in results)
        assert "limits: loader " in sentence
        assert "on some rank" in sentence


def timed_calls(world: World) -> list[str]:
    calls: list[str] = []

    class Around:
        def __enter__(self) -> None:
            calls.append("begin")

        def __exit__(self, *_: object) -> None:
            calls.append("end")

    with distributed.collectives_timed(Around):
        all_reduce_(torch.ones(2))
        distributed.all_gather(torch.ones(2))
        distributed.all_to_all(torch.ones(2), [1, 1], [1, 1])
    all_reduce_(torch.ones(2))
    return calls


def test_every_collective_is_timed_inside_and_none_outside() -> None:
    for calls in run(timed_calls, 2):
        assert calls == ["begin", "end"] * 3


def test_a_run_writes_its_shares_and_says_them_once_a_minute(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_config()
    config = replace(base, train=replace(base.train, steps=3))
    images = open_index(make_images(tmp_path / "images"))
    train(images, config, tmp_path / "first", ALONE, threads=1)
    assert "limits:" not in capsys.readouterr().out
    monkeypatch.setattr(throughput, "PRINT_EVERY_S", 0.0)
    train(images, config, tmp_path / "second", ALONE, threads=1)
    said = [text for text in capsys.readouterr().out.splitlines() if " limits: loader " in text]
    assert len(said) == 3
    assert metrics(tmp_path / "first") == metrics(tmp_path / "second")
    text = (tmp_path / "second" / "metrics.jsonl").read_text()
    assert text.count('"compute_share"') == 3


def test_operations_are_those_of_the_layers() -> None:
    """A ResNet-50's 4.089 G multiply-adds (its authors: 4.1), thrice, but for the images' gradient; 25.6 M
    parameters less the classifier's, by which a linear layer's are twice its weights, thrice."""
    paper = Config()
    convolutions = 2 * (4.0892e9 - 2048e3)
    first = 2 * 7 * 7 * 3 * 64 * 112 * 112
    projector = 6 * (2048 * 8192 + 2 * 8192**2)
    view = 3 * convolutions - first + projector
    gram = 8 * (2048 / 16) * 2048 * 8192
    assert step_flops(paper, 16, "gram") == pytest.approx(2 * 128 * view + gram, rel=1e-3)
    small = replace(paper, model=ModelConfig(backbone="resnet10", projector=(64,)))
    other = replace(small, objective=replace(small.objective, name="vicreg"))
    assert step_flops(other, 1, "gram") < step_flops(small, 1, "gram")


def test_peaks_by_name() -> None:
    half, single = torch.bfloat16, torch.float32
    assert peak_flops("NVIDIA H100 80GB HBM3", half) == 989.4e12
    assert peak_flops("NVIDIA H100 PCIe", half) == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", single) == 156e12
    assert peak_flops("NVIDIA A10", half) != peak_flops("NVIDIA A10G", half)
    assert peak_flops("Tesla T4", single) is None
    assert peak_flops("Some GPU of tomorrow", half) is None
