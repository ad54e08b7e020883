"""A run on a disk that really is full, and on one that rots.

`BARLOW_FLIPS=1000` is the long protocol of the second.
"""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from barlow import durable
from barlow.config import Config
from barlow.train import checkpoint, launch
from barlow.train.metrics import Metrics
from commands import make_images, metrics, tensors
from tiny_run import tiny_config

FLIPS = int(os.environ.get("BARLOW_FLIPS", "150"))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors: threads only wait for each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda pid: {0})
        yield


def configuration(on_error: str = "raise") -> Config:
    """Nine steps, a checkpoint after every second, all of them kept."""
    config = tiny_config(epochs=3, width=4)
    of = replace(config.checkpoint, every_steps=2, keep=9, on_error=on_error)
    return replace(config, optim=replace(config.optim, batch_size=8), checkpoint=of)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"), num_images=24, side_px=16)


@pytest.fixture(scope="module")
def unbroken(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    launch(images, configuration(), run, nproc=1)
    return run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def size_of(folder: Path) -> int:
    """Bytes in whole pages, as the disk counts them."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_full_disk(images: Path, unbroken: Path, small_disk: Path) -> None:
    """R13: told to survive, the run goes on to its end; the error names the file; space lets it recover."""
    run = small_disk / "run"
    each = size_of(unbroken / "checkpoints" / "step-00000002")
    room = os.statvfs(small_disk).f_bavail * 4096 - 7 * each // 2 - 64 * 1024
    (small_disk / "ballast").write_bytes(bytes(room))
    lost = str(run / "checkpoints" / "step-0000000")

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(OSError, match="No space left on device") as caught:
            launch(images, configuration("warn"), run, nproc=1)
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value.filename).startswith(f"{lost}9")  # the last one, which is needed
    said = [str(warning.message) for warning in told]
    for step in (6, 8):
        assert any(f"step {step} could not be saved ({lost}{step}/" in text for text in said), said
    left = ["step-00000002", "step-00000004", "step-00000005"]  # the last of halfway to what had no room
    assert names(run / "checkpoints") == left  # and no litter

    (small_disk / "more").write_bytes(bytes(os.statvfs(small_disk).f_bavail * 4096))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the curves of TensorBoard have no room, either
        with pytest.raises(OSError, match="No space left on device") as caught:
            launch(images, configuration(), run, nproc=1)
    assert str(caught.value.filename).startswith(str(run))
    assert names(run / "checkpoints") == left

    (small_disk / "more").unlink()
    (small_disk / "ballast").unlink()
    launch(images, configuration(), run, nproc=1)
    assert tensors(run, 9) == tensors(unbroken, 9)
    assert metrics(run) == metrics(unbroken)


def test_lines_of_metrics_wait_for_room(tmp_path: Path) -> None:
    """/dev/full is the kernel's own full disk. Whoever survives it loses no line and writes none twice."""
    lines = [{"step": step, "time_s": 0.5, "loss": 1.0} for step in (1, 2, 3)]
    with (
        Metrics(tmp_path, keep=lambda line: True) as strict,
        Path("/dev/full").open("ab", buffering=0) as full,
    ):
        disk, strict._file = strict._file, full
        with pytest.raises(OSError, match="No space left") as caught:
            strict.write(lines[0])
        assert caught.value.filename == str(tmp_path / "metrics.jsonl")
        strict._file = disk
    with Metrics(tmp_path, keep=lambda line: False, survivable=True) as patient:
        with Path("/dev/full").open("ab", buffering=0) as full:
            disk, patient._file = patient._file, full
            with pytest.warns(UserWarning, match="No space left on device; its lines wait in memory"):
                patient.write(lines[0])
            patient.write(lines[1])  # said once: a second warning would be an error here
            with pytest.raises(OSError, match=r"No space left.*metrics\.jsonl"):
                patient.sync()  # so no checkpoint is written without its lines
            patient._file = disk
        patient.write(lines[2])
        assert [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()] == lines


def test_bit_rot_is_seen_and_the_checkpoint_before_is_used(unbroken: Path, tmp_path: Path) -> None:
    """R14: random bits of a real checkpoint, each file's share of them as its share of the bytes."""
    folder = unbroken / "checkpoints"
    files = sorted((folder / "step-00000009").iterdir())
    draw = random.Random(0)
    sizes = [path.stat().st_size for path in files]
    for _ in range(FLIPS):
        path = draw.choices(files, sizes)[0]
        good = path.read_bytes()
        bit = draw.randrange(8 * len(good))
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = checkpoint.find_checkpoint(folder)
        path.write_bytes(good)
        assert found == folder / "step-00000008", (path, bit)
        assert len(told) == 1
        assert str(told[0].message).startswith(f"skipping a damaged folder: {folder}/step-00000009: ")
    assert checkpoint.find_checkpoint(folder) == folder / "step-00000009"


def test_a_rotten_checkpoint_is_passed_over_by_the_run(images: Path, unbroken: Path, tmp_path: Path) -> None:
    """The whole way: the run says what it skips, goes on from the one before, and ends as if nothing were."""
    expected, lines = tensors(unbroken, 9), metrics(unbroken)
    path = unbroken / "checkpoints" / "step-00000009" / "optim.safetensors"
    bad = bytearray(path.read_bytes())
    bad[len(bad) // 2] ^= 4
    path.write_bytes(bad)
    with pytest.warns(UserWarning, match="step-00000009: optim.safetensors has changed"):
        launch(images, configuration(), unbroken, nproc=1)
    assert tensors(unbroken, 9) == expected
    assert metrics(unbroken) == lines
    durable.verify_folder(unbroken / "checkpoints" / "step-00000009", checkpoint.FILES)
    assert json.loads((unbroken / "checkpoints" / "step-00000009" / "state.json").read_text())["step"] == 9
