"""Small files of a run that are missing, cut or misshapen: one line that names the file, or a gap."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from barlow.config import demo
from barlow.evaluate import result
from barlow.train import launch, metrics
from commands import barlow_here, make_images

Capture = pytest.CaptureFixture[str]
NOT_UTF8 = b'{"a": "\xff"}'
ROW = {
    "knn": {"top1": 50.0, "top5": None},
    "linear": {"top1": 60.0, "top5": None},
    "label_free": {"effective_rank": 3.0, "num_features": 64},
}
EVALUATION: dict[str, Any] = {
    **ROW,
    "untrained": ROW,
    "raw_pixels": None,
    "data": {"train_images": 40, "test_images": 8, "num_classes": 2, "majority_class_percent": 50.0},
    "protocol": {"deviations": ["fewer epochs"], "baselines": None},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Images and a run on them."""
    folder = tmp_path_factory.mktemp("damage")
    images, config = make_images(folder / "images", num_images=16), demo()
    config = replace(
        config,
        data=replace(config.data, image_size=16, eval_resize=16, threads=1),
        model=replace(config.model, backbone="resnet10", width=8, projector=(16, 16)),
        optim=replace(config.optim, batch_size=8, epochs=1),
        train=replace(config.train, precision="fp32", log_every=1),
    )
    launch(images, config, folder / "run", nproc=1)
    (folder / "run" / "eval.json").write_text(json.dumps(EVALUATION))
    return images, folder / "run"


@pytest.fixture
def run(finished: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(finished[1], tmp_path / "run"))


def one_line(capfd: Capture, named: Path, *arguments: object) -> str:
    """Runs the command and expects it to end with one line that names the file."""
    found = barlow_here(capfd, *arguments)
    lines = [line for line in found.err.splitlines() if "scanned" not in line]
    assert found.code == 2, found
    assert len(lines) == 1, found.err
    assert lines[0].startswith(f"barlow: error: {named}: ")
    return lines[0]


def card_without(capfd: Capture, named: Path, run: Path, out: Path) -> str:
    """Exports and expects a line that names the file which the card does without; the card."""
    found = barlow_here(capfd, "export", run, out, "--format", "safetensors")
    assert found.code == 0, found
    lines = [line for line in found.err.splitlines() if "scanned" not in line]
    assert len(lines) == 1, found.err
    assert f"the card leaves out what can't be read: {named}: " in lines[0]
    return (out / "resnet10.safetensors.md").read_text()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", NOT_UTF8, b"[" * 100_000, b'{"data": 3}'])
def test_a_damaged_config_or_record_of_a_run(
    finished: tuple[Path, Path], run: Path, tmp_path: Path, capfd: Capture, content: bytes
) -> None:
    images, _ = finished
    for name, commands in {
        "config.json": [
            ("train", images, "--run", run),
            ("eval", run, images),
            ("export", run, tmp_path / "x"),
        ],
        "run.json": [("train", images, "--run", run)],
    }.items():
        path = run / name
        good = path.read_bytes()
        path.write_bytes(content)
        for command in commands:
            if (name, content) == ("run.json", b'{"data": 3}'):
                continue  # an object, and nothing in it is relied upon
            one_line(capfd, path, *command)
        assert not (tmp_path / "x").exists()
        if name == "run.json" and content != b'{"data": 3}':
            card = card_without(capfd, path, run, tmp_path / "x")
            assert "- recipe: 1 epochs" in card
            assert "- data: " not in card
        path.write_bytes(good)


def test_a_path_that_is_not_there(tmp_path: Path, capfd: Capture) -> None:
    for command in (("eval", tmp_path / "no", tmp_path), ("export", tmp_path / "no", tmp_path / "x")):
        assert one_line(capfd, tmp_path / "no", *command).endswith("No such file or directory")
    assert list(tmp_path.iterdir()) == []


def broken_evaluations() -> list[tuple[str, Any]]:
    """What is wrong, and the evaluation with it."""
    cases: list[tuple[str, Any]] = []
    for path, value in (
        ("knn", 5),
        ("knn.top1", None),
        ("linear.top1", "60"),
        ("linear.top5", "60"),
        ("linear", None),
        ("untrained", 3),
        ("untrained.knn.top1", True),
        ("label_free", []),
        ("label_free.effective_rank", "3"),
        ("label_free.num_features", None),
        ("data", None),
        ("data.test_images", "8"),
        ("protocol", "none"),
        ("protocol.deviations", [3]),
        ("protocol.baselines", [1]),
    ):
        evaluation = json.loads(json.dumps(EVALUATION))
        *above, last = path.split(".")
        row = evaluation
        for key in above:
            row = row[key]
        row[last] = value
        cases.append((path, evaluation))
    return cases


@pytest.mark.parametrize(("wrong", "evaluation"), broken_evaluations())
def test_an_evaluation_of_another_shape_names_what_is_wrong(
    wrong: str, evaluation: Any, tmp_path: Path
) -> None:
    path = tmp_path / "eval.json"
    path.write_text(json.dumps(EVALUATION))
    assert result.read(path) == EVALUATION
    path.write_text(json.dumps(evaluation))
    with pytest.raises(ValueError, match=rf"^{path}: {wrong}"):
        result.read(path)


def test_a_damaged_evaluation_is_a_gap_in_a_card_and_in_the_report(
    run: Path, tmp_path: Path, capfd: Capture
) -> None:
    for content in (NOT_UTF8, b'{"knn": {"top1": 3}, "linear": {}}', b"null"):
        (run / "eval.json").write_bytes(content)
        card = card_without(capfd, run / "eval.json", run, tmp_path / "out")
        assert "## Training" in card
        assert "## Results" not in card
        found = barlow_here(capfd, "report", run)
        assert found.code == 0, found.err
        assert "<li>eval.json: " in (run / "report.html").read_text()


def test_spoiled_lines_of_metrics_are_left_out(run: Path, capfd: Capture) -> None:
    path = run / "metrics.jsonl"
    good = metrics.read(path)
    assert [line["step"] for line in good] == [1, 2]
    first, second = path.read_bytes().splitlines()
    spoiled = [b"\xff\xfe", first[:-9], b"[]", b"3", b'{"step": 2}', b'{"step": 1e999, "time_s": 1}']
    path.write_bytes(b"\n".join([first, *spoiled, second, b'{"step"']))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert metrics.read(path) == good
    assert len(told) == len(spoiled) + 1
    assert all(f"{path}:" in str(warning.message) for warning in told)
    found = barlow_here(capfd, "report", run)
    assert found.code == 0, found.err
    assert "unreadable line" in (run / "report.html").read_text()
