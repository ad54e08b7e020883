"""The real `barlow` command for the tests: in a process of its own or in this one, and tiny data for it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from barlow import cli
from nursery import Forked

ROOT = Path(__file__).parents[1]
TINY = (
    "--preset", "demo", "--model.width", "8", "--model.projector", "32", "32",
    "--optim.batch_size", "8", "--optim.epochs", "2", "--optim.warmup_epochs", "0.5",
    "--train.precision", "fp32", "--train.log_every", "3",
    "--checkpoint.every_epochs", "0.5", "--checkpoint.keep", "9",
)  # fmt: skip
"""48 images: 6 steps an epoch, 12 in all, a checkpoint every 3."""
TIMES = ("images_per_s", "wait_share", "time_s", "loader_share", "loader_share_max", "copy_share",
         "compute_share", "communication_share", "other_share", "mfu", "ends_at_s",
         "knn_top1")  # fmt: skip


@dataclass
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str


def make_images(folder: Path, num_images: int = 48, side_px: int = 32) -> Path:
    """A folder of two class folders of smooth random JPEGs, the same ones every time."""
    draw = np.random.default_rng(0)
    for i in range(num_images):
        path = folder / "ab"[i % 2] / f"{i:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = draw.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((side_px, side_px), Image.Resampling.BICUBIC).save(path, quality=90)
    return folder


def start(
    *arguments: object,
    launcher: tuple[str, ...] = ("-m", "barlow"),
    environment: Mapping[str, str] = MappingProxyType({}),
    anew: bool = False,
) -> subprocess.Popen[str]:
    """The command in a process of its own, output piped; with `environment` beside what this one has.

    `anew`: in a new interpreter, which takes seconds of a core; else as a fork of one (nursery.py).
    """
    path = os.pathsep.join([str(ROOT / "python"), *sys.path])
    # A shell without job control starts background commands with Ctrl-C ignored, and children inherit that.
    return (subprocess.Popen if anew else Forked)(
        [sys.executable, *launcher, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, restore_signals=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], timeout_s: float = 120) -> Result:
    """Waits for the end of a command."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as late:
        process.kill()  # its children may still hold the pipes, so nobody waits for their end
        pytest.fail(f"no end after {timeout_s} s\n{late.stdout!r}\n{late.stderr!r}")
    return Result(process.returncode, out, err)


def free_port() -> int:
    """One that nobody listens at on the loopback device just now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def descendants(pid: int) -> list[int]:
    """Its children, their children and so on, parents first; whatever of them lives."""
    try:
        places = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # it has just ended
        return []
    found = [int(child) for place in places for child in place.split()]
    return [each for child in found for each in (child, *descendants(child))]


def barlow(*arguments: object, anew: bool = False) -> Result:
    """The command in a process of its own, to its end; `anew` as for `start`."""
    return finish(start(*arguments, anew=anew))


def barlow_here(capfd: pytest.CaptureFixture[str], *arguments: object) -> Result:
    """The command in this process, which has imported torch already; one with ranks in a process of its own,
    where they can be forked."""
    words = list(map(str, arguments))
    if "--nproc" in words and words[words.index("--nproc") + 1] not in "01":
        return barlow(*words)
    capfd.readouterr()
    code = 0
    ctrl_c = signal.getsignal(signal.SIGINT)  # a command that was interrupted is deaf to it from then on
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("default")
        patch.setattr(sys, "argv", ["barlow", *words])
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            signal.signal(signal.SIGINT, ctrl_c)
    out, err = capfd.readouterr()
    return Result(code, out, err)


def the_error(text: str) -> str:
    """The only line that isn't a note, without its prefix."""
    lines = [line for line in text.splitlines() if "`barlow index` keeps one" not in line]
    assert len(lines) == 1, text
    assert lines[0].startswith("barlow: error: "), text
    return lines[0].removeprefix("barlow: error: ")


def metrics(run: Path) -> list[dict[str, Any]]:
    """The run's lines of metrics without what differs from one execution to the next."""
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def tensors(run: Path, step: int) -> dict[str, bytes]:
    """The bytes of weights and momentum in a checkpoint."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    return {name: (folder / name).read_bytes() for name in ("model.safetensors", "optim.safetensors")}
