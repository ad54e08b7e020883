"""Here: what a command whose work is kept says when it is stopped: that the same command goes on.

Not here: keeping the work; training, which finishes its step and saves first (train/).
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator

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


def _end(number: int) -> None:
    end_at_once(number, _words(number))


def _words(number: int) -> str:
    return f"stopped by {signal.Signals(number).name}; {_GOES_ON}"
