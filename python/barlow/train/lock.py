"""Here: the lock of a folder that one process may write into: a run, a grid's cell, an unfinished array.

Not here: what is written there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

FILE_NAME = ".lock"


@contextlib.contextmanager
def alone(run: Path, *, wait_s: float = 0.1) -> Iterator[None]:
    """Holds the folder (made if need be) for this process; `ValueError` if another has it, and still has it
    `wait_s` later. Who has it may remove it: it is made again for the next.

    The kernel gives the lock back when the process ends in whatever way, so the file that stays behind means
    nothing; what stands in it is only who had it last. Other machines see the lock where the file system
    passes it on (docs/checkpoints.md). Where that knows no locks, a warning says that two runs would not
    notice each other.
    """
    descriptor, until = _open(run), time.monotonic() + wait_s
    try:
        try:
            _take(descriptor, until)
            while not _is_at(descriptor, run / FILE_NAME):  # a lock on a file without a name keeps nobody out
                nameless, descriptor = descriptor, _open(run)
                os.close(nameless)
                _take(descriptor, until)
        except BlockingIOError:
            holder = _read(descriptor) or "another process"
            raise ValueError(f"{run} is in use by {holder}") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            warnings.warn(
                f"{run} cannot be locked ({error.strerror}): start nothing else in it", stacklevel=3
            )
        else:
            with contextlib.suppress(OSError):  # a full disk: then nobody is named
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def is_held(run: Path) -> bool:
    """Whether a process has the run folder; makes nothing, and two that ask don't take each other for one."""
    try:
        with (run / FILE_NAME).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock, or a file system without any
        return False
    return False


def _read(descriptor: int) -> str:
    # Whoever can write to the run could have written anything.
    return "".join(c for c in os.pread(descriptor, 200, 0).decode(errors="replace") if c.isprintable())


def _open(run: Path) -> int:
    while True:
        run.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # who had the folder has removed it in between
            return os.open(run / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _take(descriptor: int, until: float) -> None:
    while True:
        late = time.monotonic() >= until
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if late:
                raise
            time.sleep(0.1)  # one that only asks (`is_held`) is gone by then


def refuse_if_running(run: Path) -> None:
    """`ValueError` if a process has the run folder; makes nothing. For a quick answer before slow checks."""
    if (run / FILE_NAME).is_file():
        with warnings.catch_warnings(), alone(run):
            warnings.simplefilter("ignore")
