"""Here: a batch that does not come: how long it is waited for, and what is said of the threads meanwhile.

Not here: waiting (loader.py).
"""

from __future__ import annotations

from barlow._native import Index, Loader

_GIVE_UP = 10
"""After how many reports of a stall it is an error."""


class Patience:
    """Counts the seconds that one batch has been waited for, in however many pieces."""

    def __init__(self, report_every_s: float) -> None:
        self._report_every_s = report_every_s
        self._waited_s, self._reports = 0.0, 0

    @property
    def left_s(self) -> float:
        """Seconds until the next report is due."""
        return (self._reports + 1) * self._report_every_s - self._waited_s

    @property
    def is_over(self) -> bool:
        """Whether there have been enough reports."""
        return self._reports >= _GIVE_UP

    def spend(self, waited_s: float) -> float:
        """Counts so many seconds more; those waited in all if a report is due by that, else 0."""
        self._waited_s += waited_s
        if self.left_s > 0:
            return 0.0
        self._reports += 1
        return self._reports * self._report_every_s

    def renew(self) -> None:
        """For the next batch."""
        self._waited_s, self._reports = 0.0, 0


def described(index: Index, stream: Loader, symptom: str) -> str:
    """A sentence about a stream that does not get on: what each of its threads is at, and for how long."""
    threads = []
    for number, activity, sample, since_s in stream.doing():
        place = (
            ""
            if activity == "idle"
            else f" {_printable(index.shard(sample))}: {_printable(index.name(sample))}"
        )
        threads.append(f"barlow-{number}: {activity}{place} for {since_s:.1f} s")
    return f"{symptom}; threads: " + "; ".join(threads)


def _printable(name: object) -> str:
    return ascii(str(name))[1:-1]
