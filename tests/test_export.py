"""Exported weights in torchvision's hands and in ours: same features, refusals, a card whose code runs."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import tiny_run
from barlow import config as configs
from barlow import durable
from barlow.config import Config, ModelConfig
from barlow.evaluate import evaluate
from barlow.export import export
from barlow.model import build_model, load_backbone, weights


def make_run(folder: Path, model: ModelConfig, image_size: int = 16) -> Path:
    """A run folder with one checkpoint whose every parameter and statistic is unlike its default."""
    base = tiny_run.tiny_config()
    data = dataclasses.replace(base.data, image_size=image_size, eval_resize=image_size)
    config = dataclasses.replace(base, model=model, data=data)
    twins = build_model(model, 0)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in twins.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator)
            tensor += 0.1 * noise if "running_var" in name else 0.1 * (noise - 0.5)
    durable.write_file(folder / "config.json", configs.to_json(config))
    checkpoint = folder / "checkpoints" / "step-00000001"
    durable.write_folder(checkpoint, {"model.safetensors": weights.encode(twins.state_dict())})
    return folder


def features_of(network: nn.Module, size: int = 32) -> torch.Tensor:
    images = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(2)) * 4 - 2
    with torch.no_grad():
        return network(images)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50"])
def test_torchvision_loads_it_strictly_and_gives_the_same_features(backbone: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ModelConfig(backbone=backbone, projector=(8,)))  # pyright: ignore
    written = export(run, tmp_path / "out", "torchvision")
    network = getattr(torchvision.models, backbone)()
    network.fc = nn.Identity()
    network.load_state_dict(load_file(written.weights), strict=True)
    expected = features_of(load_backbone(run)[0])
    assert expected.std() > 1e-3
    torch.testing.assert_close(features_of(network.eval()), expected, rtol=1e-6, atol=1e-6)
    assert written.weights.name == f"{backbone}.safetensors"


@pytest.mark.parametrize("backbone", ["resnet10", "resnet18"])
def test_the_code_of_the_card_runs(backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelConfig(backbone=backbone, stem="cifar", projector=(8,))  # pyright: ignore
    run = make_run(tmp_path / "run", model)
    monkeypatch.chdir(tmp_path)
    for form, name in (("torchvision", "a.safetensors"), ("safetensors", "b.safetensors")):
        written = export(run, tmp_path / name, form)  # pyright: ignore
        blocks = re.findall(r"```python\n(.*?)```", written.card.read_text(), re.DOTALL)
        names: dict = {}
        for block in blocks:
            exec(compile(block, "card", "exec"), names)
        assert torch.equal(features_of(names["network"]), features_of(load_backbone(run)[0]))
        picture = names["preprocess"](Image.new("RGB", (40, 30), (255, 0, 0)))
        red = (1 - configs.CIFAR10_MEAN[0]) / configs.CIFAR10_STD[0]
        assert picture.shape == (3, 16, 16)
        assert picture[0, 0, 0].item() == pytest.approx(red, rel=1e-5)


def test_our_own_format_describes_itself(tmp_path: Path) -> None:
    model = ModelConfig(backbone="resnet10", stem="cifar", width=24, projector=(8,))
    run = make_run(tmp_path / "run", model)
    written = export(run, tmp_path / "somewhere" / "mine.safetensors", "safetensors")
    assert written.card == tmp_path / "somewhere" / "mine.safetensors.md"
    printed: dict = {}
    exec(compile(written.recipe, "recipe", "exec"), printed)  # from any folder
    assert torch.equal(features_of(printed["network"]), features_of(load_backbone(run)[0]))
    backbone, found, config = load_backbone(written.weights)
    assert found == model
    assert config == configs.from_json((run / "config.json").read_text())
    assert torch.equal(features_of(backbone), features_of(load_backbone(run)[0]))
    assert not any("projector" in name for name in load_file(written.weights))


def test_what_torchvision_cannot_hold_is_refused_with_a_way_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ModelConfig(backbone="resnet18", width=32, projector=(8,)))
    with pytest.raises(ValueError, match="--format safetensors"):
        export(run, tmp_path / "out", "torchvision")
    assert not (tmp_path / "out").exists()


def test_a_killed_export_leaves_nothing_for_long(tmp_path: Path) -> None:
    """What a dead one left goes when the next begins, and nothing else of a folder that is not ours alone."""
    run, out = make_run(tmp_path / "run", ModelConfig(backbone="resnet10", width=4, projector=(8,))), tmp_path
    dead = 2**22 + 1  # above Linux's largest id
    gone, stays = (f"a.safetensors.tmp-{dead}", f"a.safetensors.md.tmp-{dead}"), f"b.txt.tmp-{dead}"
    (out / gone[0]).mkdir()
    (out / gone[0] / "a.safetensors").write_bytes(b"half")
    for name in (gone[1], stays):
        (out / name).write_text("half")
    export(run, out / "a.safetensors", "safetensors")
    assert {path.name for path in out.iterdir()} == {"run", "a.safetensors", "a.safetensors.md", stays}


def test_a_full_disk_is_told_of_by_the_name_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", ModelConfig(backbone="resnet10", width=4, projector=(8,)))
    out, real = tmp_path / "out" / "a.safetensors", os.write

    def full(descriptor: int, content: bytes) -> int:
        if len(content) > 10_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, content)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left") as error:
        export(run, out, "safetensors")
    assert error.value.filename == str(out)
    assert list(out.parent.iterdir()) == []


def test_a_file_with_other_features_does_not_survive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", ModelConfig(backbone="resnet18", projector=(8,)))
    good = weights.encode

    def damaged(tensors: dict, *described: object) -> bytes:
        return good({**tensors, "bn1.running_mean": tensors["bn1.running_mean"] + 0.01})

    monkeypatch.setattr(weights, "encode", damaged)
    with pytest.raises(RuntimeError, match="other features"):
        export(run, tmp_path / "out", "torchvision")
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "out" / "resnet18.safetensors").write_text("of an earlier export")
    with pytest.raises(RuntimeError, match="other features"):
        export(run, tmp_path / "out", "torchvision", overwrite=True)
    (left,) = (tmp_path / "out").iterdir()
    assert left.read_text() == "of an earlier export"


def test_the_check_and_the_card_use_the_runs_own_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from barlow.train import launch

    pictures = tiny_run.write_pictures(tmp_path / "pictures" / "train", per_class=5)
    config: Config = tiny_run.tiny_config(epochs=1)
    run = tmp_path / "run"
    launch(pictures, config, run, nproc=1, preset="tiny")
    result = evaluate(run, pictures, baselines=False, quiet=True)
    (checkpoint,) = (run / "checkpoints").iterdir()
    assert checkpoint.name == f"step-{result['step']:08d}"
    capsys.readouterr()
    written = export(run, tmp_path / "out", "safetensors")
    assert written.checked_on == f"8 images of {pictures}"
    assert written.largest_difference == 0
    card = written.card.read_text()
    assert "| percent | this backbone |\n|---|---|\n" in card
    assert f"| kNN top-1 | {result['knn']['top1']:.2f} |\n" in card
    assert f"| linear top-1 | {result['linear']['top1']:.2f} |\n" in card
    assert "- kNN: neighbours 5 instead of 20\n" in card
    assert f"{result['data']['test_images']} test images of 3 classes" in card
    assert "15 images" in card
    assert "preset: tiny" in card
    assert str(tmp_path) not in card
    told = capsys.readouterr().out
    assert str(written.weights) in told
    assert f'load_backbone("{written.weights}")' in told


@pytest.mark.parametrize("name", ["run.json", "eval.json"])
def test_a_damaged_file_beside_the_weights_stops_no_export(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ModelConfig(backbone="resnet10", width=4, projector=(8,)))
    (run / name).write_text('{"knn": ')
    with pytest.warns(UserWarning, match=rf"the card leaves out what can't be read: {run / name}: not JSON"):
        card = export(run, tmp_path / "out", "safetensors").card.read_text()
    assert "## Training\n\n- weights: after step " in card
    assert "## Results" not in card


def test_a_part_of_a_run_is_not_sold_as_its_whole_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After one epoch of three: card and command say so; what is exported again says that it can't tell."""
    model = ModelConfig(backbone="resnet10", stem="cifar", width=8, projector=(8,))
    run = make_run(tmp_path / "run", model)
    data = tmp_path / "shards" / "train"  # of 97 images, 8 batches of 12
    durable.write_file(run / "run.json", json.dumps({"data": str(data), "num_samples": 97}))
    (run / "checkpoints" / "step-00000001").rename(run / "checkpoints" / "step-00000008")
    for name, target in (("run", run), ("checkpoint", run / "checkpoints" / "step-00000008")):
        written = export(target, tmp_path / name, "safetensors")
        card = written.card.read_text()
        assert "- data: 97 images of shards/train\n" in card
        assert "- weights: after step 8 of 24 (epoch 1 of 3); **the training is unfinished**\n" in card
        assert (
            "those after step 8 of 24 (epoch 1 of 3): the training is unfinished" in capsys.readouterr().out
        )
        assert str(tmp_path) not in card
    again = export(written.weights, tmp_path / "again", "safetensors").card.read_text()
    assert (
        "- weights: how much of the recipe they have behind them is not recorded\n- recipe: 3 epochs" in again
    )
    capsys.readouterr()
    (run / "checkpoints" / "step-00000008").rename(run / "checkpoints" / "step-00000024")
    card = export(run, tmp_path / "run", "safetensors").card.read_text()
    assert "- weights: after step 24 of 24 (epoch 3 of 3)\n" in card
    assert "unfinished" not in card + capsys.readouterr().out


