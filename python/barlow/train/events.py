"""Here: a run's numbers as TensorBoard events.

Not here: which numbers, the JSON lines that they are drawn from (metrics.py).

tensorboardX's usual writer hands events to a thread of its own over a queue of ten. Where the disk is full
that thread dies, the queue fills, and whoever adds the next number waits for ever. So the file beneath it is
written directly, and one that can't be written any more is given up: it holds nothing that the lines lack.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.summary import scalar

FOLDER_NAME = "tensorboard"
_FLUSH_EVERY_S = 60.0


class Events:
    """A new file of events in `run/tensorboard/`, in place of those there. It never raises `OSError`."""

    def __init__(self, run: Path) -> None:
        self._writer: EventsWriter | None = None
        self._flushed_s = time.monotonic()
        try:
            folder = run / FOLDER_NAME
            folder.mkdir(exist_ok=True)
            for events in folder.glob("events.out.tfevents.*"):
                events.unlink()
            self._writer = EventsWriter(str(folder / "events"))
        except OSError as error:
            self._give_up(error)

    def add(self, numbers: Mapping[str, float], step: int, wall_time_s: float) -> None:
        """Adds the numbers of a step; seen by a reader within a minute."""
        if self._writer is None:
            return
        try:
            for name, number in numbers.items():
                self._writer.write_event(
                    Event(wall_time=wall_time_s, step=step, summary=scalar(name, number))
                )
            if time.monotonic() - self._flushed_s > _FLUSH_EVERY_S:
                self._flushed_s = time.monotonic()
                self._writer.flush()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Flushes and closes the file."""
        if self._writer is None:
            return
        try:
            self._writer.close()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        writer, self._writer = self._writer, None
        with contextlib.suppress(OSError):
            if writer is not None:
                writer.close()
        warnings.warn(
            f"TensorBoard's curves end here ({error.strerror}); a resumed run draws them anew", stacklevel=4
        )
