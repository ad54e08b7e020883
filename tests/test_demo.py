"""`make demo`, small: every command it types runs, and what it promises lies there in the end."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nursery
from barlow import demo, synthetic
from barlow.config import demo as demo_config
from barlow.validation import validate

# Few steps and a small probe; everything else, the network too, is the demo's own.
SMALL = (
    *("--model.projector", "32", "32"),
    *("--data.image-size", "32", "--data.eval-resize", "32", "--train.steps", "3"),
    *("--evaluate.linear-epochs", "2", "--evaluate.linear-crops", "1"),
)


def run_demo(folder: Path, data: Path | None, *flags: str) -> subprocess.CompletedProcess[str]:
    source = () if data is None else ("--data", str(data))
    command = [sys.executable, "-m", "barlow.demo", *source, "--run", "runs/demo", *flags]
    return nursery.run(command, cwd=folder, timeout_s=280)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which the demo ran on 96 pictures in class folders, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    synthetic.write(folder / "drawn", counts={"train": 96})
    result = run_demo(folder, folder / "drawn" / "train", *SMALL)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder, result.stdout


def test_types_the_public_commands_in_order(finished: tuple[Path, str]) -> None:
    commands = re.findall(r"^\$ barlow (\w+)", finished[1], re.MULTILINE)
    assert commands == ["pack", "train", "eval", "export", "report"]


def test_packs_at_least_four_shards_and_holds_a_part_out(finished: tuple[Path, str]) -> None:
    from barlow.data import open_index

    shards = finished[0] / "runs" / "demo-data" / "shards"
    assert len(list((shards / "train").glob("*.tar"))) >= 4
    train, held_out = open_index(shards / "train"), open_index(shards / "held-out")
    assert len(train) + len(held_out) == 96
    assert len(held_out) >= 96 * demo.HELD_OUT_SHARE / 2
    assert not {train.read(i) for i in range(len(train))} & {held_out.read(i) for i in range(len(held_out))}


def test_leaves_numbers_weights_and_report(finished: tuple[Path, str]) -> None:
    run = finished[0] / "runs" / "demo"
    result = json.loads((run / "eval.json").read_text())
    for row in (result, result["untrained"]):
        for probe in ("knn", "linear"):
            assert 0 <= row[probe]["top1"] <= 100
            assert f"{row[probe]['top1']:.1f}" in finished[1]
    assert json.loads((run / "run.json").read_text())["world_size"] == 2
    assert list((run / "export").rglob("*.safetensors"))
    assert (run / "report.html").stat().st_size > 10_000
    for path in ("runs/demo/eval.json", "runs/demo/export", "runs/demo/report.html"):
        assert path in finished[1]


def test_a_run_on_other_images_is_moved_aside_not_lost(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    before = (folder / "runs" / "demo" / "config.json").read_bytes()
    # A drawn data set that is there is not drawn again: this is the demo without DATA, on fewer pictures.
    pictures = folder / "runs" / "demo-data" / "synthetic-shapes"
    synthetic.write(pictures, seed=1, counts={"train": 64, "held-out": 32})
    result = run_demo(folder, None, *SMALL)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "runs/demo held another run; it is runs/demo-1 now" in result.stdout
    assert (folder / "runs" / "demo-1" / "config.json").read_bytes() == before
    data = json.loads((folder / "runs" / "demo" / "eval.json").read_text())["data"]
    assert (data["train_images"], data["test_images"]) == (64, 32)
    assert "synthetic data" in (folder / "runs" / "demo" / "report.html").read_text()


def test_stops_at_the_first_command_that_fails(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = run_demo(tmp_path, tmp_path / "empty")
    assert result.returncode != 0
    assert re.findall(r"^\$ barlow (\w+)", result.stdout, re.MULTILINE) == ["pack"]
    assert "barlow pack failed" in result.stderr
    assert not (tmp_path / "runs" / "demo").exists()


def test_a_missing_path_is_one_clear_line(tmp_path: Path) -> None:
    result = run_demo(tmp_path, tmp_path / "nowhere")
    assert result.returncode != 0
    assert "does not exist" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_the_users_pictures_are_never_in_its_way(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever the demo would replace or move aside is refused as a source, and nothing changes."""
    from barlow.data import pack
    from commands import barlow_here

    synthetic.write(tmp_path / "drawn", counts={"train": 32})
    pack(tmp_path / "drawn" / "train", tmp_path / "mine-data" / "shards")
    (tmp_path / "link").symlink_to(tmp_path / "mine-data" / "shards")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_bytes(b"precious")
    before = tree(tmp_path)
    refused = {
        "overlap": [
            ("mine-data/shards", "mine"),  # what the demo would replace
            ("mine-data", "mine"),  # a folder around it
            ("mine-data/shards/shard-00000.tar", "mine"),  # something in it
            ("link", "mine"),
            (".", "runs/x"),
        ],
        "does not exist": [("nowhere", "mine")],
        "neither empty nor a run": [  # which it would move aside
            ("drawn/train", "photos"),
            ("mine-data/shards", "mine-data"),
        ],
    }
    for words, cases in refused.items():
        for data, run in cases:
            result = barlow_here(capfd, "demo", "--data", tmp_path / data, "--run", tmp_path / run)
            assert result.code == 2, (data, run)
            assert words in result.err, (data, run)
            assert tree(tmp_path) == before, (data, run)


def test_what_is_no_earlier_output_of_pack_stays(tmp_path: Path) -> None:
    synthetic.write(tmp_path / "drawn", counts={"train": 32})
    shards = tmp_path / "runs" / "demo-data" / "shards"
    shards.mkdir(parents=True)
    (shards / "thesis.tex").write_text("precious")
    result = run_demo(tmp_path, tmp_path / "drawn" / "train", *SMALL)
    assert result.returncode == 2
    assert "holds something else than packed shards" in result.stderr
    assert tree(shards) == {"thesis.tex": b"precious"}


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("num_images", [20, 100, 500, 6400, 20_000, 50_000])
def test_any_number_of_images_gets_about_as_many_steps(num_images: int) -> None:
    config, preset = demo._scaled_to(num_images), demo_config()
    validate(config, num_samples=num_images, world_size=2)
    steps = config.optim.epochs * (num_images // config.optim.batch_size)
    usual = preset.optim.epochs * (synthetic.SPLITS["train"] // preset.optim.batch_size)
    # One epoch is the least there is.
    assert steps >= 0.8 * usual
    assert steps <= max(1.3 * usual, num_images // config.optim.batch_size)
    assert config.optim.warmup_epochs < config.optim.epochs


def test_the_synthetic_shapes_get_the_preset_itself() -> None:
    assert demo._scaled_to(synthetic.SPLITS["train"]) == demo_config()
    assert demo._flags(demo_config()) == ["--preset", "demo"]