def test_the_card_has_every_result_of_these_weights_and_of_no_others(tmp_path: Path) -> None:
    pictures = tiny_run.write_pictures(tmp_path / "pictures" / "train", per_class=12)
    config = tiny_run.tiny_config(width=4)
    for name, seed in (("mine", 0), ("other", 1)):
        tensors = build_model(config.model, seed).backbone.state_dict()
        (tmp_path / f"{name}.safetensors").write_bytes(weights.encode(tensors, config.model, config))
    target = tmp_path / "mine.safetensors"
    result = evaluate(target, pictures, protocols=["retrieval", "linear-sweep"], seeds=2, quiet=True)
    card = export(target, tmp_path / "out", "safetensors").card.read_text()
    sweep, before = result["linear-sweep"], result["untrained"]["linear-sweep"]
    assert "| percent | this backbone | untrained | raw pixels |\n|---|---|---|---|\n" in card
    assert (
        f"| linear sweep top-1 | {sweep['top1']:.2f} ± {sweep['std']['top1']:.2f} | {before['top1']:.2f}"
        in card
    )
    assert f"| retrieval mAP | {result['retrieval']['map']:.2f} | " in card
    assert "deviation of 2 seeds" in card
    # As if the run had been trained on since.
    (tmp_path / "out" / "resnet10.safetensors.md").write_text("# Somebody's own words")
    with pytest.raises(ValueError, match=r"there already, and no resnet10\.safetensors\.md says what it is"):
        export(target, tmp_path / "out", "safetensors")
    (tmp_path / "mine.eval.json").rename(tmp_path / "other.eval.json")
    card = export(tmp_path / "other.safetensors", tmp_path / "other", "safetensors").card.read_text()
    assert "## Results" not in card
    assert "retrieval" not in card


