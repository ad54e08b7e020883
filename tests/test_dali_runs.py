"""Runs with a device stage: the weights of runs without, across a change of stage; what is said where it
cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from barlow.data.dali import installed
from commands import TINY, barlow_here, make_images, metrics, tensors, the_error

Capture = pytest.CaptureFixture[str]
without_dali = pytest.mark.skipif(not installed.missing(), reason="DALI is installed")
with_dali = pytest.mark.skipif(bool(installed.missing()), reason=installed.missing())


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


def train(capfd: Capture, images: Path, run: Path, stage: str, *flags: object) -> str:
    """What a run says that ends well."""
    result = barlow_here(capfd, "train", images, "--run", run, *TINY, "--data.device_stage", stage, *flags)
    assert result.code == 0, result.err
    return result.out + result.err


@with_dali
def test_weights_are_the_same_bits_with_the_stage_and_across_a_change_of_it(
    images: Path, tmp_path: Path, capfd: Capture
) -> None:
    """Stopped after step 4, in the middle of an epoch, while the stage has read ahead to step 6."""
    train(capfd, images, tmp_path / "none", "none", "--train.steps", 9)
    said = train(capfd, images, tmp_path / "both", "dali", "--train.steps", 4)
    assert "device stage: dali" in said
    train(capfd, images, tmp_path / "both", "none", "--train.steps", 5)
    train(capfd, images, tmp_path / "both", "dali", "--train.steps", 9)
    assert tensors(tmp_path / "both", 9) == tensors(tmp_path / "none", 9)
    losses = [{line["step"]: line["loss"] for line in metrics(tmp_path / run)} for run in ("both", "none")]
    assert losses[0].items() >= losses[1].items()


@with_dali
def test_a_run_whose_images_dali_decodes_is_close(images: Path, tmp_path: Path, capfd: Capture) -> None:
    for stage in ("none", "dali_decode"):
        train(capfd, images, tmp_path / stage, stage, "--train.steps", 1)
    (exact,), (close,) = (metrics(tmp_path / stage) for stage in ("none", "dali_decode"))
    assert close["loss"] == pytest.approx(exact["loss"], rel=0.02)
    assert close["loss"] != exact["loss"]


@without_dali
@pytest.mark.parametrize("stage", ["dali", "dali_decode"])
def test_a_stage_that_is_not_installed_is_one_line(
    images: Path, tmp_path: Path, capfd: Capture, stage: str
) -> None:
    result = barlow_here(
        capfd, "train", images, "--run", tmp_path / "run", *TINY, "--data.device_stage", stage
    )
    line = "NVIDIA DALI 2.4 or newer is not installed: pip install nvidia-dali-cuda130"
    assert (result.code, the_error(result.err)) == (2, f"device stage {stage}: {line}")
    assert not (tmp_path / "run").exists()


@without_dali
def test_auto_does_without_dali_and_says_so(images: Path, tmp_path: Path, capfd: Capture) -> None:
    said = train(capfd, images, tmp_path / "run", "auto", "--train.steps", 1)
    assert "device stage: none, NVIDIA DALI 2.4 or newer is not installed" in said


def test_an_old_dali_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As pip leaves it; the first in the path counts."""
    for version, old in (("2.3.1", True), ("1.49.0", True), ("2.4.0", False), ("3.0.0", False)):
        folder = tmp_path / version
        package = folder / f"nvidia_dali_cuda130-{version}.dist-info"
        package.mkdir(parents=True)
        (package / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: nvidia-dali-cuda130\nVersion: {version}\n"
        )
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(folder))
            assert installed.version() == version
            line = f"NVIDIA DALI {version} is too old, 2.4 is the least: pip install -U nvidia-dali-cuda130"
            assert installed.missing() == (line if old else "")
