"""Weights of torchvision and timm wherever weights are taken: told, loaded strictly, nothing lost unsaid."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

import tiny_run
from barlow.config import IMAGENET_MEAN, ModelConfig
from barlow.evaluate import evaluate
from barlow.export import export
from barlow.model import load_backbone
from barlow.model.foreign import described
from barlow.train import launch
from barlow.train.beginning import Beginning

timm = pytest.importorskip("timm")
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    torch.manual_seed(4)
    network = torchvision.models.resnet18(num_classes=10)
    network.train()(torch.randn(4, 3, 64, 64))  # statistics unlike their defaults
    return network.eval()


def features(network: nn.Module, side: int = 64) -> Tensor:
    with torch.no_grad():
        return network(torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1)))


def without_counters(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if "num_batches_tracked" not in name}


def as_safetensors(tensors: Tensors, folder: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "w.safetensors")
    return folder / "w.safetensors"


def as_archive(content: Any, folder: Path, name: str = "w.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


@pytest.mark.parametrize(
    "written",
    [
        lambda t, at: as_archive(t, at),  # torchvision's download
        lambda t, at: as_archive(without_counters(t), at),  # its older ones
        lambda t, at: as_archive({n: x for n, x in t.items() if not n.startswith("fc.")}, at),  # resnet50.pth
        lambda t, at: as_archive({"model": t, "epoch": 3, "arch": "resnet18"}, at, "w.tar"),
        lambda t, at: as_archive({"state_dict": {f"module.{n}": x for n, x in t.items()}}, at, "w.bin"),
        lambda t, at: as_safetensors(t, at),
    ],
    ids=["torchvision", "no-counters", "no-classifier", "wrapped", "distributed", "safetensors"],
)
def test_torchvisions_resnet_in_any_wrapping(
    written: Callable[[Tensors, Path], Path],
    theirs: nn.Module,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    file = written(theirs.state_dict(), tmp_path)
    with caplog.at_level(logging.INFO, "barlow"):
        backbone, model, run = load_backbone(file)
    assert (model.backbone, model.stem, model.width, run) == ("resnet18", "imagenet", 64, None)
    expected = torchvision.models.resnet18(num_classes=10)
    expected.load_state_dict(theirs.state_dict())
    expected.add_module("fc", nn.Identity())
    assert torch.equal(features(backbone), features(expected.eval()))
    said = f"{file}: its classifier is left out: fc.bias, fc.weight"
    assert (said in caplog.messages) == ("no-classifier" not in request.node.name)


def spoilt(tensors: Tensors) -> list[tuple[Any, str]]:
    lost = {n: t for n, t in tensors.items() if n != "layer3.0.conv1.weight"}
    return [
        (lost, r"missing: layer3\.0\.conv1\.weight"),
        ({**tensors, "layer3.0.gate": torch.zeros(2)}, r"unused: layer3\.0\.gate"),
        ({n: t for n, t in tensors.items() if n != "bn1.num_batches_tracked"}, "missing: bn1.num_batches"),
        ({**tensors, "conv1.weight": torch.zeros(64, 1, 7, 7)}, r"of another shape: conv1\.weight \[64, 1,"),
        ({**tensors, "epoch": 3}, "'epoch' is no tensor"),
        ({**tensors, "bn1.bias": torch.zeros(1).expand(1 << 40)}, "bn1.bias .* is larger than its data"),
        ({"a.weight": torch.zeros(2)}, "holds no ResNet with torchvision's names"),
        ([1, 2], "holds no dictionary of tensors"),
        (print, "no file that torch reads without running code"),
    ]


def test_what_is_missing_or_too_much_is_named(theirs: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    for content, message in spoilt(theirs.state_dict()):
        as_archive(content, tmp_path)
        with pytest.raises(ValueError, match=message):
            load_backbone(file)
    file.write_bytes(b"not an archive")
    with pytest.raises(ValueError, match=r"w\.pth is no file that torch reads"):
        load_backbone(file)
    with pytest.raises(FileNotFoundError):
        load_backbone(tmp_path / "no.pth")


@pytest.mark.parametrize("by", ["name", "config", "arch"])
def test_timms_vit_is_told_by_what_is_known_of_it(by: str, tmp_path: Path) -> None:
    network = timm.create_model("test_vit", num_classes=7, img_size=48).eval()
    if by == "name":
        file = as_archive(network.state_dict(), tmp_path, "test_vit.r160_in1k.bin")
    elif by == "arch":
        file = as_archive({"arch": "test_vit", "state_dict": network.state_dict()}, tmp_path)
    else:
        file = as_safetensors(network.state_dict(), tmp_path)
        with pytest.raises(ValueError, match=r"neither its name nor a config\.json beside it"):
            load_backbone(file)
        (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_vit"}))
    backbone, model, run = load_backbone(file)
    assert (model.backbone, model.image_size) == ("timm:test_vit", 48)
    assert torch.equal(features(backbone, 48), network.forward_head(
        network.forward_features(torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))),
        pre_logits=True,
    ))  # fmt: skip
    # No run says how its images were prepared; timm does.
    data = described(model, run).data
    assert (data.image_size, data.eval_resize, data.mean) == (48, 51, (0.5, 0.5, 0.5))
    assert described(ModelConfig(), None).data.mean == IMAGENET_MEAN


def test_eval_export_and_a_new_run_take_them(theirs: nn.Module, tmp_path: Path) -> None:
    file = as_archive(theirs.state_dict(), tmp_path)
    pictures = tiny_run.write_pictures(tmp_path / "pictures", per_class=5)
    config = tiny_run.tiny_config(epochs=1)
    config = dataclasses.replace(config, model=ModelConfig(backbone="resnet18", projector=(8,)))
    result = evaluate(file, pictures, baselines=False, quiet=True, config=config)
    assert 0 <= result["knn"]["top1"] <= 100
    assert (tmp_path / "w.eval.json").exists()
    written = export(file, tmp_path / "out", "torchvision")
    assert "does not say how it was trained" in written.card.read_text()
    once = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=1))
    launch(pictures, once, tmp_path / "run", nproc=1, begin=Beginning(init_from=file))
    begun = load_backbone(tmp_path / "run" / "checkpoints" / "step-00000000")[0]
    assert all(torch.equal(t, theirs.state_dict()[name]) for name, t in begun.state_dict().items())
