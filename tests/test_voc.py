"""PASCAL VOC as it is unpacked: which images, which classes, what is difficult; and SVMs on it."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.svm import LinearSVC

import tiny_run
from barlow.data import open_index
from barlow.evaluate import evaluate, features, partition, svm, voc
from barlow.evaluate.cache import FeatureCache
from barlow.evaluate.console import Console
from barlow.evaluate.job import Job, Row
from barlow.evaluate.voc import MultiLabel
from barlow.model import build_model, weights

CLASSES = ("bird", "cat", "dog")
TARGETS = {
    "trainval": torch.tensor([[1, -1, 1], [-1, 1, 0], [1, 0, -1], [-1, 1, -1]] * 4, dtype=torch.int8),
    "test": torch.tensor([[1, 1, -1], [-1, -1, 1], [0, 1, -1], [1, -1, 1]] * 2, dtype=torch.int8),
}


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VOCdevkit/VOC2007: a channel of its own is bright for each class; one image is in no set."""
    folder = tmp_path_factory.mktemp("VOCdevkit") / "VOC2007"
    (folder / "JPEGImages").mkdir(parents=True)
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    rng, number = np.random.default_rng(0), 100
    for part, targets in TARGETS.items():
        names = [f"{number + 7 * i:06}" for i in range(len(targets))]
        number += 1
        for name, row in zip(names, targets.tolist(), strict=True):
            pixels = rng.normal(90, 40, (20, 20, 3)) + 25 * np.array(row)
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
        for c, cls in enumerate(CLASSES):
            lines = "".join(f"{n} {v:2d}\n" for n, v in zip(names, targets[:, c].tolist(), strict=True))
            (folder / "ImageSets" / "Main" / f"{cls}_{part}.txt").write_text(lines)
        (folder / "ImageSets" / "Main" / f"{part}.txt").write_text("".join(f"{n}\n" for n in names))
    Image.new("RGB", (20, 20)).save(folder / "JPEGImages" / "999999.jpg")
    return folder.parent


def test_the_development_kit_is_read(devkit: Path) -> None:
    for path in (devkit, devkit / "VOC2007"):
        parts = partition.load(path)
        assert isinstance(parts, MultiLabel)
        assert parts.class_names == list(CLASSES)
        assert torch.equal(parts.train_targets_NC, TARGETS["trainval"])
        assert torch.equal(parts.test_targets_MC, TARGETS["test"])
        assert [parts.test.name(i) for i in range(2)] == ["000101.jpg", "000108.jpg"]
        assert (len(parts.train), len(parts.test)) == (16, 8)
    assert voc.find(devkit / "VOC2007" / "JPEGImages") is None


def test_test_images_may_lie_elsewhere(devkit: Path, tmp_path: Path) -> None:
    other = tmp_path / "test" / "VOCdevkit"
    shutil.copytree(devkit, other)
    for path in (other / "VOC2007" / "ImageSets" / "Main").glob("*_trainval.txt"):
        path.unlink()
    parts = partition.load(devkit, other)
    assert isinstance(parts, MultiLabel)
    assert Path(parts.test.source).is_relative_to(other)
    with pytest.raises(ValueError, match=r"has no CLASS_trainval\.txt"):
        partition.load(other)
    (other / "VOC2012" / "ImageSets" / "Main").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds VOC2007, VOC2012: name one of them"):
        partition.load(other)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("cat_trainval.txt", "000100 1\n000107 2\n", r"cat_trainval\.txt, line 2: not a name and 1, 0 or -1"),
        ("cat_trainval.txt", "000100 1\n000100 1\n", r"line 2: not a name"),
        ("cat_trainval.txt", "", r"cat_trainval\.txt is empty"),
        ("cat_trainval.txt", "000100 1\n", r"cat_trainval\.txt lists other images than .*bird_trainval"),
        ("bus_test.txt", None, "have different classes"),
    ],
)
def test_files_of_another_form_are_named(
    devkit: Path, tmp_path: Path, file: str, text: str | None, message: str
) -> None:
    shutil.copytree(devkit, tmp_path / "kit")
    place = tmp_path / "kit" / "VOC2007" / "ImageSets" / "Main"
    (place / file).write_text((place / "cat_test.txt").read_text() if text is None else text)
    with pytest.raises(ValueError, match=message):
        partition.load(tmp_path / "kit")


def test_a_missing_image_is_named(devkit: Path, tmp_path: Path) -> None:
    shutil.copytree(devkit, tmp_path / "kit")
    (tmp_path / "kit" / "VOC2007" / "JPEGImages" / "000107.jpg").unlink()
    with pytest.raises(ValueError, match="lacks 1 images of trainval, such as 000107"):
        partition.load(tmp_path / "kit")


def test_difficult_images_train_as_vissl_has_them_and_test_nothing(devkit: Path) -> None:
    config = tiny_run.tiny_config()
    settings = dataclasses.replace(config.evaluate, svm_costs=(1.0,))
    config = dataclasses.replace(config, evaluate=settings)
    job = Job(
        partition.load(devkit), config, torch.device("cpu"), torch.float32, Console(quiet=True),
        FeatureCache(None, 0),
    )  # fmt: skip
    row = Row("raw pixels", None, features.pixels, size=6, resize=6)
    found = svm.run(job, row, 0)
    train, test = (
        torch.nn.functional.normalize(job.features(row, part).double(), dim=1).numpy()
        for part in ("train", "test")
    )
    for c, name in enumerate(CLASSES):
        y, truth = TARGETS["trainval"][:, c].numpy(), TARGETS["test"][:, c].numpy()
        machine = LinearSVC(C=1.0, class_weight={1: 2, -1: 1}, max_iter=2000, dual=True, random_state=0)  # pyright: ignore[reportArgumentType]
        scores = machine.fit(train, np.where(y > 0, 1, -1)).decision_function(test[truth != 0])
        ranked = (truth[truth != 0] > 0)[np.argsort(-scores)]
        precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
        best = np.maximum.accumulate(precision[::-1])[::-1]
        assert found["classes"][name]["ap_area"] == round(100 * best[ranked].mean(), 2), name
    assert not any("difficult" in note for note in found["notes"])
    assert not any("not on PASCAL VOC" in note for note in found["notes"])


def test_the_whole_evaluation_of_several_labels(devkit: Path, tmp_path: Path) -> None:
    config = tiny_run.tiny_config(width=4)
    settings = dataclasses.replace(config.evaluate, svm_costs=(0.1, 10.0))
    config = dataclasses.replace(config, evaluate=settings)
    file = tmp_path / "w.safetensors"
    file.write_bytes(weights.encode(build_model(config.model, 0).backbone.state_dict(), config.model))
    result = evaluate(file, devkit, config=config, quiet=True, device="cpu", baselines=False, seeds=2)
    assert 0 < result["voc07-svm"]["map_11_point"] <= 100
    assert len(result["voc07-svm"]["seeds"]) == 2
    assert "knn" not in result
    assert result["data"]["num_classes"] == 3
    assert result["reason"] is None
    from barlow.evaluate import result as results

    assert results.read(tmp_path / "w.eval.json") == result
    with pytest.raises(ValueError, match=r"knn needs one class for each image.*--protocols voc07-svm"):
        evaluate(file, devkit, config=config, quiet=True, device="cpu", protocols=["voc07-svm", "knn"])
    assert open_index(devkit / "VOC2007" / "JPEGImages").labels.max() == -1
