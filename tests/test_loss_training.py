"""Training with each form of the loss: the same numbers, what is said, and no matrix of 65,536 x 65,536."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import TINY, barlow, barlow_here, finish, make_images, metrics, start

Capture = pytest.CaptureFixture[str]
STEPS = ("--train.steps", "4", "--train.log_every", "1")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


def assert_alike(run: Path, reference: Path) -> None:
    ours, theirs = metrics(run), metrics(reference)
    assert len(ours) == len(theirs) == 4
    for mine, expected in zip(ours, theirs, strict=True):
        assert mine == {name: pytest.approx(value, rel=2e-3) for name, value in expected.items()}


def test_every_form_trains_alike_and_is_named_once(images: Path, tmp_path: Path, capfd: Capture) -> None:
    for form in ("correlation", "gram"):
        run = tmp_path / form
        result = barlow_here(capfd, "train", images, "--run", run, *TINY, *STEPS, "--objective.form", form)
        assert result.code == 0, result.err
        assert result.out.count(f"loss: {form} form, by --objective.form\n") == 1
    assert_alike(tmp_path / "gram", tmp_path / "correlation")
    run = tmp_path / "two"
    result = barlow(
        "train", images, "--run", run, *TINY, *STEPS, "--objective.form", "gram_features", "--nproc", 2
    )
    assert result.code == 0, result.err
    assert result.out.count("loss: gram_features form") == 1
    assert_alike(run, tmp_path / "correlation")


def test_a_run_may_go_on_with_another_form(images: Path, tmp_path: Path, capfd: Capture) -> None:
    """Nothing that is learned depends on it, beyond rounding."""
    run = tmp_path / "run"
    first = barlow_here(capfd, "train", images, "--run", run, *TINY, "--train.steps", 3)
    assert first.code == 0, first.err
    assert "loss: gram form, 8 x 8 Gram matrices, sharded over the samples: " in first.out
    second = barlow_here(
        capfd, "train", images, "--run", run, *TINY, "--train.steps", 6, "--objective.form", "correlation"
    )
    assert second.code == 0, second.err
    assert "loss: correlation form" in second.out
    assert [line["step"] for line in metrics(run)] == [1, 3, 6]


LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_DATA, (3 * 10**9, 3 * 10**9))
from barlow.cli import main
main()
"""


def test_65536_dimensions_train_in_less_than_3_gb(images: Path, tmp_path: Path) -> None:
    """Also the lines of metrics: C would be 16 GiB."""
    run = tmp_path / "run"
    flags = ("--model.projector", "8", "65536", "--train.steps", "2", "--train.log_every", "1")
    result = finish(start("train", images, "--run", run, *TINY, *flags, launcher=("-c", LIMITED)))
    assert result.code == 0, result.err
    lines = metrics(run)
    assert [line["step"] for line in lines] == [1, 2]
    # 8 samples: C has rank 7 at most, and |C|^2 >= (trace C)^2 / 7.
    least = (lines[0]["on_diagonal"] ** 2 * 65536 / 7 - 1) / 65535
    assert lines[0]["off_diagonal_rms"] ** 2 >= least * (1 - 1e-4)
