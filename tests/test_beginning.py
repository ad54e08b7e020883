"""How a run begins or goes on: finished ones, more epochs, resumption by wish, weights of another run."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from barlow.config import Config, from_json
from barlow.export import export
from barlow.model import build_model
from barlow.train import launch
from barlow.train.beginning import Beginning
from commands import TINY, barlow_here, make_images, metrics, tensors
from tiny_run import tiny_config

Capture = pytest.CaptureFixture[str]
STEPS_PER_EPOCH = 3


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors: threads only wait for each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda pid: {0})
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"), num_images=24, side_px=16)


@pytest.fixture(scope="module")
def source(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs."""
    run = tmp_path_factory.mktemp("runs") / "source"
    launch(images, configuration(), run, nproc=1)
    return run


def configuration(epochs: int = 2, warmup_epochs: float = 1) -> Config:
    config = tiny_config(epochs=epochs, width=4)
    return replace(
        config,
        optim=replace(config.optim, batch_size=8, warmup_epochs=warmup_epochs),
        train=replace(config.train, seed=epochs),
        checkpoint=replace(config.checkpoint, every_steps=2, keep=9),
    )


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


def test_a_finished_run_says_so(images: Path, source: Path, capfd: Capture) -> None:
    before = contents(source)
    for flags in ((), ("--resume", "must")):
        result = barlow_here(capfd, "train", images, "--run", source, *flags)
        assert result.code == 0, result.err
        assert f"{source} is finished: 6 of 6 steps are done; --extend-to EPOCHS gives it more" in result.out
    assert contents(source) == before


def contents(run: Path) -> dict[str, bytes]:
    files = [*run.glob("checkpoints/*/*"), run / "metrics.jsonl"]
    assert len(files) > 8
    return {str(path): path.read_bytes() for path in files}


def test_more_epochs_during_warm_up_change_nothing(images: Path, tmp_path: Path, capfd: Capture) -> None:
    """There the rate does not depend on the total: the oracle is a run that had them from the start."""
    longer, run = configuration(epochs=3, warmup_epochs=9), tmp_path / "run"
    launch(images, longer, tmp_path / "longer", nproc=1)
    launch(images, replace(longer, optim=replace(longer.optim, epochs=2)), run, nproc=1)
    result = barlow_here(capfd, "train", images, "--run", run, "--extend-to", 3)
    assert result.code == 0, result.err
    assert metrics(run) == metrics(tmp_path / "longer")
    assert tensors(run, 9) == tensors(tmp_path / "longer", 9)
    assert from_json((run / "config.json").read_text()) == longer
    record = json.loads((run / "run.json").read_text())
    assert record["extended"] == [{"step": 6, "from_epochs": 2, "to_epochs": 3}]
    # The same command again is the same wish, and less is none.
    result = barlow_here(capfd, "train", images, "--run", run, "--extend-to", 3)
    assert (result.code, "is finished" in result.out) == (0, True), result.err
    assert json.loads((run / "run.json").read_text())["extended"] == record["extended"]
    result = barlow_here(capfd, "train", images, "--run", run, "--extend-to", 2)
    assert result.code == 2
    assert f"{run} has 3 epochs, and --extend-to 2 would be fewer" in result.err


