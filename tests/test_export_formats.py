"""timm, ONNX and detectron2: each file in the hands of its library, compared on real images."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tiny_run
from barlow.config import ModelConfig
from barlow.data import Loader, views
from barlow.data.device import normalise
from barlow.export import FORMATS, Exported, export
from barlow.export import write as writing
from barlow.export.detectron2_file import _in_detectron2, detectron2_name
from barlow.model import build_backbone, load_backbone
from test_export import make_run

SIZE = 64


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    with contextlib.suppress(pytest.skip.Exception):  # other machines have no photographs
        return request.getfixturevalue("shared_data") / "imagenet-sample.tar"
    return tiny_run.write_pictures(tmp_path_factory.mktemp("pictures"), per_class=4)


def run_of(folder: Path, model: ModelConfig, data: Path) -> Path:
    run = make_run(folder, model, image_size=SIZE)
    (run / "run.json").write_text(json.dumps({"data": str(data), "num_samples": 1000}))
    return run


@pytest.fixture(scope="module")
def run18(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    return run_of(tmp_path_factory.mktemp("run18"), ModelConfig(backbone="resnet18", projector=(8,)), data)


def features(network: object, run: Path, data: Path, num: int) -> tuple[Tensor, Tensor]:
    """Of `num` images: by the network of an exported file, and by the run's."""
    backbone, _, config = load_backbone(run)
    assert config is not None
    (view,) = views.evaluation(size=SIZE, resize=config.data.eval_resize)
    with Loader(data, views=[view], batch_size=num, shuffle=False, epochs=1, threads=1) as loader:
        images = normalise(next(iter(loader)).views[0], config.data.mean, config.data.std)
    with torch.no_grad():
        return torch.as_tensor(network(images)), backbone(images)  # pyright: ignore


def by_the_card(written: Exported) -> object:
    """What the card's first block of code calls `network`, run where the file is."""
    block = re.findall(r"```python\n(.*?)```", written.card.read_text(), re.DOTALL)[0]
    names: dict = {}
    exec(
        compile(block.replace(f'"{written.weights.name}"', repr(str(written.weights))), "card", "exec"), names
    )
    return names["network"]


@pytest.mark.parametrize("backbone", ["resnet18", "timm:test_vit"])
def test_timm_loads_it_strictly(backbone: str, run18: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    model = ModelConfig(backbone=backbone, image_size=SIZE, projector=(8,))
    run = run18 if backbone == "resnet18" else run_of(tmp_path / "run", model, data)
    written = export(run, tmp_path / "out", "timm")
    assert written.checked_on.startswith("8 images of")
    found, expected = features(by_the_card(written), run, data, 5)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_onnxruntime_gives_the_features_of_any_number_of_images(data: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    run = run_of(tmp_path / "run", ModelConfig(backbone="resnet10", width=8, projector=(8,)), data)
    written = export(run, tmp_path / "net.onnx", "onnx")
    assert written.weights == tmp_path / "net.onnx"
    onnx.checker.check_model(str(written.weights), full_check=True)
    network = by_the_card(written)
    for num in (1, 3):
        found, expected = features(network, run, data, num)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def mocos_name(k: str) -> str:
    """The replacements of MoCo's convert-pretrain-to-detectron2.py, one after the other."""
    if "layer" not in k:
        k = "stem." + k
    for t in (1, 2, 3, 4):
        k = k.replace(f"layer{t}", f"res{t + 1}")
    for t in (1, 2, 3):
        k = k.replace(f"bn{t}", f"conv{t}.norm")
    return k.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def test_detectron2_finds_its_names(run18: Path, tmp_path: Path) -> None:
    with torch.device("meta"):
        names = build_backbone(ModelConfig(backbone="resnet50")).state_dict()
    assert [detectron2_name(name) for name in names] == [mocos_name(name) for name in names]
    written = export(run18, tmp_path / "out", "detectron2")
    content = torch.load(written.weights, weights_only=True)
    assert content["matching_heuristics"] is True
    own = load_backbone(run18)[0].state_dict()
    expected = {mocos_name(name): t for name, t in own.items() if not name.endswith("num_batches_tracked")}
    assert content["model"].keys() == expected.keys()
    assert all(torch.equal(content["model"][name], tensor) for name, tensor in expected.items())


def test_detectron2_gives_the_same_features(data: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("detectron2") is None:
        pytest.skip("needs detectron2, which is not on PyPI")
    run = run_of(tmp_path / "run", ModelConfig(backbone="resnet50", projector=(8,)), data)
    written = export(run, tmp_path / "out", "detectron2")
    for network in (_in_detectron2(written.weights, load_backbone(run)[1]), by_the_card(written)):
        found, expected = features(network, run, data, 3)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["timm", "onnx", "detectron2"])
def test_a_file_that_gives_other_features_is_removed(
    form: str, run18: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = FORMATS[form]

    def damaged(source: object) -> bytes:
        with torch.no_grad():
            source.backbone.bn1.running_mean += 0.01  # pyright: ignore
            content = b"" if form == "onnx" else good.encode(source)  # pyright: ignore
            source.backbone.bn1.running_mean -= 0.01  # pyright: ignore
        return content

    def load(file: Path, model: ModelConfig) -> object:
        # Not another graph of the whole network, which takes seconds: its answers are what is judged.
        return (lambda x: torch.full((len(x), 512), 0.5)) if form == "onnx" else good.load(file, model)

    changed = writing.FORMATS | {form: type(good)(**{**vars(good), "encode": damaged, "load": load})}
    monkeypatch.setattr(writing, "FORMATS", changed)
    with pytest.raises(RuntimeError, match="other features"):
        export(run18, tmp_path / "out", form)  # pyright: ignore
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("form", "model", "message"),
    [
        ("timm", ModelConfig(backbone="resnet10", projector=(8,)), "timm has no resnet10: use --format"),
        ("timm", ModelConfig(backbone="resnet18", width=8, projector=(8,)), "timm's ResNets begin with 64"),
        (
            "detectron2",
            ModelConfig(backbone="resnet10", projector=(8,)),
            "detectron2 has no resnet10 .*imagenet: `barlow detect` takes it",
        ),
        (
            "detectron2",
            ModelConfig(backbone="resnet50", width=32),
            "of width 32 .*: `barlow detect` takes it",
        ),
        (
            "detectron2",
            ModelConfig(backbone="resnet18", stem="cifar"),
            "with stem cifar, .*: detection needs --model.stem imagenet in training; --format safetensors",
        ),
        ("detectron2", ModelConfig(backbone="timm:test_resnet"), "no timm:test_resnet, .*--format timm"),
    ],
)
def test_what_a_library_has_not_is_refused(form: str, model: ModelConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FORMATS[form].refuse(model)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    line = "needs onnx, onnxscript, onnxruntime: pip install onnx onnxruntime onnxscript"
    with pytest.raises(ValueError, match=line):
        FORMATS["onnx"].refuse(ModelConfig())
