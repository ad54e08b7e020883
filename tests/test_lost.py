"""Ranks that die, freeze, fail or can't save: the others end soon and somebody says why. Real processes."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest

import processes
from barlow.distributed import World
from barlow.train.ranks import start_ranks
from barlow.train.watch import Watch
from commands import TINY, descendants, finish, free_port, make_images, start

FOLLOWING = """
import os, sys, time
from barlow.train.ranks import follow_launcher
follow_launcher()
print("rank", os.getpid(), flush=True)
time.sleep(600)
"""
DYING = """
import os, time
os._exit(3) if os.environ["RANK"] == "1" else time.sleep(600)
"""


def watched(world: World, how: str, log: str) -> str:
    """Rank 1 is lost in this way while rank 0 hangs, as in a device's collective: nothing else tells it."""
    with Path(log).open("a") as file:
        os.dup2(file.fileno(), 2)
    patience_s = 30.0 if how == "fails" else 1.5
    with Watch(world, patience_s):
        if world.rank == 0:
            time.sleep(5 if how == "leaves" else 25)
        elif how == "freezes":
            # Somebody has to end it at last: it can't be asked any more.
            subprocess.Popen(["sh", "-c", f"sleep 8; kill -9 {os.getpid()}"])
            os.kill(os.getpid(), signal.SIGSTOP)
        elif how == "fails":
            raise OSError("a device is gone")
    return "to the end"


@pytest.mark.parametrize(
    ("how", "said", "within_s"),
    [("freezes", "rank 0 has lost rank 1: no sign of life for 1.5 s", 9),
     ("fails", "rank 0 has lost rank 1, which failed", 12)],
)  # fmt: skip
def test_a_rank_that_hangs_ends_when_another_is_lost(
    tmp_path: Path, how: str, said: str, within_s: float
) -> None:
    begin_s = time.monotonic()
    with pytest.raises(AssertionError, match="exit codes"):
        processes.run(watched, 2, how, str(tmp_path / "log"))
    assert f"barlow: error: {said}\n" in (tmp_path / "log").read_text()
    assert time.monotonic() - begin_s < 25 + within_s


def test_a_rank_that_has_left_is_not_lost(tmp_path: Path) -> None:
    """It stays away for three times the silence that would be death."""
    assert processes.run(watched, 2, "leaves", str(tmp_path / "log")) == ["to the end"] * 2


def test_a_rank_that_ends_without_a_word_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rank.py").write_text(DYING)
    with pytest.raises(SystemExit) as stop:
        start_ranks(2, [str(tmp_path / "rank.py")])
    assert stop.value.code == 3
    assert capfd.readouterr().err == "barlow: error: rank 1 ended with exit code 3\n"


def test_a_rank_ends_with_the_torchrun_that_started_it(tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(FOLLOWING)
    agent = start(
        tmp_path / "rank.py",
        launcher=("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"),
    )
    assert agent.stdout is not None
    rank = int(agent.stdout.readline().split()[1])
    try:
        assert rank in descendants(agent.pid)
        agent.kill()
        finish(agent, timeout_s=20)  # the rank holds its pipes
        assert not Path(f"/proc/{rank}/exe").exists()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rank, signal.SIGKILL)


def test_nobody_hangs_when_one_rank_cannot_save(tmp_path: Path) -> None:
    """From the first line of metrics on the rank that saves may write no more than 16 KiB to any file."""
    images, run = make_images(tmp_path / "images"), tmp_path / "run"
    flags = ("--optim.epochs", "5000", "--train.steps", "60", "--checkpoint.every_epochs", "2")
    process = start("train", images, "--run", run, *TINY, *flags, "--nproc", 2)
    try:
        deadline_s = time.monotonic() + 120
        while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_bytes():
            assert process.poll() is None, finish(process).err
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        for pid in descendants(process.pid):
            if b"\0RANK=0\0" in Path(f"/proc/{pid}/environ").read_bytes():
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (16384, 16384))
        result = finish(process, timeout_s=60)
    finally:
        process.kill()
    assert result.code not in (0, None), result.err
    assert "File too large" in result.err
    assert "Traceback" not in result.err


def test_ranks_that_were_started_differently_say_so_at_once(tmp_path: Path) -> None:
    """Without torchrun, which would end the others: each has to find out by itself."""
    images, run = make_images(tmp_path / "images"), tmp_path / "run"
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    ranks = [
        start(
            "train", images, "--run", run, *TINY, *changed,
            environment={**place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank, changed in enumerate([(), ("--optim.momentum", "0.8", "--model.width", "16")])
    ]  # fmt: skip
    for rank in ranks:
        result = finish(rank, timeout_s=60)
        assert result.code == 2, result.err
        assert result.err.splitlines()[-1] == (
            "barlow: error: the ranks disagree: model.width is 16 on rank 1 and 8 on rank 0; "
            "optim.momentum is 0.8 on rank 1 and 0.9 on rank 0"
        )
    assert not (run / "config.json").exists()
