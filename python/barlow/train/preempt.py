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
from collections.abc import Callable, Iterator
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


@contextlib.contextmanager
def listening(hear: Callable[[int], object]) -> Iterator[None]:
    """Inside, SIGTERM and SIGUSR1 do nothing but call `hear` with their number, in a thread and at once.

    It has to work in whatever the main thread hangs: a collective whose peer is gone, a device, a file
    system. Python runs handlers in the main thread, between two of its instructions; only the number of a
    signal is written to a pipe at once, so a thread reads that. It sleeps otherwise, and nothing polls.

    Outside the main thread, where Python forbids handlers, it changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def listen(reader: int) -> None:
        while numbers := os.read(reader, 64):
            for number in numbers:  # Ctrl-C's comes through here as well
                if number in SIGNALS:
                    hear(number)

    with contextlib.ExitStack() as undo:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)  # a signal handler must never wait
        thread = threading.Thread(target=listen, args=(reader,), name="barlow-stop", daemon=True)
        thread.start()
        # Backwards: the handlers go first, and the end of the pipe ends the thread.
        undo.callback(os.close, reader)
        undo.callback(thread.join)
        undo.callback(os.close, writer)
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        undo.callback(signal.set_wakeup_fd, before)
        for number in SIGNALS:
            undo.callback(_restore, number, signal.signal(number, _heard_elsewhere))
        yield


class Stop:
    """While it is entered, a first SIGTERM or SIGUSR1 only sets `number`; a second one ends the process.

    Outside the main thread it changes nothing and `number` stays 0 (`listening`).
    """

    def __init__(self) -> None:
        self._requests = Requests()
        self._undo = contextlib.ExitStack()

    @property
    def number(self) -> int:
        """Of the signal that asked to stop; 0: none has."""
        return self._requests.number

    def __enter__(self) -> Stop:
        self._undo.enter_context(listening(self._hear))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def _hear(self, number: int) -> None:
        if self._requests.count(number) == 2:
            end_at_once(number)


def end_at_once(number: int, words: str = "") -> NoReturn:
    """Ends this process by a signal with one line, by default that of a second one.

    Nothing else is tidied up or waited for.
    """
    words = words or f"{signal.Signals(number).name} again: ended at once, without saving"
    os.write(2, f"barlow: {words}\n".encode())
    os._exit(exit_code(number))


def exit_code(number: int) -> int:
    """Of a process that a signal has stopped, as shells give it: 143 for SIGTERM, 138 for SIGUSR1."""
    return 128 + number


def _heard_elsewhere(number: int, frame: FrameType | None) -> None:
    """Python wants a handler, or the signal's number never reaches the pipe."""


def _restore(number: signal.Signals, before: Any) -> None:
    # None: it was not Python's, and nothing can bring it back.
    signal.signal(number, signal.SIG_DFL if before is None else before)
