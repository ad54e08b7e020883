"""barlow doctor: well where all is well, and where something is broken it names what and by how much."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

from barlow.distributed import World
from barlow.doctor import Finding, examine, facts, gradient, images, loss, optimizer
from barlow.doctor.diagnose import as_dict, verdict, words
from barlow.doctor.finding import distance, over_ranks
from barlow.model.parallel import data_parallel
from barlow.optim import LARS
from commands import barlow_here, finish, start
from processes import run

ALONE = World(0, 1, 0, torch.device("cpu"))
MICRO_BATCHES = "gradient in micro-batches = whole batch"
KINDS = ("convolutions", "batch-norm scales", "batch-norm shifts", "linear layers")


def by_name(found: list[Finding]) -> dict[str, Finding]:
    assert len({finding.invariant for finding in found}) == len(found)
    return {finding.invariant: finding for finding in found}


@pytest.mark.parametrize("world_size", [2, 3])
def test_healthy_ranks_are_well(world_size: int) -> None:
    results = run(healthy, world_size)
    for result in results:
        assert result == results[0]
        names = [name for name, holds, _ in result if holds]
        assert len(names) == len(result) >= 16
        assert all(error <= 1e-12 for name, _, error in result if name.startswith("gradient of"))


def healthy(world: World) -> list[tuple[str, bool, float]]:
    return [(finding.invariant, finding.holds, finding.error) for finding in examine(world)]


def test_a_single_process_is_well() -> None:
    found = examine(ALONE)
    assert all(finding.holds for finding in found), found
    assert not any("weights of all ranks" in finding.invariant for finding in found)


def summed(module: nn.Module) -> nn.Module:
    """What DistributedDataParallel would be if it forgot to divide."""
    parallel: Any = data_parallel(module)
    everybody: Any = torch.distributed.group.WORLD

    def hook(_, bucket):  # DistributedDataParallel checks annotations, if there are any
        mean = default_hooks.allreduce_hook(everybody, bucket)
        return mean.then(lambda future: future.value() * everybody.size())

    parallel.register_comm_hook(None, hook)
    return parallel


def with_a_sum_for_a_mean(world: World) -> list[tuple[str, bool, float, str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradient, "data_parallel", summed)
        return [(f.invariant, f.holds, f.error, words(f)) for f in gradient.findings(world)]


def test_a_gradient_of_another_scale_is_told_by_its_factor() -> None:
    for result in run(with_a_sum_for_a_mean, 2):
        amiss = [(name, error, text) for name, holds, error, text in result if not holds]
        gradients = [f"gradient of 2 ranks = one process: {k}" for k in KINDS]
        assert [name for name, _, _ in amiss] == [*gradients, MICRO_BATCHES]
        for _, error, text in amiss:
            assert error == pytest.approx(1.0)
            assert "2.0000 times the true gradient" in text
            assert "cosine 1.000000" in text


def with_local_statistics(world: World) -> list[tuple[str, bool, float, str]]:
    ours = gradient._twins
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradient, "_twins", lambda: gradient._of_torch(ours()))
        return [(f.invariant, f.holds, f.error, words(f)) for f in gradient.findings(world)]


def test_batch_norm_that_is_not_synchronised_is_seen_in_the_loss_and_every_gradient() -> None:
    for result in run(with_local_statistics, 2):
        amiss = {name: (error, text) for name, holds, error, text in result if not holds}
        assert "loss of 2 ranks = one process" in amiss
        for kind in KINDS:
            error, text = amiss[f"gradient of 2 ranks = one process: {kind}"]
            assert error > 1e-3
            assert "rank " in text
        assert "batch-norm statistics of 2 ranks = one process" in amiss


def with_the_mean_of_micro_batches(world: World) -> list[tuple[str, bool, str]]:
    """Ordinary accumulation: the loss of each micro-batch by itself."""

    def naive(model: Any, batches: list[Any], loss_of: Any, *_: object) -> None:
        first, last = batches
        with model.no_sync() if world.size > 1 else contextlib.nullcontext():
            (loss_of(model(first())) / 2).backward()
        (loss_of(model(last())) / 2).backward()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradient, "backward", naive)
        return [(f.invariant, f.holds, words(f)) for f in gradient.findings(world)]


def test_ordinary_accumulation_is_seen() -> None:
    for result in [with_the_mean_of_micro_batches(ALONE), *run(with_the_mean_of_micro_batches, 2)]:
        ((name, text),) = [(name, text) for name, holds, text in result if not holds]
        assert name == MICRO_BATCHES
        assert "times the true gradient along it, cosine 0." in text


def with_a_step_of_its_own(world: World) -> list[tuple[str, bool, str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradient, "LARS", lambda groups, lr: LARS(groups, lr=lr + 1e-12 * world.rank))
        return [(f.invariant, f.holds, f.detail) for f in gradient.findings(world)]


def test_a_rank_whose_weights_differ_in_a_bit_is_named() -> None:
    for result in run(with_a_step_of_its_own, 3):
        amiss = [(name, detail) for name, holds, detail in result if not holds]
        detail = "rank 1, 2 has other weights than rank 0"
        assert amiss == [("weights of all ranks after a step, bit for bit", detail)]


def joint(z1_ND: Tensor, z2_ND: Tensor, lambd: float, **_: object) -> Tensor:
    """A known mistake: both views normalised by the statistics of one."""
    x_ND, y_ND = ((z - z1_ND.mean(0)) / z1_ND.std(0) for z in (z1_ND, z2_ND))
    c_DD = x_ND.T @ y_ND / len(x_ND)
    return (c_DD.diagonal() - 1).square().sum() + lambd * c_DD.square().sum()


def too_low(z1_ND: Tensor, z2_ND: Tensor, lambd: float, **_: object) -> Tensor:
    return 1e-3 * joint(z1_ND, z2_ND, lambd)


@pytest.mark.parametrize(
    ("mistake", "names"),
    [
        (joint, {"loss is blind to scale and shift of a dimension", "loss and gradient of swapped views"}),
        (too_low, {"loss is not below its floor"}),
    ],
)
def test_a_wrong_loss_is_seen(
    mistake: Callable[..., Tensor], names: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "barlow_twins", mistake)
    amiss = {name for name, finding in by_name(loss.findings(ALONE)).items() if not finding.holds}
    assert names <= amiss


def test_another_optimizer_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer, "LARS", lambda groups, **options: LARS(groups, variant="larc", **options))
    (finding,) = optimizer.findings(ALONE)
    assert not finding.holds
    assert finding.error > 1e-3


def test_instructions_that_give_other_pixels_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    apply = images.apply

    def off_by_one(image: Any, parameters: Any, simd: str | None = None) -> Any:
        pixels = apply(image, parameters, simd="portable")
        if simd == "bad":
            pixels[0, 0, 0] ^= 1
        return pixels

    monkeypatch.setattr(images, "simd", lambda: ["portable", "bad"])
    monkeypatch.setattr(images, "apply", off_by_one)
    finding = images.findings(ALONE)[0]
    assert not finding.holds
    assert words(finding) == "different; 48 values of pixels differ"


def test_batches_that_depend_on_the_number_of_threads_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = images.Loader
    monkeypatch.setattr(images, "Loader", lambda *a, **k: loader(*a, **{**k, "seed": k["threads"]}))
    found = by_name(images.findings(ALONE))
    assert not found["batches by 1, 2 and 3 loader threads, byte for byte"].holds


def test_errors_that_are_no_numbers_do_not_hold() -> None:
    assert distance(torch.tensor([1.0, math.nan]), torch.ones(2)) == math.inf
    assert distance(torch.zeros(2), torch.zeros(2)) == 0
    assert distance(torch.full((2,), 1e-3), torch.zeros(2)) > 0
    assert not Finding("x", math.nan, 1.0).holds
    assert not over_ranks("x", math.nan, 1.0).holds
    report = as_dict([("a", "b")], [Finding("x", math.inf, 1.0, "why"), Finding("y", 0.5, 1.0, "why")])
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert not report["holds"]
    assert [f["detail"] for f in report["findings"]] == ["why", ""]  # pyright: ignore
    assert "1 of 2 invariants fail: x" in verdict(ALONE, [Finding("x", 2, 1), Finding("y", 0, 1)])
    assert verdict(ALONE, [Finding("y", 0, 1)]) == "all is well: one process, 1 invariants hold"


def test_the_command_says_so_and_its_exit_code_too(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    well = barlow_here(capfd, "doctor", "--nproc", 1)
    assert well.code == 0, well.out + well.err
    assert "FAIL" not in well.out
    assert "libjpeg-turbo: with" in well.out
    assert well.out.splitlines()[-1].startswith("all is well: one process")
    monkeypatch.setattr(optimizer, "LARS", lambda groups, **options: LARS(groups, variant="larc", **options))
    monkeypatch.setattr(facts, "_jpeg", lambda: "not measured again")  # which takes an interpreter
    ill = barlow_here(capfd, "doctor", "--nproc", 1)
    assert ill.code == 1
    assert sum(line.startswith("FAIL LARS") for line in ill.out.splitlines()) == 1
    assert ill.out.splitlines()[-1].startswith("not well: one process, 1 of ")


def test_it_starts_its_own_ranks() -> None:
    result = finish(start("doctor", "--nproc", 2, "--json"))
    assert result.code == 0, result.out + result.err
    report = json.loads(result.out)
    assert report["holds"]
    assert result.err == ""
    assert any(row["name"] == "ranks" and row["value"].startswith("2 by gloo") for row in report["facts"])


BROKEN = """
from barlow.doctor import optimizer
from barlow.optim import LARS
optimizer.LARS = lambda groups, **options: LARS(groups, variant="larc", **options)
from barlow.cli import main
main()
"""


def test_under_torchrun_it_is_one_rank_and_fails_as_such(tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text(BROKEN)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script))
    result = finish(start("doctor", launcher=torchrun))
    assert result.code == 1
    assert result.out.count("FAIL LARS") == 1
    assert "not well: 2 ranks, 1 of" in result.out


def test_the_pictures_of_the_examination_are_the_same_every_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        images._write_images(tmp_path / name, 3)
    for i in range(3):
        first, second = ((tmp_path / name / f"{i:03d}.jpg").read_bytes() for name in ("a", "b"))
        assert np.array_equal(np.frombuffer(first, np.uint8), np.frombuffer(second, np.uint8))
