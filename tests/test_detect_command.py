"""`barlow detect` as a command: what it tells, what it refuses, and that what was stopped goes on."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from barlow import durable
from barlow.config import ModelConfig
from barlow.evaluate.detection import evaluation, voc
from barlow.evaluate.detection.training import train_detector
from barlow.evaluate.unfinished import Part, Unfinished
from barlow.model import build_backbone, weights
from commands import barlow_here, the_error
from drawn_boxes import Rectangles
from test_detection import CPU, QUICK, tiny_backbone, tiny_detector


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_what_was_stopped_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    recipe = dataclasses.replace(QUICK, steps=5, warmup_steps=0)

    def trained(detector: Any, **options: Any) -> list[float]:
        return train_detector(detector, Rectangles(6), range(6), recipe, seed=1, device=CPU, **options)

    def stop(done: int, of: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    whole = tiny_detector()
    losses = trained(whole)
    begun = Unfinished(tmp_path / "d.json", {"a": (1, 2)}, every_s=0)
    with pytest.raises(KeyboardInterrupt):
        trained(tiny_detector(), part=Part(begun, "seed-1"), progress=stop)
    (kept,) = (tmp_path / "d.json.partial").glob("training")
    assert len(durable.read_json(kept / "progress.json")["progress"]["losses"]) == 3
    with pytest.raises(
        ValueError, match=r"begun otherwise: a is \[1, 2\] there and \[1, 3\] here; remove it"
    ):
        Unfinished(tmp_path / "d.json", {"a": (1, 3)})
    goes_on = Unfinished(tmp_path / "d.json", {"a": (1, 2)})
    again, steps = tiny_detector(), []
    assert goes_on.load("seed-0", again, torch.optim.SGD(again.parameters())) is None  # another seed's
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()  # all of it comes from the disk
    assert (
        trained(again, part=Part(goes_on, "seed-1"), progress=lambda done, of: steps.append(done)) == losses
    )
    assert steps == [4, 5]
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in whole.state_dict().items())
    assert (
        trained(tiny_detector(), part=Part(goes_on, "seed-1")) == losses
    )  # the last step is kept, for the tests
    weights_file = kept / "weights.safetensors"
    weights_file.write_bytes(weights_file.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=r"begins anew: .*weights\.safetensors has"):
        assert goes_on.load("seed-1", again, torch.optim.SGD(again.parameters())) is None


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    config = ModelConfig(backbone="resnet10", stem="imagenet", width=8)
    path.write_bytes(weights.encode(tiny_backbone().state_dict(), config))
    return path


def test_the_command_trains_tests_and_tells(
    tmp_path: Path,
    weights_file: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for year, name, count in ((2007, "trainval", 3), (2012, "trainval", 2), (2007, "test", 3)):
        Rectangles(count, seed=year + count).write_voc(tmp_path, year, name, ("bird", "boat"))
    quick = ("--steps", 2, "--batch-size", 2, "--sizes", 64, "--workers", 0)
    shown = barlow_here(capfd, "detect", weights_file, tmp_path, *quick, "--seeds", 2)
    assert shown.code == 0, shown.err
    result = json.loads(weights_file.with_suffix(".detection.json").read_text())
    assert [set(each) for each in result["seeds"]] == [
        {"ap", "ap50", "ap75", "ap50_by_class", "train_loss"}
    ] * 2
    assert result["ap50"] == pytest.approx(sum(each["ap50"] for each in result["seeds"]) / 2, abs=0.01)
    assert 0 <= result["ap"] <= result["ap50"] <= 100
    classes = dict(zip(result["classes"], result["ap50_by_class"], strict=True))
    assert {name for name, value in classes.items() if value is not None} <= {"bird", "boat"}
    assert result["data"]["train_images"] == 5
    assert result["recipe"]["lr"] == pytest.approx(0.1 * 2 / 16)
    told = "\n".join(result["deviations"])
    for words in (
        "steps 2 instead of 24000", "images per step 2 instead of 16", "learning rate 0.0125 instead of 0.1",
        "torchvision's detector instead of detectron2's", "shorter sides of 64 px instead of 480",
    ):  # fmt: skip
        assert words in told
        assert words in shown.out
    assert "82.6" in shown.out
    assert not weights_file.with_suffix(".detection.json.partial").exists()
    out = tmp_path / "again.json"
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "find_objects", stopping(evaluation.find_objects))
        stopped = barlow_here(capfd, "detect", weights_file, tmp_path, *quick, "--seeds", 2, "--out", out)
    assert stopped.code == 130
    assert stopped.err == "barlow: interrupted; the same command goes on from what is saved\n"
    assert not out.exists()
    other = barlow_here(capfd, "detect", weights_file, tmp_path, *quick, "--freeze-at", 1, "--out", out)
    assert other.code == 2
    assert "again.json.partial was begun otherwise: freeze_at is 0 there and 1 here" in the_error(other.err)
    went_on = barlow_here(capfd, "detect", weights_file, tmp_path, *quick, "--seeds", 2, "--out", out)
    assert "seed 0: done before" in went_on.out
    assert json.loads(out.read_text())["seeds"] == result["seeds"]
    assert not out.with_name("again.json.partial").exists()
    images = [path for year in (2007, 2012) for path in (tmp_path / f"VOC{year}" / "JPEGImages").iterdir()]
    for image in images:
        image.write_bytes(image.read_bytes()[:100])
    for workers in (0, 1):
        damaged = barlow_here(capfd, "detect", weights_file, tmp_path, *quick[:-1], workers)
        assert damaged.code == 2
        assert re.match(rf"{tmp_path}/VOC20\d\d/JPEGImages/\w+\.jpg can't be read: ", the_error(damaged.err))
    (image,) = (tmp_path / "VOC2007" / "JPEGImages").glob("test_000000.jpg")
    image.unlink()
    gone = barlow_here(capfd, "detect", weights_file, tmp_path, *quick)
    assert the_error(gone.err) == f"{image}: No such file or directory"


def test_what_is_missing_is_told_before_the_work(
    tmp_path: Path, weights_file: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of weights that no detector can be built on nothing else is said, and no annotation is read."""
    monkeypatch.setattr(voc, "_annotation", None)
    small = tmp_path / "small.safetensors"
    model = ModelConfig(backbone="resnet10", stem="cifar", width=8)
    small.write_bytes(weights.encode(build_backbone(model).state_dict(), model))
    kit = tmp_path / "VOCdevkit"
    for target, flags, line in (
        (small, (), "a C4 detector needs a ResNet with the stem for large images .*--model.stem imagenet"),
        (weights_file, ("--freeze-at", 5), r"freeze_at must lie in \[0, 4\], not 5"),
        (
            weights_file, (),
            f"{kit} is not VOC's folder VOCdevkit, or not all of it: it lacks VOC2007/, VOC2012/. "
            "docs/detection.md says where it comes from$",
        ),
    ):  # fmt: skip
        found = barlow_here(capfd, "detect", target, kit, *flags)
        assert found.code == 2
        assert re.match(line, the_error(found.err)), found.err
    for year, name in ((2007, "trainval"), (2012, "trainval")):
        Rectangles(1).write_voc(kit, year, name, ("bird", "boat"))
    found = barlow_here(capfd, "detect", weights_file, kit)
    assert "lacks VOC2007/ImageSets/Main/test.txt. docs/" in the_error(found.err)
    found = barlow_here(capfd, "detect", weights_file, kit / "VOC2007")
    assert f" Is {kit} meant? " in the_error(found.err)


def stopping(find: Callable[..., Any]) -> Callable[..., Any]:
    """The function, but for its second call, at which Ctrl-C is pressed."""
    calls: list[int] = []

    def found(*arguments: Any, **settings: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return find(*arguments, **settings)

    return found