def test_after_warm_up_the_rate_is_that_of_the_new_total(
    images: Path, source: Path, tmp_path: Path, capfd: Capture
) -> None:
    run = shutil.copytree(source, tmp_path / "run")
    result = barlow_here(capfd, "train", images, "--run", run, "--optim.epochs", 5)
    assert result.code == 2
    assert "optim.epochs is 2 there and 5 here; --extend-to 5 gives it more, or choose another" in result.err
    result = barlow_here(capfd, "train", images, "--run", run, "--extend-to", 5)
    assert result.code == 0, result.err
    optim = configuration().optim
    peak = optim.lr_weights * 8 / 256

    def rate(step: int, epochs: int) -> float:
        """Of a step counted from 1: three steps of warm-up, then the half cosine to a thousandth."""
        if step <= 3:
            return peak * (step - 1) / 3
        cosine = 0.5 * (1 + math.cos(math.pi * (step - 1 - 3) / (epochs * STEPS_PER_EPOCH - 3)))
        return peak * (cosine + optim.lr_final_ratio * (1 - cosine))

    lines = metrics(run)
    assert [line["step"] for line in lines] == list(range(1, 16))
    expected = [rate(step, 2) for step in range(1, 7)] + [rate(step, 5) for step in range(7, 16)]
    assert [line["lr_weights"] for line in lines] == pytest.approx(expected)
    was, becomes = rate(7, 2), rate(7, 5)
    assert becomes > 100 * was  # the seam is a step upwards, and is said to be one
    assert (
        "extended from 2 to 5 epochs: the learning rate now falls until step 15; in step 7 that of weights "
        f"is {becomes:.4g} ({100 * becomes / peak:.1f} % of its peak) where the schedule of 2 epochs has "
        f"{was:.4g} ({100 * was / peak:.1f} %)"
    ) in " ".join(result.out.split())


