"""Here: what SIGTERM and SIGUSR1 mean to a process of a run: a wish to stop, and the second time an order.

Not here: agreeing with the other ranks (`distributed.py`), saving (`loop.py`), passing signals on
(`launch.py`). Imports no torch: the launcher needs the rule before there is time for that.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What schedulers send before they take a machine away; SLURM's `--signal` and `scancel` among them."""
COPIES_S = 1.0
"""A scheduler that signals a whole group reaches a rank twice: by itself, and through the launcher that
passes its own signal on. So what follows the first signal within this time is the same request."""


class Requests:
    """Counts requests to stop. `number` is that of the signal that made the first, 0 before."""

    def __init__(self) -> None:
        self.number = 0
        self._first_s = 0.0

    def count(self, number: int) -> int:
        """1 for the first request, 0 for a copy of it, 2 for one that was made anew."""
        now_s = time.monotonic()
        if self.number == 0:
            self.number, self._first_s = number, now_s
            return 1
        return 2 if now_s - self._first_s >= COPIES_S else 0


class Stop:
    """While it is entered, a first SIGTERM or SIGUSR1 only sets `number`; a second one ends the process.

    The second has to work in whatever the main thread hangs: a collective whose peer is gone, a device, a
    file system. Python runs handlers in the main thread, between two of its instructions; only the number of
    a signal is written to a pipe at once, so a thread reads that. It sleeps otherwise, and nothing polls.

    Outside the main thread, where Python forbids handlers, it changes nothing and `number` stays 0.
    """

    def __init__(self) -> None:
        self._requests = Requests()
        self._undo = contextlib.ExitStack()

    @property
    def number(self) -> int:
        """Of the signal that asked to stop; 0: none has."""
        return self._requests.number

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            reader, writer = os.pipe()
            os.set_blocking(writer, False)  # a signal handler must never wait
            thread = threading.Thread(target=self._listen, args=(reader,), name="barlow-stop", daemon=True)
            thread.start()
            # Backwards: the handlers go first, and the end of the pipe ends the thread.
            self._undo.callback(os.close, reader)
            self._undo.callback(thread.join)
            self._undo.callback(os.close, writer)
            before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
            self._undo.callback(signal.set_wakeup_fd, before)
            for number in SIGNALS:
                self._undo.callback(_restore, number, signal.signal(number, _heard_elsewhere))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def _listen(self, reader: int) -> None:
        while numbers := os.read(reader, 64):
            for number in numbers:  # Ctrl-C's comes through here as well
                if number in SIGNALS and self._requests.count(number) == 2:
                    end_at_once(number)


def end_at_once(number: int) -> NoReturn:
    """Ends this process by a second signal, with one line; nothing else is tidied up or waited for."""
    os.write(2, f"barlow: {signal.Signals(number).name} again: ended without a checkpoint\n".encode())
    os._exit(exit_code(number))


def exit_code(number: int) -> int:
    """Of a process that a signal has stopped, as shells give it: 143 for SIGTERM, 138 for SIGUSR1."""
    return 128 + number


def _heard_elsewhere(number: int, frame: FrameType | None) -> None:
    """Python wants a handler, or the signal's number never reaches the pipe."""


def _restore(number: signal.Signals, before: Any) -> None:
    # None: it was not Python's, and nothing can bring it back.
    signal.signal(number, signal.SIG_DFL if before is None else before)