def test_formats_of_one_stem_do_not_replace_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every file has its own card; torchvision's and timm's, of one ending, are not taken for one another."""
    run, out = make_run(tmp_path / "run", ModelConfig(backbone="resnet18", projector=(8,))), Path("out")
    tiny_run.write_pictures(tmp_path / "pictures", per_class=1)
    durable.write_file(run / "run.json", json.dumps({"data": str(tmp_path / "pictures")}))
    monkeypatch.chdir(tmp_path)
    first = export("run", out, "torchvision", licence="CC0")
    told = capsys.readouterr().out
    assert told.startswith(
        "wrote out/resnet18.safetensors and out/resnet18.safetensors.md; same features as the run on "
        "3 images of pictures. "
    )
    other = export("run", out, "detectron2", licence="MIT")
    assert sorted(path.name for path in out.iterdir()) == [
        "resnet18.pth", "resnet18.pth.md", "resnet18.safetensors", "resnet18.safetensors.md",
    ]  # fmt: skip
    assert first.card.read_text().endswith("## Licence\n\nCC0\n")
    assert other.card.read_text().endswith("## Licence\n\nMIT\n")
    before = first.card.read_bytes()
    with pytest.raises(ValueError, match="is there already, by --format torchvision: --overwrite") as refused:
        export("run", out, "timm")
    assert str(refused.value).endswith("or name a file: out/resnet18-timm.safetensors")
    assert first.card.read_bytes() == before
    assert export("run", out, "torchvision", licence="CC0").card.read_bytes() == before  # the same again
    assert "timm.create_model" in export("run", out, "timm", overwrite=True).card.read_text()


def test_an_out_of_another_format_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ModelConfig(backbone="resnet10", width=4, projector=(8,)))
    for name in ("backbone.pth", "backbone.onnx"):
        with pytest.raises(ValueError, match=rf"--format safetensors makes a \.safetensors file, not {name}"):
            export(run, tmp_path / name, "safetensors")
    assert not list(tmp_path.glob("backbone*"))
    (tmp_path / "v1.pt").mkdir()  # a folder may be called anything
    assert (
        export(run, tmp_path / "v1.pt", "safetensors").weights == tmp_path / "v1.pt" / "resnet10.safetensors"
    )


def test_a_run_that_this_version_cannot_read_is_left_out(tmp_path: Path) -> None:
    model = ModelConfig(backbone="resnet10", projector=(8,))
    file = tmp_path / "old.safetensors"
    raw = weights.encode(build_model(model, 0).backbone.state_dict(), model, tiny_run.tiny_config())
    assert raw.count(b"trust_coefficient") == 1
    file.write_bytes(raw.replace(b"trust_coefficient", b"trust_c0efficient"))
    with pytest.warns(UserWarning, match="trust_c0efficient"):
        _, found, config = load_backbone(file)
    assert (found, config) == (model, None)


def test_weights_are_not_exported_onto_themselves(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ModelConfig(backbone="resnet10", width=4, projector=(8,)))
    for target in (run, run / "checkpoints" / "step-00000001" / "model.safetensors"):
        file = weights.weights_file(target)
        before = file.read_bytes()
        with pytest.raises(ValueError, match="is what is to be exported: choose another OUT"):
            export(target, file, "safetensors")
        assert file.read_bytes() == before


def test_weights_without_a_run_are_checked_on_noise(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ModelConfig(backbone="resnet10", projector=(8,)))
    first = export(run, tmp_path / "first.safetensors", "safetensors")
    second = export(first.weights, tmp_path / "second.safetensors", "torchvision")
    assert "noise" in second.checked_on
    assert load_file(first.weights).keys() == load_file(second.weights).keys()
    with pytest.raises(ValueError, match="--format"):
        export(run, tmp_path / "x", "tflite")  # pyright: ignore
    (tmp_path / "x.onnx").write_bytes(b"\x08\x0a")
    with pytest.raises(
        ValueError, match="is a graph, not weights: give the run, or what --format safetensors"
    ):
        load_backbone(tmp_path / "x.onnx")
