"""Runs of the official code as runs of ours: the same loss, the same next steps, nothing lost in silence."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from barlow import config as configs
from barlow.distributed import World
from barlow.evaluate import evaluate
from barlow.export import export
from barlow.model import build_model, load_backbone
from barlow.model.weights import load_model
from barlow.objectives import barlow_twins
from barlow.official import import_run
from barlow.train.checkpoint import find_checkpoint, load_checkpoint, read_state
from barlow.train.learner import Learner, Plan
from commands import barlow_here, make_images, the_error
from official_code import OfficialRun, exclude_bias_and_norm, official_loss, official_run

MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in (configs.IMAGENET_MEAN, configs.IMAGENET_STD))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("official") / "images", num_images=16)


@pytest.fixture(autouse=True)
def script(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.save must find the function where the official script had it, in `__main__`."""
    main = types.ModuleType("__main__")
    main.exclude_bias_and_norm = exclude_bias_and_norm  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(exclude_bias_and_norm, "__module__", "__main__")


def views(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    coarse = torch.randint(0, 256, (8, 3, 8, 8), generator=generator, dtype=torch.uint8)
    noise = torch.randint(0, 40, (2, 8, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return [(nn.functional.interpolate(coarse.float(), (32, 32)) * 0.8).to(torch.uint8) + n for n in noise]


def floats(views_u8: list[Tensor]) -> list[Tensor]:
    return [(v / 255 - MEAN) / STD for v in views_u8]


def trained(run: OfficialRun, num_steps: int) -> OfficialRun:
    for _ in range(num_steps):
        run.step(*floats(views(run.step_done)))
    return run


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return saved(official_run().pretend(2).checkpoint(), tmp_path / "checkpoint.pth")


def learner_of(run: Path) -> tuple[Learner, int]:
    """The trainer as `barlow train` would set it up to go on with the run."""
    config = configs.load(run / "config.json")
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, precision="fp32"))
    learner = Learner(config, Plan.of(config, steps_per_epoch=2), World(0, 1, 0, torch.device("cpu")))
    newest = find_checkpoint(run / "checkpoints")
    assert newest
    load_checkpoint(newest, learner.twins, learner.optimizer)
    return learner, read_state(newest)["step"]


@pytest.mark.parametrize("first_release", [False, True])
def test_the_next_steps_are_those_of_the_official_loop(
    first_release: bool, images: Path, tmp_path: Path
) -> None:
    official = trained(official_run(first_release=first_release), 4)
    file = saved(official.checkpoint(), tmp_path / "checkpoint.pth")
    made = import_run(file, tmp_path / "run", data=images, flags=official.flags(), processes=4)
    assert made.cannot_train is None
    learner, step = learner_of(tmp_path / "run")
    assert step == official.step_done == 4
    before = {name: p.detach().clone() for name, p in learner.twins.named_parameters()}
    for _ in range(3):
        batch = views(step)
        step += 1
        ours, _ = learner.step(step, batch, check=True)
        theirs = official.step(*floats(batch))
        assert ours.item() * official.scale_loss == pytest.approx(theirs, rel=1e-4)
        rates = official.rates[0], official.rates[1] * official.scale_loss
        assert learner.rates(step) == pytest.approx((rates[0], rates[1] / 4), rel=1e-9)
    expected = official.twins.state_dict()
    for name, p in learner.twins.named_parameters():
        moved = (expected[name] - before[name]).norm()
        assert moved > 0
        assert (p - expected[name]).norm() <= 1e-2 * moved, name
    for name, buffer in learner.twins.named_buffers():
        torch.testing.assert_close(buffer, expected[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("shape", [(64, 24), (24, 64)])
def test_the_loss_of_the_same_embeddings_is_the_official_one(
    dtype: torch.dtype, tolerance: float, shape: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(1)
    common, *noise = torch.randn(3, *shape, generator=generator, dtype=dtype)
    z1, z2 = (((common + 0.5 * n) * 3 + 2).requires_grad_() for n in noise)
    for lambd in (0.0051, 0.0039):
        ours, theirs = barlow_twins(z1, z2, lambd, eps=1e-5), official_loss(z1, z2, lambd)
        assert ours.item() == pytest.approx(theirs.item(), rel=tolerance)
        for mine, reference in zip(
            torch.autograd.grad(ours, (z1, z2)), torch.autograd.grad(theirs, (z1, z2)), strict=True
        ):
            assert (mine - reference).norm() <= 20 * tolerance * reference.norm()


def test_the_imported_network_has_the_official_embeddings_and_loss(checkpoint: Path, tmp_path: Path) -> None:
    official = official_run().pretend(2)
    import_run(checkpoint, tmp_path / "run", flags=official.flags())
    config = configs.load(tmp_path / "run" / "config.json")
    twins = build_model(config.model, seed=99)
    load_model(twins, next((tmp_path / "run" / "checkpoints").glob("step-*")) / "model.safetensors")
    batch = floats(views(50))
    z1_ND, z2_ND = twins(batch)
    ours = barlow_twins(z1_ND, z2_ND, config.objective.lambd, eps=config.objective.eps)
    theirs = official_loss(*official.twins.embeddings(*batch), official.lambd)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_every_command_takes_an_imported_run(
    checkpoint: Path, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, official = tmp_path / "run", official_run()
    flags = f"--flags={official.flags()}"
    told = barlow_here(capfd, "import", checkpoint, run, "--data", images, flags, "--processes", 4)
    assert told.code == 0
    assert "optim.reference_world_size 4" in told.out
    assert "optim.lr_biases 0.8" in told.out
    assert f"barlow train {images} --run {run}" in told.out
    origin = json.loads((run / "run.json").read_text())["imported"]
    assert origin["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert (origin["epochs"], origin["steps_per_epoch"]) == (1, 2)
    more = barlow_here(capfd, "train", images, "--run", run, "--train.steps", 3, "--train.log_every", 1)
    assert more.code == 0, more.err
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"step-00000002", "step-00000003"}
    assert json.loads((run / "run.json").read_text())["imported"] == origin
    exported = barlow_here(capfd, "export", run, tmp_path / "out.safetensors")
    assert exported.code == 0, exported.err
    assert origin["sha256"] in (tmp_path / "out.safetensors.md").read_text()
    assert barlow_here(capfd, "report", run).code == 0
    for flag, value in (("--optim.reference_world_size", 8), ("--objective.eps", 0)):
        refused = barlow_here(capfd, "train", images, "--run", run, flag, value)
        assert refused.code == 2
        assert "another config" in refused.err


def test_a_backbone_alone_can_be_evaluated_and_not_trained(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network = torchvision.models.resnet50(zero_init_residual=True)
    network.add_module("fc", nn.Identity())
    run = tmp_path / "run"
    made = import_run(saved(network.state_dict(), tmp_path / "resnet50.pth"), run, data=images)
    assert made.cannot_train
    backbone, model, config = load_backbone(run)
    assert (model.backbone, model.width, model.stem) == ("resnet50", 64, "imagenet")
    batch = floats(views(3))[0]
    with torch.no_grad():
        torch.testing.assert_close(backbone(batch), network.eval()(batch), rtol=1e-5, atol=1e-5)
    assert config
    assert config.optim.lr_biases == 0.0048
    written = export(run, tmp_path / "out", "torchvision")
    assert written.largest_difference < 1e-4
    refused = barlow_here(capfd, "train", images, "--run", run)
    assert refused.code == 2
    assert "without projector and optimizer" in the_error(refused.err)


def test_without_data_it_can_be_evaluated_and_says_how_to_go_on(
    checkpoint: Path, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    made = import_run(checkpoint, run, flags=official_run().flags())
    assert made.cannot_train
    refused = barlow_here(capfd, "train", images, "--run", run)
    assert "--data" in the_error(refused.err)
    config = configs.load(run / "config.json")
    small = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, image_size=32, eval_resize=32),
        evaluate=dataclasses.replace(config.evaluate, linear_epochs=1, linear_crops=1),
    )
    (run / "config.json").write_text(configs.to_json(small))
    result = evaluate(run, images, baselines=False)
    assert result["knn"]["top1"] >= 0


Content = dict[str, Any]


def _drop(name: str) -> Callable[[Content], None]:
    return lambda content: content["model"].pop(name)


def _set(name: str, tensor: Tensor) -> Callable[[Content], None]:
    return lambda content: content["model"].update({name: tensor})


def _set_mu(number: int, value: Any) -> Callable[[Content], None]:
    return lambda content: content["optimizer"]["state"].update({number: value})


def _reverse(content: Content) -> None:
    content["model"] = dict(reversed(content["model"].items()))


CONV = "module.backbone.layer1.0.conv1.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_drop(CONV), r"missing: backbone\.layer1\.0\.conv1\.weight"),
        (_drop("module.projector.4.running_var"), r"missing: projector\.4\.running_var"),
        (_drop("module.bn.running_mean"), r"lacks bn\.running_mean"),
        (_drop("module.backbone.conv1.weight"), "no ResNet"),
        (_drop("module.backbone.bn1.num_batches_tracked"), "num_batches_tracked"),
        (_set("module.projector.9.weight", torch.zeros(3)), r"unused: projector\.9\.weight"),
        (_set("module.backbone.fc.weight", torch.zeros(5, 512)), r"unused: backbone\.fc\.weight"),
        (_set("module.head", torch.zeros(5)), "unused: head"),
        (_set(CONV, torch.zeros(64, 64, 1, 1)), r"conv1\.weight \[64, 64, 1, 1\] for \[64, 64, 3, 3\]"),
        (_set(CONV, torch.full((64, 64, 3, 3), torch.nan)), r"layer1\.0\.conv1\.weight has values .* finite"),
        (_set(CONV, torch.zeros(64, 64, 3, 3, dtype=torch.float16)), "float16"),
        (_set(CONV, torch.zeros(64, 64, 3, 3).to_sparse()), "sparse"),
        (_set(CONV, torch.zeros(1).expand(1 << 40)), r"layer1\.0\.conv1\.weight .* larger than its data"),
        (_set(CONV, torch.zeros(64, 64, 3, 3, device="meta")), "larger than its data"),
        (_set("module.backbone.conv1.weight", torch.zeros(4096, 3, 7, 7)), r"\[64\] for \[4096\]"),  # a TB
        (_set("module.backbone.conv1.weight", torch.zeros(0, 3, 7, 7)), r"--model\.width"),
        (_set("module.backbone.bn1.num_batches_tracked", torch.ones(3).long()), "not one number"),
        (_set("backbone.extra", torch.zeros(1)), "has no prefix"),
        (_set_mu(3, {}), r"optimizer\.state\.3"),
        (_set_mu(3, {"mu": torch.zeros(7)}), r"momentum of backbone\.\S+ is \[7\]"),
        (_set_mu(3, {"mu": torch.zeros(7), "more": 1}), r"optimizer\.state\.3"),
        (lambda content: content["optimizer"]["state"].pop(3), "of the?.* parameters|parameters of"),
        (lambda content: content["optimizer"].pop("param_groups"), "official LARS"),
        (lambda content: content["optimizer"].update(state=5), "official LARS"),
        (lambda content: content.update(optimizer=torch.zeros(3)), "official LARS"),
        (lambda content: content["optimizer"]["param_groups"][0].update(lr=10**400), "official LARS"),
        (
            lambda content: [g.update(momentum=2.0) for g in content["optimizer"]["param_groups"]],
            r"--optim\.momentum",
        ),
        (lambda content: content["optimizer"]["param_groups"][0].update(params=[0]), "official groups"),
        (lambda content: content["optimizer"]["param_groups"][0].update(eta=0.1), "different settings"),
        (_reverse, "another order"),
        (lambda content: content.update(epoch=0), "epoch is 0"),
        (lambda content: content.update(epoch=13), "13 epochs|whole number of steps"),
        (lambda content: content.update(extra=1), "extra"),
        (lambda content: content["optimizer"]["param_groups"][1].update(lr=0.5), "rate of biases was 0.5"),
    ],
)
def test_nothing_is_loaded_in_silence(
    damage: Callable[[Content], None], message: str, images: Path, tmp_path: Path
) -> None:
    official = official_run().pretend(2)
    content = official.checkpoint()
    damage(content)
    file = saved(content, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match=message):
        import_run(file, tmp_path / "run", data=images, flags=official.flags())
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("--projector 32-32-16", "--projector 32-32-32", "projector of 32-32-16"),
        ("--weight-decay 0.001", "--weight-decay 0.002", "--weight-decay 0.001"),
        ("--batch-size 8", "--batch-size 16", "rate of weights"),
        ("--learning-rate-biases 0.8", "--learning-rate-biases 0.9", "rate of biases"),
        ("--epochs 12", "--epochs 11", "rate of weights"),
        ("--epochs 12", "--epochs 3", "11 epochs behind it"),
    ],
)
def test_flags_that_contradict_the_file_are_refused(
    before: str, after: str, message: str, tmp_path: Path
) -> None:
    official = official_run().pretend(22)  # past the warm-up, which would hide another number of epochs
    file = saved(official.checkpoint(), tmp_path / "checkpoint.pth")
    flags = official.flags()
    assert before in flags
    with pytest.raises(ValueError, match=message):
        import_run(file, tmp_path / "run", flags=flags.replace(before, after))


def test_what_the_file_knows_needs_no_flag(checkpoint: Path, tmp_path: Path) -> None:
    flags = "--epochs 12 --batch-size 8 --learning-rate-weights 40 --learning-rate-biases 0.8 --lambd 0.02"
    made = import_run(checkpoint, tmp_path / "run", flags=flags)
    config = configs.load(tmp_path / "run" / "config.json")
    assert config.model.projector == (32, 32, 16)
    assert config.optim.weight_decay == 1e-3
    assert ("model.projector of the file", "model.projector 32 32 16") in made.rows


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["code", "text", "list", "missing", "folder"])
def test_a_file_that_is_no_checkpoint_is_refused_and_runs_nothing(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pth"
    if kind == "code":
        saved({"epoch": 1, "model": {}, "optimizer": Bomb(tmp_path / "ran")}, file)
        with file.open("rb") as opened, pytest.raises(pickle.UnpicklingError):
            torch.load(opened, weights_only=True)
    elif kind == "text":
        file.write_text("not a checkpoint")
    elif kind == "list":
        saved([torch.zeros(2)], file)
    elif kind == "folder":
        file.mkdir()
    with pytest.raises((ValueError, OSError), match=r"checkpoint\.pth"):
        import_run(file, tmp_path / "run")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "run" / "config.json").exists()


def test_an_archive_that_unpacks_to_more_than_itself_is_not_unpacked(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "small.pth"
    with zipfile.ZipFile(checkpoint) as archive, zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in archive.infolist():
            packed.writestr(entry.filename, archive.read(entry))
    assert torch.load(small, weights_only=False).keys() == {"epoch", "model", "optimizer"}
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(ValueError, match=r"small\.pth unpacks to \d+ bytes"):
        import_run(small, tmp_path / "run")


def test_a_folder_with_something_in_it_is_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not a new or empty folder"):
        import_run(checkpoint, tmp_path / "run")
