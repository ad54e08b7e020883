"""SIGTERM and SIGUSR1 to training runs, with real processes: a step finished, one checkpoint, one exit code.

A read that hangs is one of a named pipe in the place of an image, as in test_loader_liveness.py.
"""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import processes
from barlow.config import load
from barlow.data import Index, Loader, open_index, views
from barlow.distributed import LateMax, World
from barlow.train.loop import train
from barlow.train.preempt import COPIES_S, SIGNALS, Requests, Stop
from commands import TINY, Result, barlow_here, finish, make_images, metrics, start, tensors

BOUND_S = 30
"""From the signal to the end of the last process."""
LONG = (*TINY, "--optim.epochs", "5000", "--train.log_every", "1", "--checkpoint.every_epochs", "5000")
"""30,000 steps, and no checkpoint before the middle."""
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "barlow", "--")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


@contextmanager
def running(images: Path, run: Path, *flags: object, **how: Any) -> Iterator[subprocess.Popen[str]]:
    """A run that has written its first line of metrics; it is ended if the test doesn't do that."""
    process = start("train", images, "--run", run, *LONG, *flags, **how)
    try:
        wait_for_lines(run, 1, process)
        yield process
    finally:
        if process.poll() is None:
            for pid in [*ranks(process).values(), process.pid]:
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def wait_for_lines(run: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + 120
    while lines(run) < count:
        assert process.poll() is None, finish(process).err
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def ranks(launcher: subprocess.Popen[str]) -> dict[int, int]:
    """Process id by rank."""
    place = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    found = {}
    for pid in map(int, place.read_text().split()):
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        if match := re.search(rb"\0RANK=(\d+)\0", environment):
            found[int(match[1])] = pid
    return found


def the_step(result: Result, run: Path, name: str) -> int:
    """The step that the one line names; the checkpoint of that step must be the only one."""
    said = re.findall(rf"^stopped by {name} after step (\d+), which is saved", result.out, re.MULTILINE)
    assert len(said) == 1, result.out + result.err
    step = int(said[0])
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step-{step:08d}"]
    assert metrics(run)[-1]["step"] == step
    return step


def assert_no_noise(result: Result, *expected: str) -> None:
    found = [line for line in result.err.splitlines() if "`barlow index` keeps one" not in line]
    assert found == list(expected)


@pytest.mark.parametrize(("nproc", "number"), [(2, signal.SIGTERM), (2, signal.SIGUSR1)])
def test_a_stopped_run_goes_on_bit_equal(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], nproc: int, number: signal.Signals
) -> None:
    """SIGTERM goes to every process, as SLURM and systemd send it: ranks get a copy from the launcher."""
    run, unbroken = tmp_path / "run", tmp_path / "unbroken"
    with running(images, run, "--nproc", nproc) as process:
        pids = ranks(process).values() if number == signal.SIGTERM else []
        assert len(pids) == (2 if nproc == 2 and number == signal.SIGTERM else 0)
        sent = time.monotonic()
        for pid in (*pids, process.pid):
            os.kill(pid, number)
        result = finish(process, timeout_s=BOUND_S)  # whose pipes the ranks hold as well
        assert time.monotonic() - sent < BOUND_S
    assert result.code == 128 + number
    assert_no_noise(result)
    step = the_step(result, run, number.name)
    for place in (run, unbroken):
        flags = ("train", images, "--run", place, *LONG, "--nproc", nproc, "--train.steps", step + 3)
        more = barlow_here(capfd, *flags)
        assert more.code == 0, more.err
    assert metrics(run) == metrics(unbroken)
    assert [line["step"] for line in metrics(run)] == list(range(1, step + 4))
    assert tensors(run, step + 3) == tensors(unbroken, step + 3)


def test_a_signal_to_one_rank_of_torchrun_stops_all(images: Path, tmp_path: Path) -> None:
    run, unbroken = tmp_path / "run", tmp_path / "unbroken"
    with running(images, run, launcher=TORCHRUN) as process:
        os.kill(ranks(process)[1], signal.SIGUSR1)
        result = finish(process, timeout_s=BOUND_S)
    step = the_step(result, run, "SIGUSR1")
    assert result.code != 0
    assert f"exitcode  : {128 + signal.SIGUSR1}" in result.err  # torchrun's report
    assert "lost another rank" not in result.err
    processes.run(train_to, 2, images, step, run, unbroken)
    assert tensors(run, step) == tensors(unbroken, step)


def train_to(world: World, images: Path, step: int, run: Path, unbroken: Path) -> None:
    config = load(run / "config.json")
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=step))
    train(open_index(images), config, unbroken, world, threads=1)


def image_of_step(images: Path, number: int) -> Path:
    """The last image of the batch of this step, which is the last rank's."""
    index = Index.scan(images)
    index.write(images)
    with Loader(index, views=views.barlow_twins(8), batch_size=8, seed=0, threads=1, epochs=1) as loader:
        return Path(index.shard(int([batch.ids for batch in loader][number - 1][-1])))


@pytest.mark.parametrize(("nproc", "number"), [(1, signal.SIGTERM), (2, signal.SIGUSR1)])
def test_a_read_that_hangs_for_ever_keeps_nobody(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], nproc: int, number: signal.Signals
) -> None:
    """Of two ranks the second one hangs, and only the first hears of the signal."""
    images, run, unbroken = make_images(tmp_path / "images"), tmp_path / "run", tmp_path / "unbroken"
    stuck = image_of_step(images, 6)
    content = stuck.read_bytes()
    stuck.unlink()
    os.mkfifo(stuck)
    with running(images, run, "--nproc", nproc) as process:
        wait_for_lines(run, 5, process)
        time.sleep(1)  # from the line to the wait
        sent = time.monotonic()
        os.kill(ranks(process)[0] if nproc > 1 else process.pid, number)
        result = finish(process, timeout_s=BOUND_S)
        assert time.monotonic() - sent < BOUND_S
    assert result.code == 128 + number
    assert_no_noise(result, "barlow: 1 loader threads hang in a read; they end with it")
    assert the_step(result, run, number.name) == 5
    if nproc == 1:
        stuck.unlink()
        stuck.write_bytes(content)
        for place in (run, unbroken):
            more = barlow_here(capfd, "train", images, "--run", place, *LONG, "--train.steps", 7)
            assert more.code == 0, more.err
        assert metrics(run) == metrics(unbroken)
        assert tensors(run, 7) == tensors(unbroken, 7)


