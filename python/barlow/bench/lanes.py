"""Here: a lane: one pipeline in a process of its own, seen from the parent.

Not here: the order of rounds. A process each, because peers bring thread pools, memory allocators and now and
then a crash, none of which may reach the pipeline that is timed next.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import tempfile
import threading
from types import TracebackType
from typing import Any

from barlow.bench.pipelines.job import Job

START_LIMIT_S = 300
ROUND_LIMIT_S = 1800


class Failed(Exception):
    """The lane cannot go on; the text is its reason in one line."""


class Lane:
    """Starts the process and builds its pipeline. `Failed` from any method; `close` it then, too."""

    def __init__(self, job: Job) -> None:
        self.job = job
        # A file and not a pipe: nobody reads along, and a full pipe would stop the process.
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "barlow.bench.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
        )  # fmt: skip
        self.workers: str = ""
        """What works in it, as the pipeline says."""

    def start(self) -> None:
        """Waits until the pipeline is built."""
        self.workers = self._ask(dataclasses.asdict(self.job), START_LIMIT_S)["workers"]

    def round(self, turn: int, *, check: bool = False) -> dict[str, Any]:
        """See `worker.timed_round`."""
        return self._ask({"turn": turn, "check": check}, ROUND_LIMIT_S)

    def close(self) -> None:
        """Ends the process, kindly at first."""
        if self._process.stdin and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Lane:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:  # Ctrl-C above all: nobody waits for the rest of a round
            self._process.kill()
        self.close()

    def _ask(self, message: dict[str, Any], limit_s: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        overdue = threading.Event()
        watch = threading.Timer(limit_s, lambda: (overdue.set(), self._process.kill()))
        watch.daemon = True  # Ctrl-C may come while it starts; nobody shall wait for it then
        try:
            watch.start()
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            watch.cancel()
        if not line:
            raise Failed(f"no answer within {limit_s:g} s" if overdue.is_set() else self._last_words())
        answer = json.loads(line)
        if "failed" in answer:
            raise Failed(answer["failed"])
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        words = [line.strip() for line in self._errors if line.strip()]
        end = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"{end}: {words[-1]}" if words else end