def test_resumption_by_wish(
    images: Path, source: Path, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = tmp_path / "new"
    for flags, message in (
        (("--resume", "must"), f"{new} has no checkpoint to go on from, as --resume must demands"),
        (("--extend-to", "5"), f"{new} has no checkpoint, so there is nothing for --extend-to to extend"),
    ):
        result = barlow_here(capfd, "train", images, "--run", new, *TINY, *flags)
        assert (result.code, message in result.err) == (2, True), result.err
    assert not new.exists()
    result = barlow_here(capfd, "train", images, "--run", source, "--resume", "never")
    assert result.code == 2
    assert f"{source} has a checkpoint of step 6, which --resume never neither uses nor removes" in result.err
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # requeued, the very same command goes on
    result = barlow_here(capfd, "train", images, "--run", source, "--resume", "never")
    assert (result.code, "is finished" in result.out) == (0, True), result.err


def test_a_death_at_the_first_file_is_no_obstacle(images: Path, tmp_path: Path) -> None:
    """What is there then is a lock and half a config; anything else is somebody's, and not ours to fill."""
    run = tmp_path / "run"
    run.mkdir()
    for name in (".lock", f"config.json.tmp-{2**22 + 1}"):
        (run / name).touch()
    config = configuration()
    launch(images, replace(config, train=replace(config.train, steps=1)), run, nproc=1)
    assert not list(run.glob("*.tmp-*"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="neither empty nor a run of barlow"):
        launch(images, config, tmp_path / "other", nproc=1)


def test_a_run_begins_with_the_weights_of_another(
    images: Path, source: Path, tmp_path: Path, capfd: Capture
) -> None:
    """Step 1 has a learning rate of 0, so its weights are those that the run began with."""
    other, old = make_images(tmp_path / "other", num_images=16, side_px=16), tmp_path / "old"
    shutil.copytree(source, old)
    config = configuration(epochs=3)
    launch(other, config, tmp_path / "run", nproc=1, begin=Beginning(init_from=old))
    out = " ".join(capfd.readouterr().out.split())
    file = old / "checkpoints" / "step-00000006" / "model.safetensors"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert f"began with the backbone and projector of {file} (sha256 {digest[:12]}…)" in out
    record = json.loads((tmp_path / "run" / "run.json").read_text())["init_from"]
    assert record == {
        "source": str(old), "file": str(file), "bytes": file.stat().st_size, "sha256": digest,
        "parts": ["backbone", "projector"],
    }  # fmt: skip
    begun, given = weights(tmp_path / "run", 0), load_file(file)
    assert begun.keys() == given.keys()
    assert all(torch.equal(begun[name], given[name]) for name in given)
    own = build_model(config.model, config.train.seed).state_dict()
    assert not torch.equal(own["backbone.conv1.weight"], given["backbone.conv1.weight"])
    # It needs them no more: the same command goes on when they are gone, another source is refused.
    shutil.rmtree(old)
    launch(other, config, tmp_path / "run", nproc=1, begin=Beginning(init_from=old))
    launch(other, config, tmp_path / "run", nproc=1, begin=Beginning(init_from=source))  # the very same bytes
    earlier = source / "checkpoints" / "step-00000004"
    with pytest.raises(ValueError, match=f"began with {old}, not with {earlier}; choose another"):
        launch(other, config, tmp_path / "run", nproc=1, begin=Beginning(init_from=earlier))
    with pytest.raises(ValueError, match="began with weights drawn from its seed, not with"):
        launch(images, configuration(), source, nproc=1, begin=Beginning(init_from=tmp_path / "run"))


def test_weights_without_a_projector_that_fits(
    images: Path, source: Path, tmp_path: Path, capfd: Capture
) -> None:
    export(source, tmp_path / "exported.safetensors", "safetensors")
    config = configuration(epochs=3)
    once = replace(config, train=replace(config.train, steps=1))
    wider = replace(once, model=replace(config.model, projector=(32, 16)))
    given = weights(source, 6)
    for name, begin, its, words in (
        ("exported", tmp_path / "exported.safetensors", once, "it has no projector, which begins anew"),
        ("wider", source, wider, r"the projector begins anew: the weights of"),
    ):
        launch(images, its, tmp_path / name, nproc=1, begin=Beginning(init_from=begin))
        assert words in " ".join(capfd.readouterr().out.split())
        begun = weights(tmp_path / name, 0)
        own = build_model(its.model, its.train.seed).state_dict()
        for tensor in begun:
            expected = given if tensor.startswith("backbone.") else own
            assert torch.equal(begun[tensor], expected[tensor]), tensor


def test_byols_target_begins_as_the_twins_do(images: Path, source: Path, tmp_path: Path) -> None:
    config = configuration(epochs=3)
    byol = replace(
        config,
        objective=replace(config.objective, name="byol", lambd=0.0051, predictor=(8,)),
        train=replace(config.train, steps=1),
    )
    launch(images, byol, tmp_path / "run", nproc=1, begin=Beginning(init_from=source))
    begun = weights(tmp_path / "run", 0)
    for name, tensor in weights(source, 6).items():
        assert torch.equal(begun[f"objective.target.{name}"], tensor), name


def test_weights_that_do_not_fit_are_refused_by_their_names(
    images: Path, source: Path, tmp_path: Path
) -> None:
    config = configuration(epochs=3)
    wide = replace(config, model=replace(config.model, width=8))
    for its, begin, message in (
        (
            wide,
            source,
            r"of another shape: bn1\.bias \[4\] for \[8\], .*conv1\.weight \[4, 3, 3, 3\] for \[8,",
        ),
        (
            replace(config, model=replace(config.model, backbone="resnet18")),
            source,
            r"missing: layer1\.1\.bn1",
        ),
        (config, images / "a" / "000.jpg", "not a readable safetensors file"),
        (config, images, "is neither a run folder nor a checkpoint"),
    ):
        with pytest.raises(ValueError, match=message):
            launch(images, its, tmp_path / "run", nproc=1, begin=Beginning(init_from=begin))
        assert not (tmp_path / "run" / "config.json").exists()
    with pytest.raises(FileNotFoundError):
        launch(images, config, tmp_path / "run", nproc=1, begin=Beginning(init_from=tmp_path / "no"))


def test_weights_that_change_before_they_are_loaded(
    images: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the check and the loading lies the start of every rank."""
    export(source, tmp_path / "x.safetensors", "safetensors")
    resolved = Beginning.record

    def changes(*arguments: object, **keywords: object) -> object:
        entries = resolved(*arguments, **keywords)  # pyright: ignore
        with (tmp_path / "x.safetensors").open("ab") as file:
            file.write(b" ")
        return entries

    monkeypatch.setattr(Beginning, "record", changes)
    begin = Beginning(init_from=tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"x\.safetensors has changed since the run was to begin with it"):
        launch(images, configuration(epochs=3), tmp_path / "run", nproc=1, begin=begin)
