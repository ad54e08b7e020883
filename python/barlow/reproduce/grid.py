"""Here: all cells of a grid, some at a time, each in a process of its own, until they are done or time is up.

Not here: what a cell does (cell.py), which cells there are (plan.py), tables of what they came to.

Nothing but the cells' folders says how far a grid is. So it may end at any moment in any way, and several
commands on one folder share its cells: a cell that another process has locked is passed over and waited for.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import FrameType

from barlow.reproduce import cell
from barlow.reproduce.cell import Task
from barlow.train.lock import is_held

_LOOK_S = 0.5
"""Seconds between two looks at the cells."""
_PRELOADED = ("barlow.train.loop", "barlow.evaluate")
"""What every cell imports: once, in the process that all are forked from, instead of seconds in each."""


@dataclass
class Work:
    """One folder of a grid, and how it stands."""

    name: str
    row: str
    folder: Path
    task: Task
    process: ForkServerProcess | None = None
    began_s: float = 0.0
    seconds: float = 0.0
    """How long it took, if it was done here."""
    error: str = ""
    """What ended it before it was done; the next start tries again."""
    elsewhere: bool = False
    """Whether another process is at it."""
    lane: int = 0

    @property
    def done(self) -> bool:
        """Whether its result is on the disk."""
        return cell.result(self.folder) is not None


class Stopped(Exception):
    """A signal asked the grid to stop; all cells are saved."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def run(
    works: Sequence[Work],
    *,
    jobs: int,
    until_s: float = float("inf"),
    tell: Callable[[Sequence[Work], Work | None], None],
) -> bool:
    """Works through the cells, `jobs` at a time; whether all are done.

    `tell(works, one)` is called whenever `one` has ended, and twice a second with None. At `until_s`
    (`time.monotonic`) and at SIGTERM or Ctrl-C running cells are stopped with a checkpoint; after a signal
    `Stopped` follows. A cell that fails does not keep the others from being done.
    """
    with _Lanes(jobs) as lanes, _signals() as received:
        waiting = [work for work in works if not work.done]
        while waiting or lanes.running:
            if received or time.monotonic() >= until_s:
                lanes.stop()
                break
            for work in lanes.ended():
                tell(works, work)
                if work.elsewhere:
                    waiting.append(work)
            while waiting and lanes.free and (work := _next(waiting)):
                lanes.start(work)
            tell(works, None)
            time.sleep(_LOOK_S)
    if received:
        raise Stopped(received[0])
    return all(work.done for work in works)


def _next(waiting: list[Work]) -> Work | None:
    """Takes the first one that nobody else is at out of the list; those done elsewhere go, too."""
    for work in list(waiting):
        if work.done:
            waiting.remove(work)
        elif not is_held(work.folder):
            waiting.remove(work)
            work.elsewhere = False
            return work
        else:
            work.elsewhere = True
    return None


class _Lanes:
    """The processes, each on its share of the cores."""

    def __init__(self, jobs: int) -> None:
        cores = sorted(os.sched_getaffinity(0))
        # One lane runs wherever this process may; several would otherwise all take all cores.
        self._cores = [cores[lane::jobs] or [cores[lane % len(cores)]] for lane in range(jobs)]
        if jobs == 1:
            self._cores = [[]]
        self._fork = multiprocessing.get_context("forkserver")
        self._fork.set_forkserver_preload(list(_PRELOADED))
        self._busy: dict[int, Work] = {}

    def __enter__(self) -> _Lanes:
        return self

    def __exit__(self, *_: object) -> None:
        for work in self._busy.values():
            if work.process is not None:
                work.process.kill()

    @property
    def running(self) -> bool:
        return bool(self._busy)

    @property
    def free(self) -> bool:
        return len(self._busy) < len(self._cores)

    def start(self, work: Work) -> None:
        work.lane = next(lane for lane in range(len(self._cores)) if lane not in self._busy)
        work.folder.mkdir(parents=True, exist_ok=True)
        work.task.write(work.folder)
        work.began_s, work.error = time.monotonic(), ""
        work.process = self._fork.Process(target=cell.work, args=(work.folder, self._cores[work.lane]))
        work.process.start()
        self._busy[work.lane] = work

    def ended(self) -> list[Work]:
        """Those that have ended since the last call."""
        found = []
        for lane, work in list(self._busy.items()):
            assert work.process is not None
            if work.process.exitcode is None:
                continue
            del self._busy[lane]
            _close(work)
            found.append(work)
        return found

    def stop(self) -> None:
        """Asks all for a checkpoint and waits for them; a second signal ends them at once."""
        for work in self._busy.values():
            if work.process is not None and work.process.pid is not None:
                work.process.terminate()
        for work in self._busy.values():
            if work.process is not None:
                work.process.join()
                _close(work)
        self._busy.clear()


def _close(work: Work) -> None:
    assert work.process is not None
    code = work.process.exitcode
    work.process.close()
    work.process = None
    work.elsewhere = code == cell.BUSY
    if work.done:
        work.seconds = time.monotonic() - work.began_s
    elif not work.elsewhere:
        how = f"exit code {code}" if code is not None and code >= 0 else f"killed by signal {-(code or 0)}"
        work.error = f"{how}; {work.folder / cell.LOG} says more"


@contextlib.contextmanager
def _signals():
    """Inside, SIGTERM and Ctrl-C are noted in the list that is given; a second one is as ever."""
    received: list[int] = []
    before = {}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before[number])

    try:
        before |= {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