HANGING_DISK = """
import os, sys, time
from pathlib import Path
from typing import Any
from barlow import cli
flush = os.fsync
def hang(descriptor):
    if "/step-" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
        print("hangs", flush=True)
        time.sleep(600)
    flush(descriptor)
os.fsync = hang
cli.main()
"""


@pytest.mark.parametrize("nproc", [1, 2])
def test_a_second_signal_ends_at_once_and_saves_nothing(images: Path, tmp_path: Path, nproc: int) -> None:
    """While the first one's checkpoint hangs on its way to the disk, or another rank in mid-step."""
    run = tmp_path / "run"
    launcher = ("-c", HANGING_DISK) if nproc == 1 else ("-m", "barlow")
    with running(images, run, "--nproc", nproc, "--train.lost_after", 0, launcher=launcher) as process:
        if nproc == 2:
            os.kill(ranks(process)[1], signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        time.sleep(COPIES_S + 0.5)
        assert process.poll() is None, "nothing hangs"
        sent = time.monotonic()
        process.send_signal(signal.SIGTERM)
        result = finish(process, timeout_s=BOUND_S)  # of the ranks too, which hold its pipes
        assert time.monotonic() - sent < 10  # 0.2 s where little else runs
    assert result.code == 128 + signal.SIGTERM
    assert_no_noise(result, "barlow: SIGTERM again: ended at once, without saving")
    assert "stopped by" not in result.out
    assert nproc == 2 or "hangs" in result.out
    assert not list((run / "checkpoints").glob("step-????????"))


BLOCKED = """
import ctypes
from barlow.train.preempt import Stop
with Stop():
    print("ready", flush=True)
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)  # for ever: no signal interrupts it, and no handler can run
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_the_second_one_works_while_the_main_thread_is_blocked_outside_python(number: signal.Signals) -> None:
    process = start(launcher=("-c", BLOCKED))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    time.sleep(COPIES_S + 0.5)
    assert process.poll() is None
    process.send_signal(number)
    assert finish(process, timeout_s=BOUND_S).code == 128 + number


def test_copies_of_the_first_request_are_not_a_second() -> None:
    requests = Requests()
    begin = time.monotonic()
    assert requests.count(signal.SIGUSR1) == 1
    copy = requests.count(signal.SIGTERM)
    assert copy == 0 or time.monotonic() - begin > COPIES_S
    time.sleep(COPIES_S)
    assert requests.count(signal.SIGTERM) == 2
    assert requests.number == signal.SIGUSR1


def in_force() -> tuple[object, ...]:
    """All that a process has set about signals, and its threads."""
    descriptor = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(descriptor)
    names = {thread.name for thread in threading.enumerate()}
    return (*map(signal.getsignal, SIGNALS), descriptor, "barlow-stop" in names)


def test_train_returns_the_signal_and_leaves_no_handler(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, before = tmp_path / "run", in_force()
    first = barlow_here(capfd, "train", images, "--run", run, *LONG, "--train.steps", 1)
    assert first.code == 0, first.err
    config = load(run / "config.json")
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=0))

    def send() -> None:
        while lines(run) < 2:  # the second step is taken inside
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR1)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    world = World(0, 1, 0, torch.device("cpu"))
    assert train(open_index(images), config, run, world, threads=1) == signal.SIGUSR1
    sender.join()
    assert in_force() == before
    last = dataclasses.replace(config.train, steps=metrics(run)[-1]["step"] + 2)
    assert train(open_index(images), dataclasses.replace(config, train=last), run, world, threads=1) == 0
    assert in_force() == before


def test_outside_the_main_thread_nothing_changes() -> None:
    before = in_force()
    inside: list[object] = []

    def enter() -> None:
        with Stop() as stop:
            inside.extend((signal.getsignal(signal.SIGTERM), stop.number))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert inside == [before[0], 0]
    assert in_force() == before


def numbers_agreed_on(world: World) -> tuple[list[int], float]:
    """What each round answers; rank 1 comes late to the first, and asking is timed there on the others."""
    rounds = [(0, 0, 0), (0, 7, 0), (0, 0, 0), (3, 0, 9)]
    answers = []
    now = rounds[0]
    asking_s = 0.0
    with LateMax(lambda: now[world.rank]) as largest:
        for now in rounds:
            if world.rank == 1 and not answers:
                time.sleep(1)
            begin = time.monotonic()
            largest.ask()
            asking_s = max(asking_s, time.monotonic() - begin) if not answers else asking_s
            now = (100, 100, 100)  # too late for this round
            answers.append(largest.answer())
    return answers, asking_s


def test_ranks_agree_late_and_nobody_waits_in_between() -> None:
    results = processes.run(numbers_agreed_on, 3)
    assert [answers for answers, _ in results] == [[0, 7, 0, 9]] * 3
    assert max(asking_s for _, asking_s in results) < 0.5
    value = 0
    with LateMax(lambda: value) as alone:
        alone.ask()
        value = 5
        assert alone.answer() == 5  # what came while the step was taken
