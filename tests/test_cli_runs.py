"""Runs that are ended from outside: Ctrl-C, signals, killed ranks, killed launchers; two in one folder."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from commands import TINY, barlow, finish, make_images, start, the_error


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize("nproc", [1, 2])
def test_ctrl_c_ends_with_one_line(images: Path, tmp_path: Path, nproc: int) -> None:
    endless = (*TINY, "--optim.epochs", "100000", "--nproc", nproc)
    process = start("train", images, "--run", tmp_path / "run", *endless, anew=True)
    wait_for(tmp_path / "run" / "checkpoints" / "step-00000003", process)
    process.send_signal(signal.SIGINT)
    result = finish(process, timeout_s=60)
    assert result.code == 130
    assert result.err.splitlines()[-1] == "barlow: interrupted"
    assert result.err.count("interrupted") == 1
    assert "Traceback" not in result.err


def test_ranks_end_with_their_launcher(images: Path, tmp_path: Path) -> None:
    endless = (*TINY, "--optim.epochs", "100000", "--nproc", 2)
    process = start("train", images, "--run", tmp_path / "run", *endless)
    wait_for(tmp_path / "run" / "checkpoints" / "step-00000003", process)
    ranks = children(process.pid)
    assert len(ranks) == 2
    process.kill()
    try:
        finish(process, timeout_s=60)  # its pipes close when the last rank is gone
        assert not any(map(alive, ranks))
    finally:
        for pid in filter(alive, ranks):
            os.kill(pid, signal.SIGKILL)


def test_terminating_the_launcher_ends_the_ranks(images: Path, tmp_path: Path) -> None:
    endless = (*TINY, "--optim.epochs", "100000", "--nproc", 2)
    process = start("train", images, "--run", tmp_path / "run", *endless)
    wait_for(tmp_path / "run" / "checkpoints" / "step-00000003", process)
    ranks = children(process.pid)
    process.terminate()
    assert finish(process, timeout_s=60).code == 128 + signal.SIGTERM
    assert not any(map(alive, ranks))


def test_a_killed_rank_is_named_and_the_others_give_no_traceback(images: Path, tmp_path: Path) -> None:
    endless = (*TINY, "--optim.epochs", "100000", "--nproc", 2)
    process = start("train", images, "--run", tmp_path / "run", *endless)
    wait_for(tmp_path / "run" / "checkpoints" / "step-00000003", process)
    first = next(p for p in children(process.pid) if b"\0RANK=0\0" in Path(f"/proc/{p}/environ").read_bytes())
    os.kill(first, signal.SIGKILL)
    result = finish(process, timeout_s=60)
    assert result.code == 128 + signal.SIGKILL
    lines = [line for line in result.err.splitlines() if "scanned" not in line]
    # The other rank may be ended before it has noticed.
    assert lines in (
        ["barlow: error: rank 0 was killed by SIGKILL"],
        ["barlow: error: rank 1 has lost another rank", "barlow: error: rank 0 was killed by SIGKILL"],
    )


@pytest.mark.parametrize("nproc", [1, 2])
def test_two_runs_never_share_a_folder(images: Path, tmp_path: Path, nproc: int) -> None:
    """The second one is refused at once; a killed run leaves nothing that would be in the way."""
    run = tmp_path / "run"
    flags = ("train", images, "--run", run, *TINY, "--nproc", nproc)
    first = start(*flags, "--optim.epochs", "100000")
    try:
        wait_for(run / "checkpoints" / "step-00000003", first)
        before = (run / "config.json").read_bytes()
        before_s = cpu_s()
        second = barlow(*flags, "--optim.epochs", "7", anew=True)
        assert second.code == 2
        assert cpu_s() - before_s < 1  # on a machine with nothing else to do it takes no longer than that
        holder = f"process {first.pid} on {socket.gethostname()}"
        assert the_error(second.err) == f"{run} is in use by {holder}"
        assert (run / "config.json").read_bytes() == before
        assert first.poll() is None
    finally:
        first.kill()
        finish(first)
    shutil.rmtree(run / "checkpoints")
    result = barlow(*flags, "--train.steps", "1")
    assert (result.code, result.err.splitlines()[1:]) == (0, [])  # but for the note of the scan


def cpu_s() -> float:
    """Of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, finish(process).err
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """Processes that the main thread of `pid` started and that run barlow."""
    pids = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return [p for p in pids if b"barlow" in Path(f"/proc/{p}/cmdline").read_bytes()]


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped has no command line any more."""
    path = Path(f"/proc/{pid}/cmdline")
    return path.exists() and path.read_bytes() != b""
