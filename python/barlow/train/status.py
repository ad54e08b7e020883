"""Here: how a run stands, in one small file of its folder: running, finished, stopped by a signal, failed.

Not here: reading many runs (listing.py), what makes a run end. Imports no torch, so that readers are quick.

A process that is killed can write nothing, so "running" is true only while somebody holds the folder's lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from barlow import durable

FILE_NAME = "status.json"


class Outcome:
    """`stopped_by` is the number of the signal that stopped the run, 0 if it came to its end."""

    stopped_by: int = 0


@contextlib.contextmanager
def told(run: Path | None) -> Iterator[Outcome]:
    """Inside the run is "running", afterwards what has become of it; None, for later ranks, writes nothing.

    An exception makes it "failed", with its words, and goes on; Ctrl-C makes it "stopped".
    """
    outcome = Outcome()
    if run is None:
        yield outcome
        return
    _write(run, "running", "")
    state, why = "failed", ""
    try:
        yield outcome
        state, why = (
            ("stopped", signal.Signals(outcome.stopped_by).name) if outcome.stopped_by else ("finished", "")
        )
    except (KeyboardInterrupt, SystemExit) as stop:
        code = stop.code if isinstance(stop, SystemExit) else 128 + signal.SIGINT
        interrupted = code == 128 + signal.SIGINT
        state, why = ("stopped", "SIGINT") if interrupted else ("failed", f"exit code {code}")
        raise
    except BaseException as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        raise
    finally:
        # Where the disk is what failed, the error that says so must come through.
        with contextlib.suppress(OSError):
            _write(run, state, why)


def _write(run: Path, state: str, why: str) -> None:
    status = {
        "state": state,
        "why": why,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since_s": time.time(),
    }
    durable.write_file(run / FILE_NAME, json.dumps(status, indent=2) + "\n")
