"""Ranks that die, freeze, fail or can't save: the others end soon and somebody says why. Real processes."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

import processes
from barlow import cli
from barlow.config import Config
from barlow.data import open_index
from barlow.distributed import World
from barlow.train import identity
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


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run(["unshare", "-n", "true"], check=False).returncode != 0,
    reason="needs unshare and the right to use it",
)
def test_without_a_loopback_network_there_is_a_line_and_no_wait() -> None:
    words = "from barlow.train.ranks import start_ranks; start_ranks(2, ['-m', 'barlow', 'doctor'])"
    here = os.pathsep.join([str(Path(__file__).parents[1] / "python"), *sys.path])
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", words],
        env={**os.environ, "PYTHONPATH": here}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ValueError: the processes of this machine meet over its loopback network, which does not work "
        "(Network is unreachable); `ip link set lo up` starts it"
    )


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


CASES = ("config", "code", "data")
AGREED_S = 10
"""From the moment when all ranks are up to the end of the last one (R62)."""


def started_differently(
    rank: int, places: dict[str, tuple[Path, int]], images: list[Path], up: Barrier, ended: SimpleQueue[Any]
) -> None:
    """A rank of three runs, each started with the other one's command but for one thing; without torchrun,
    which would end the others: each has to find out by itself."""
    importlib.import_module("barlow.train.loop")
    for case, (folder, port) in places.items():
        changed = ("--optim.momentum", "0.8", "--model.width", "16") if rank == 1 and case == "config" else ()
        data = images[rank if case == "data" else 0]
        sys.argv = ["barlow", "train", str(data), "--run", str(folder / "run"), *TINY, *changed]
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "RANK": rank}
        os.environ.update({name: str(value) for name, value in {**place, "LOCAL_RANK": rank}.items()})
        with (folder / f"log-{rank}").open("a") as log, pytest.MonkeyPatch.context() as patch:
            os.dup2(log.fileno(), 2)
            if rank == 1 and case == "code":
                patch.setattr(identity, "digest_of_files", lambda: "edited")
            up.wait(60)
            begin_s, code = time.monotonic(), None
            try:
                cli.main()
            except SystemExit as stop:
                code = stop.code
            ended.put((case, rank, code, time.monotonic() - begin_s))


def test_ranks_that_were_started_differently_say_so_at_once(tmp_path: Path) -> None:
    images = [make_images(tmp_path / "images"), make_images(tmp_path / "fewer", num_images=40)]
    places = {}
    for case in CASES:
        (tmp_path / case).mkdir()
        places[case] = (tmp_path / case, free_port())
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torchvision"])
    up, ended = context.Barrier(2), context.SimpleQueue()
    ranks = [
        context.Process(target=started_differently, args=(rank, places, images, up, ended), daemon=True)
        for rank in range(2)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(150)
        assert rank.exitcode == 0, [(path / "log-0").read_text() for path, _ in places.values()]
    own = identity.digest_of_files()
    said = {
        "config": "model.width is 16 on rank 1 and 8 on rank 0; "
        "optim.momentum is 0.8 on rank 1 and 0.9 on rank 0",
        "code": f"code is edited on rank 1 and {own} on rank 0",
        "data": "; ".join(
            f"{name} is {of[1]} on rank 1 and {of[0]} on rank 0" for name, of in digests(images).items()
        ),
    }
    for _ in range(6):
        case, rank, code, seconds = ended.get()
        last = (places[case][0] / f"log-{rank}").read_text().splitlines()[-1]
        assert (case, code, last) == (case, 2, f"barlow: error: the ranks disagree: {said[case]}")
        assert seconds < AGREED_S, (case, rank)
        assert not (places[case][0] / "run" / "config.json").exists()


def digests(images: list[Path]) -> dict[str, list[str]]:
    """By name, of each folder as the data of a run."""
    config = replace(Config(), optim=replace(Config().optim, batch_size=8))
    found = [identity.of_data(config, open_index(folder)) for folder in images]
    return {name: [of[name] for of in found] for name in found[0]}
