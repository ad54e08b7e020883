"""Here: what a command says when it is stopped: that the same command goes on, where its work is kept.

Not here: keeping the work, tidying up; training, which finishes its step and saves first (train/).
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType

from barlow.train.preempt import SIGNALS, end_at_once, exit_code, listening
from barlow.train.ranks import in_rank

_GOES_ON = "the same command goes on from what is saved"


@contextlib.contextmanager
def goes_on(*, alone: bool = True) -> Iterator[None]:
    """Inside, Ctrl-C, SIGTERM and SIGUSR1 end the command with one line; exit codes 130, 143 and 138.

    Not `alone`: the block has processes that it stops at a signal itself, and ends in such a `SystemExit`.
    A rank of torchrun or srun says nothing at SIGTERM, which it is also sent when another one has failed.
    """
    try:
        with listening(_end) if alone and not in_rank() else contextlib.nullcontext():
            yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {_GOES_ON}") from None
    except SystemExit as stop:
        for number in SIGNALS:
            if stop.code == exit_code(number):
                print(f"barlow: {_words(number)}", file=sys.stderr, flush=True)
        raise


@contextlib.contextmanager
def leaves_nothing() -> Iterator[None]:
    """Inside, SIGTERM and SIGUSR1 end the command as Ctrl-C does, by an exception: what is unfinished is
    tidied up. One line, exit codes 143 and 138. For the main thread."""
    before = {number: signal.signal(number, _raise) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise(number: int, frame: FrameType | None) -> None:
    print(f"barlow: {_stopped_by(number)}", file=sys.stderr, flush=True)
    raise SystemExit(exit_code(number))


def _end(number: int) -> None:
    end_at_once(number, _words(number))


def _words(number: int) -> str:
    return f"{_stopped_by(number)}; {_GOES_ON}"


def _stopped_by(number: int) -> str:
    return f"stopped by {signal.Signals(number).name}"
