"""The lock of a run folder: between machines, after a death, on a file system without locks."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from barlow.train.lock import FILE_NAME, alone, is_held

ELSEWHERE = """
import signal, socket, sys, time
from pathlib import Path
from barlow.train.lock import alone
socket.sethostname("elsewhere")
begin_s = time.monotonic()
try:
    with alone(Path(sys.argv[1])):
        print("holds", flush=True)
        signal.pause()
except ValueError as error:
    print(f"{time.monotonic() - begin_s < 1} {error}", flush=True)
"""


@contextmanager
def elsewhere(run: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that takes the folder under another machine's name, in a name space of its own."""
    words = ("unshare", "--uts", sys.executable, "-c", ELSEWHERE, str(run))
    here = str(Path(__file__).parents[1] / "python")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, *sys.path])}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "--uts", "true"], check=False).returncode != 0,
    reason="needs unshare and the right to use it",
)
def test_a_process_under_another_hosts_name_is_kept_out_and_keeps_others_out(tmp_path: Path) -> None:
    """One kernel under two names: what a file system tells another kernel is its own matter."""
    run = tmp_path / "run"
    with alone(run), elsewhere(run) as second:
        assert line(second) == f"True {run} is in use by process {os.getpid()} on {os.uname().nodename}"
    with elsewhere(run) as holder:
        assert line(holder) == "holds"
        assert is_held(run)
        with (
            pytest.raises(ValueError, match=rf"in use by process {holder.pid} on elsewhere$"),
            alone(run),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with alone(run):  # a name is left in the file, and no lock
            assert is_held(run)
    assert not is_held(run)


def test_whatever_stands_in_the_file_is_shown_without_control_characters(tmp_path: Path) -> None:
    with alone(tmp_path):
        (tmp_path / FILE_NAME).write_bytes(b"\x1b[31m\xff\n" + b"x" * 5000)
        with pytest.raises(ValueError, match=r"in use by \[31m.x{193}$"), alone(tmp_path):
            pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EIO])
def test_a_file_system_without_locks_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert not is_held(tmp_path)
    if number == errno.EIO:  # that is no answer to the question
        with pytest.raises(OSError, match="Input/output"), alone(tmp_path):
            pass
    else:
        with (
            pytest.warns(UserWarning, match=rf"{tmp_path} cannot be locked \(.*\): start nothing else"),
            alone(tmp_path),
        ):
            pass


def test_a_folder_that_its_holder_removes_is_made_again_for_the_next(tmp_path: Path) -> None:
    """A lock on the file that was removed would keep nobody out."""
    run, held, waiting = tmp_path / "run", threading.Event(), threading.Event()

    def hold() -> None:
        with alone(run):
            held.set()
            waiting.wait()
            time.sleep(0.2)  # the next has opened the file by now
            shutil.rmtree(run)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    waiting.set()
    with alone(run, wait_s=30):
        holder.join()
        assert is_held(run)
    assert not is_held(run)


def test_who_is_patient_waits_for_the_other(tmp_path: Path) -> None:
    both = threading.Barrier(2)

    def hold() -> None:
        with alone(tmp_path):
            both.wait()
            time.sleep(0.3)

    holder = threading.Thread(target=hold)
    holder.start()
    both.wait()
    with pytest.raises(ValueError, match="in use"), alone(tmp_path, wait_s=0):
        pass
    with alone(tmp_path, wait_s=30):
        assert is_held(tmp_path)
    holder.join()
