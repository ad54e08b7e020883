"""Here: the ranks of a machine as processes: started by torchrun, stopped by signals, ended with each other.

Not here: what a rank does (launch.py), what a signal means to one (preempt.py), ranks on other machines that
fall silent (watch.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from barlow.train.preempt import SIGNALS, Requests, end_at_once, exit_code

_LAUNCHER = "BARLOW_LAUNCHER_PID"
_HOLDS_RUN = "BARLOW_LAUNCHER_HOLDS_RUN"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_MARK = "first-failure"
_SAID = (1, 2, 130)
"""Exit codes that come after words of the rank's own."""


def in_rank() -> bool:
    """Whether torchrun or srun started this process as one of several."""
    return "RANK" in os.environ or int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def launcher_holds_run() -> bool:
    """Whether a `start_ranks` started this process, of a caller that has checked and locked the run."""
    return _HOLDS_RUN in os.environ


def restarted() -> bool:
    """Whether torchrun or SLURM started this very command before, and does so again."""
    return any(
        int(os.environ.get(name) or 0) > 0 for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    )


def follow_launcher() -> None:
    """In a rank: ends with the torchrun or the `launch` that started it, and leaves Ctrl-C to the latter.

    To be called before the slow imports: both can happen while they last. Elsewhere it does nothing.
    """
    if _LAUNCHER not in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    # Without its launcher a rank would train on unseen, beside those that are started next.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if _LAUNCHER not in os.environ:
        return
    if os.getppid() != int(os.environ[_LAUNCHER]):
        raise SystemExit(1)
    signal.signal(signal.SIGINT, _interrupted)
    if launcher_holds_run():
        logging.getLogger("barlow").setLevel(logging.WARNING)  # it has given the notes


def _interrupted(number: int, frame: FrameType | None) -> NoReturn:
    # A terminal's Ctrl-C arrives twice, by itself and through torchrun: the second one would cut short
    # what the first has set off.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise SystemExit(130)


def start_ranks(nproc: int, arguments: list[str], options: Sequence[str] | None = None) -> None:
    """Runs `torchrun ARGUMENTS` with `nproc` ranks, without torchrun's own words, which would bury a rank's.

    `options` of torchrun say where ranks on other machines are met; without them these are all, and the
    caller holds their run folder, if they have one.
    SIGTERM and SIGUSR1 are passed on to the ranks, which have half a minute (or the seconds of torchrun's
    TORCH_ELASTIC_SHUTDOWN_TIMEOUT) to end by themselves; with the second such signal everything ends at once.
    `SystemExit` with 128 + the number of the signal, or the exit code of the rank that failed first.
    `ValueError` where this machine's processes can't meet.
    """
    if options is None:
        _check_loopback()
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # torchrun would set 1 and warn; this is what the ranks will use anyway.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // nproc)))
    os.environ[_LAUNCHER] = str(os.getpid())
    if options is None:
        os.environ[_HOLDS_RUN] = "1"
        options = ("--standalone", "--nproc-per-node", str(nproc))
    with tempfile.TemporaryDirectory(prefix="barlow-") as logs, _passing_signals_on():
        options = [*options, "--log-dir", logs]
        if "--signals-to-handle" in torchrun.get_args_parser().format_help():
            # Without those of `_passing_signals_on`. Older versions put their own handler in SIGTERM's place;
            # it doesn't tell a copy of the signal from a second one.
            options += ["--signals-to-handle", "SIGINT,SIGHUP,SIGQUIT"]
        logging.disable(logging.CRITICAL)
        try:
            torchrun.run(torchrun.parse_args([*options, *arguments]))
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(exit_code(error.sigval)) from None
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            code = failure.exitcode
            if code < 0:
                print(
                    f"barlow: error: rank {rank} was killed by {signal.Signals(-code).name}", file=sys.stderr
                )
            elif code not in (*_SAID, *map(exit_code, SIGNALS)):
                print(f"barlow: error: rank {rank} ended with exit code {code}", file=sys.stderr)
            raise SystemExit(code if code > 0 else exit_code(-code)) from None
        finally:
            logging.disable(logging.NOTSET)
            del os.environ[_LAUNCHER]
            os.environ.pop(_HOLDS_RUN, None)


def _check_loopback() -> None:
    """As a container may be without: torchrun would try for an hour and say nothing."""
    with socket.socket() as server:
        try:
            server.bind(("127.0.0.1", 0))
            server.listen()
            socket.create_connection(server.getsockname(), timeout=5).close()
        except OSError as error:
            raise ValueError(
                "the processes of this machine meet over its loopback network, which does not work "
                f"({error.strerror or error}); `ip link set lo up` starts it"
            ) from None


@contextlib.contextmanager
def _passing_signals_on() -> Iterator[None]:
    """Inside, a request to stop ends torchrun in such a way that it passes the signal on and waits.

    Afterwards all handlers are as before: torchrun leaves those it installs, and the caller's process may
    have more to do.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException

    requests = Requests()

    def pass_on(number: int, frame: FrameType | None) -> None:
        request = requests.count(number)
        if request == 2:
            end_at_once(number)  # and the ranks with it (`follow_launcher`)
        if request == 1:
            raise SignalException(f"got {signal.Signals(number).name}", signal.Signals(number))

    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)}
    try:
        before |= {name: signal.signal(name, pass_on) for name in SIGNALS}
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


@contextlib.contextmanager
def only_the_first_failure_speaks() -> Iterator[None]:
    """Lets the error of the rank that failed first through and silences those that it causes in others."""
    try:
        yield
    except Exception as error:
        if not first_to_fail():
            raise SystemExit(1) from None
        if _lost_contact(error):
            # Whoever is gone said why, or could not: a traceback of this rank's explains nothing.
            say_lost("another rank")
            raise SystemExit(1) from None
        raise


def first_to_fail() -> bool:
    """Whether no other rank on this machine has failed before this one in this attempt to run; asked once.

    torchrun gives each rank of an attempt a folder in one parent: whoever makes the mark there was first.
    """
    place = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if place:
        try:
            (Path(place).parent.parent / _MARK).touch(exist_ok=False)
        except FileExistsError:
            return False
    return True


def say_lost(what: str) -> None:
    """One line for what this rank can't go on without."""
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "?"))
    print(f"barlow: error: rank {rank} has lost {what}", file=sys.stderr, flush=True)


def _lost_contact(error: Exception) -> bool:
    """Whether a collective failed because a peer is gone. gloo and NCCL say so in their texts only."""
    text = str(error)
    gloo = "gloo" in text and ("by peer" in text or "Broken pipe" in text)
    return isinstance(error, RuntimeError) and (gloo or "remote process exited" in text)
