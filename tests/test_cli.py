"""The command line: help, one clear line for every mistake, nothing half-written, interruption."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from barlow.commands import runs
from barlow.config import CIFAR10_MEAN
from commands import TINY, barlow, barlow_here, finish, make_images, start, the_error

Capture = pytest.CaptureFixture[str]
COMMANDS = (
    "pack",
    "index",
    "verify",
    "unpack",
    "train",
    "eval",
    "detect",
    "export",
    "embed",
    "reproduce",
    "report",
    "runs",
    "import",
    "doctor",
    "demo",
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


def test_help_lists_every_command_without_importing_torch() -> None:
    code = (
        "import sys, barlow.cli; sys.argv = ['barlow', '--help']\n"
        "try: barlow.cli.main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    result = finish(start(launcher=("-c", code), anew=True))
    assert result.code == 0, result.err
    for name in COMMANDS:
        assert f" {name} " in result.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_its_arguments(capfd: Capture, name: str) -> None:
    result = barlow_here(capfd, name, "--help")
    assert result.code == 0
    assert f"usage: barlow {name}" in result.out
    if name == "pack":
        assert "in MiB" in result.out
        assert "default: 256" in result.out


def test_help_of_train_shows_the_presets_values(capfd: Capture) -> None:
    text = " ".join(barlow_here(capfd, "train", "--preset", "cifar10", "--help").out.replace("│", "").split())
    assert "(default: {})".format(" ".join(map(str, CIFAR10_MEAN))) in text
    assert "Images of one optimizer step, over all processes. (default: 256)" in text
    text = " ".join(barlow_here(capfd, "train", "--preset=imagenet", "--help").out.replace("│", "").split())
    assert "(default: 2048)" in text


def test_no_command_prints_the_help_and_is_no_success(capfd: Capture) -> None:
    result = barlow_here(capfd)
    assert (result.code, result.err) == (2, "")
    assert "usage: barlow" in result.out
    assert "barlow --version" in result.out


def test_help_may_be_cut_off() -> None:
    with start("train", "--help") as process:
        assert process.stdout is not None
        process.stdout.close()  # as `head` does when it has its lines
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait() == 0


def test_version(capfd: Capture) -> None:
    result = barlow_here(capfd, "--version")
    assert result.code == 0
    assert result.out.split()[0] == "barlow"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trian",), "trian"),
        (
            ("train", "DATA", "--run", "RUN", "--preset", "demo", "--optim.batchsize", "8"),
            "--optim.batchsize",
        ),
        (("train", "DATA", "--run", "RUN", "--preset", "demo", "--optim.batch_size", "many"), "'many'"),
        (
            ("train", "DATA", "--run", "RUN", "--preset", "demo", "--data.crop_scale", "1"),
            "--data.crop-scale",
        ),
        (("train", "DATA", "--run", "RUN", "--preset", "demo", "--model.backbone", "vgg"), "'vgg'"),
        (("train", "DATA", "--run", "RUN", "--preset", "cifar"), "no preset 'cifar', only imagenet, cifar10"),
        (("train", "DATA", "--run", "RUN"), "--preset is needed"),
        (("train", "DATA", "--run", "RUN", "--preset", "demo", "--nproc", "-1"), "--nproc"),
        (("train", "--run", "RUN", "--preset", "demo"), "DATA"),
        (("train", "DATA", "--preset", "demo"), "--run"),
        (("pack", "SRC"), "OUT"),
        (("pack", "SRC", "OUT", "--shard-mb", "-1"), "--shard-mb must lie between 1 and 1048576, not -1"),
        (("pack", "SRC", "OUT", "--shard-mb", "9" * 30), "--shard-mb must lie between"),
        (("pack", "SRC", "OUT", "--min-shards", "0"), "--min-shards must lie between"),
        (("pack", "SRC", "OUT", "--threads", "-1"), "--threads must lie between 0 and 4096, not -1"),
        (("index", "SRC", "--threads", "9" * 30), "--threads must lie between"),
        (("verify", "SRC", "--threads", "-1"), "--threads must lie between"),
        (("demo", "--nproc", "0"), "--nproc must lie between"),
        (("export", "RUN", "OUT", "--format", "caffe"), "'caffe'"),
    ],
)
def test_mistakes_in_the_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = barlow_here(capfd, *arguments)
    assert result.code == 2
    assert message in the_error(result.err)
    assert result.out == ""
    assert list(tmp_path.iterdir()) == []


def test_the_nearest_flag_is_named(capfd: Capture) -> None:
    result = barlow_here(capfd, "train", "D", "--run", "R", "--preset", "demo", "--optim.lr_weight", "1")
    assert the_error(result.err).endswith("(perhaps --optim.lr-weights)")


def test_flags_are_written_with_hyphens_and_understood_with_both(capfd: Capture) -> None:
    for name in COMMANDS:
        flags = re.findall(r"--[\w.-]+", barlow_here(capfd, name, "--help").out)
        assert not [flag for flag in flags if "_" in flag]
    for flag in ("--optim.batch-size", "--optim.batch_size"):
        result = barlow_here(capfd, "train", "D", "--run", "R", "--preset", "demo", flag, "many")
        assert "Error parsing --optim.batch-size" in the_error(result.err)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--optim.batch_size", "49"), "--optim.batch-size 49 is larger than the data set (48 images)"),
        (
            ("--optim.batch_size", "9", "--nproc", "2"),
            "--optim.batch-size 9 is not divisible by the 2 processes",
        ),
        (("--optim.batch_size", "1"), "--optim.batch-size must lie in [2, inf), not 1"),
        (("--train.log_every", "0"), "--train.log-every must lie in [1, inf), not 0"),
        (("--data.crop_scale", "0.5", "0.1"), "--data.crop-scale must be a low and a high end, not 0.5 0.1"),
        (("--optim.lr_weights", "nan"), "--optim.lr-weights must lie in (0, inf), not nan"),
        (("--objective.lambd", "-inf"), "--objective.lambd must lie in [0, inf), not -inf"),
        (("--data.threads", "100000"), "--data.threads must lie in [0, 4096], not 100000"),
        (("--train.precision", "fp16"), "fp16 needs a GPU"),
        (("--train.micro_batch", "-1"), "--train.micro-batch must lie in [0, inf), not -1"),
        (
            ("--train.micro_batch", "1"),
            "--train.micro-batch 1 leaves batch norm a single image to average over",
        ),
    ],
)
def test_settings_that_cannot_work(
    images: Path, tmp_path: Path, capfd: Capture, flags: tuple[str, ...], message: str
) -> None:
    result = barlow_here(capfd, "train", images, "--run", tmp_path / "run", *TINY, *flags)
    assert result.code == 2
    assert message in the_error(result.err)
    assert not (tmp_path / "run").exists()


def test_paths_are_told_as_they_were_typed(
    images: Path, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").symlink_to(images)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    monkeypatch.chdir(tmp_path)
    for words, message in (
        (("train", "nope", "--run", "r", *TINY), "nope: No such file or directory"),
        (("train", "nope", "--run", "r", *TINY, "--dry-run"), "nope: No such file or directory"),
        (("train", "photos", "--run", "full", *TINY), "--run full is neither empty nor a run of barlow"),
        (("train", "photos", "--run", "r", *TINY, "--resume", "must"), "r has no checkpoint to go on from"),
        (("submit", "nope", "--run", "r", "--preset", "demo"), "nope: No such file or directory"),
        (("report", "r"), "r is not a run folder: there is no such folder"),
    ):
        found = barlow_here(capfd, *words)
        assert found.code == 2
        last = found.err.splitlines()[-1]
        assert last.startswith(f"barlow: error: {message}"), found.err
        assert str(tmp_path) not in found.err


@pytest.mark.parametrize("nproc", [1, 2])
def test_data_that_are_not_there(tmp_path: Path, nproc: int) -> None:
    result = barlow("train", tmp_path / "absent", "--run", tmp_path / "run", *TINY, "--nproc", nproc)
    assert result.code == 2
    assert "absent" in the_error(result.err)
    assert list(tmp_path.iterdir()) == []


def test_data_without_images(tmp_path: Path, capfd: Capture) -> None:
    (tmp_path / "empty").mkdir()
    result = barlow_here(capfd, "train", tmp_path / "empty", "--run", tmp_path / "run", *TINY)
    assert result.code == 2
    assert "empty" in the_error(result.err)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_no_run_is_left_alone(images: Path, tmp_path: Path, capfd: Capture) -> None:
    (tmp_path / "thesis.tex").write_text("...")
    result = barlow_here(capfd, "train", images, "--run", tmp_path, *TINY)
    assert result.code == 2
    assert "is neither empty nor a run" in the_error(result.err)
    result = barlow_here(capfd, "train", images, "--run", tmp_path / "thesis.tex", *TINY)
    assert result.code == 2
    assert "is a file" in the_error(result.err)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_without_a_checkpoint_binds_nobody(images: Path, tmp_path: Path, capfd: Capture) -> None:
    """So that a run that failed at its first step can be started again with a smaller batch."""
    run = tmp_path / "run"
    for seed in (1, 2):
        flags = (*TINY, "--train.steps", "1", "--train.seed", seed)
        assert barlow_here(capfd, "train", images, "--run", run, *flags).code == 0
        assert json.loads((run / "config.json").read_text())["train"]["seed"] == seed
        shutil.rmtree(run / "checkpoints")


def test_errors_that_nobody_meant_keep_their_traceback(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        """A command with a bug that a library notices."""
        json.loads("{")

    monkeypatch.setattr(runs, "report", broken)
    with pytest.raises(json.JSONDecodeError):
        barlow_here(capfd, "report")


def test_pack_verify_unpack_and_train_on_the_shards(images: Path, tmp_path: Path, capfd: Capture) -> None:
    shards = tmp_path / "shards"
    result = barlow_here(capfd, "pack", images, shards, "--min_shards", 4)
    assert result.code == 0, result.err
    assert "images: 48" in result.out
    assert len(list(shards.glob("*.tar"))) == 4
    again = barlow_here(capfd, "pack", images, shards)
    assert again.code == 2
    assert str(shards) in the_error(again.err)

    result = barlow_here(capfd, "verify", shards)
    assert (result.code, result.out) == (0, "48 images, 0 damaged\n")
    assert barlow_here(capfd, "unpack", shards, tmp_path / "back").code == 0
    files = {p.relative_to(images): p.read_bytes() for p in images.rglob("*.jpg")}
    assert {p.relative_to(tmp_path / "back"): p.read_bytes() for p in tmp_path.glob("back/**/*.jpg")} == files
    result = barlow_here(capfd, "train", shards, "--run", tmp_path / "run", *TINY, "--train.steps", 1)
    assert (result.code, result.err) == (0, "")

    shard = shards / "shard-00002.tar"
    raw = bytearray(shard.read_bytes())
    raw[512 + 300] ^= 1  # in the first image
    shard.write_bytes(raw)
    result = barlow_here(capfd, "verify", shards)
    assert result.code == 1
    assert "shard-00002.tar" in result.out
    assert "48 images, 1 damaged" in result.out


def test_pack_says_what_to_do_about_a_damaged_image(images: Path, tmp_path: Path, capfd: Capture) -> None:
    data = Path(shutil.copytree(images, tmp_path / "data"))
    (data / "a" / "004.jpg").write_bytes(b"no JPEG")
    (data / "c").mkdir()
    shutil.copy(data / "a" / "000.jpg", data / "c" / "000.jpg")
    result = barlow_here(capfd, "pack", data, tmp_path / "shards")
    assert result.code == 2
    assert the_error(result.err).startswith(f"{data}/a/004.jpg: not a JPEG")
    assert the_error(result.err).endswith("; --on-error skip leaves such images out")
    again = ("pack", data, tmp_path / "shards", "--on-error", "skip", "--held-out", "0.99")
    result = barlow_here(capfd, *again)
    assert result.code == 0
    assert "warning: 1 classes have their only image in" in result.err
    # A loose file is no member of an archive.
    assert f"skipped {data}/a/004.jpg: not a JPEG" in result.out
    result = barlow_here(capfd, *again)
    assert the_error(result.err).endswith("exists already; --overwrite replaces it")


def test_verify_names_an_image_that_cannot_be_decoded(images: Path, tmp_path: Path, capfd: Capture) -> None:
    data = Path(shutil.copytree(images, tmp_path / "data"))
    spoiled = data / "a" / "004.jpg"
    spoiled.write_bytes(spoiled.read_bytes()[:-200])
    result = barlow_here(capfd, "verify", data)
    assert result.code == 1
    assert result.out.startswith(f"{data / 'a' / '004.jpg'}: ")
    assert result.out.splitlines()[1:] == ["48 images, 1 damaged"]


def test_verify_finds_what_became_of_shards(images: Path, tmp_path: Path, capfd: Capture) -> None:
    shards = tmp_path / "shards"
    assert barlow_here(capfd, "pack", images, shards, "--min_shards", 4).code == 0
    truncated, gone = (shards / f"shard-0000{i}.tar" for i in (0, 3))
    truncated.write_bytes(truncated.read_bytes()[:-512])
    gone.unlink()
    result = barlow_here(capfd, "verify", shards)
    assert result.code == 1
    *lines, last = result.out.splitlines()
    assert last == f"48 images, {len(lines)} damaged"
    assert sum(line.startswith(f"{truncated}: ") and "index it again" in line for line in lines) == 12
    assert sum(line.startswith(f"{gone}: ") and "No such file" in line for line in lines) == 12
    assert len(lines) == 24

    result = barlow_here(capfd, "verify", shards, "--json")
    assert result.code == 1
    report = json.loads(result.out)
    assert report["images"] == 48
    assert [entry["message"] for entry in report["damaged"]] == lines
    first = report["damaged"][0]
    assert (first["id"], first["kind"], first["shard"]) == (0, "index", str(truncated))
    assert first["member"].endswith(".jpg")


def test_index_in_place_silences_the_note(images: Path, tmp_path: Path, capfd: Capture) -> None:
    data = Path(shutil.copytree(images, tmp_path / "data"))
    result = barlow_here(capfd, "verify", data)
    assert "scanned 48 images" in result.err
    result = barlow_here(capfd, "index", data)
    assert result.out.strip() == str(data / "barlow.index")
    result = barlow_here(capfd, "verify", data)
    assert (result.code, result.out, result.err) == (0, "48 images, 0 damaged\n", "")


def test_progress_is_a_bar_on_a_terminal() -> None:
    """In a pseudo-terminal of 80 columns: no line is wider, and the loss stands beside its floor."""
    code = (
        "from barlow.train.progress import Display\n"
        "with Display(0, 12, 6) as display:\n"
        "    display.show({'step': 3, 'epoch': 0.5, 'loss': 1234.5, 'loss_floor': 1122.25,"
        " 'images_per_s': 31234.0, 'wait_share': 0.415})\n"
        "    display.advance(7)\n"
    )
    script = (
        "import os, pty, sys\n"
        "os.environ.update(COLUMNS='80', TERM='xterm')\n"
        f"sys.exit(os.waitstatus_to_exitcode(pty.spawn([sys.executable, '-c', {code!r}])))"
    )
    result = finish(start(launcher=("-c", script)))
    assert result.code == 0, result.out
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", result.out)
    assert re.search(r"loss +1234 \(floor 1122\) +images/s +31234 ", shown)
    assert "42 % for data" in shown
    assert "step 7/12" in shown
    assert "epoch 1.2/2" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_progress_off_a_terminal_is_plain_lines(images: Path, tmp_path: Path, capfd: Capture) -> None:
    result = barlow_here(capfd, "train", images, "--run", tmp_path / "run", *TINY, "--train.steps", 4)
    form, *lines = result.out.splitlines()
    assert form.startswith("loss: ")
    assert [line.split()[1] for line in lines] == ["1/4", "3/4", "4/4"]
    for line in lines:
        assert "(floor 0.6)" in line
    assert re.search(r"epoch 0\.50/0\.67 ", lines[1])  # 3 and 4 of 6 steps
    for line in lines:
        assert " ETA 0:0" in line
        assert "\x1b" not in line
