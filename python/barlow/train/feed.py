"""Here: how a batch reaches the GPU: bytes by a stream of their own, into one of two sets of buffers.

Not here: loading, what becomes of the bytes (data/device.py), other ways to the device (a stage that hands
out floats has been there already, and its views pass through).

Nothing here makes the host wait. A step's kernels are queued long before they have run, so when the host
comes back for the next batch, this step is still at work on one set of buffers, and the copy into the other
set runs beside it. Taking a batch earlier than that would gain nothing, and would have to be undone when a
run is saved.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Feed:
    """Calls bring this rank's views to `device`; on a CPU, and for floats, they come back as they are.

    What a call returns is valid until the call after the next one begins: its memory is used again then, once
    the kernels that were queued up to then have run. Page-locked views may be let go of at once: torch's
    allocator waits for copies that are under way.
    """

    def __init__(self, device: torch.device) -> None:
        self._gpu = device if device.type == "cuda" else None
        self._stream = torch.cuda.Stream(device) if self._gpu else None
        self._buffers: list[list[Tensor]] = [[], []]
        self._free: list[torch.Event | None] = [None, None]
        """Recorded when everything that reads a set of buffers has been queued."""
        self._turn = 0

    def __call__(self, views_u8: Sequence[Tensor]) -> list[Tensor]:
        """The views on the device; kernels that are queued from now on see them whole."""
        if self._gpu is None or self._stream is None or views_u8[0].is_floating_point():
            return list(views_u8)
        work = torch.cuda.current_stream(self._gpu)
        self._free[self._turn] = work.record_event()  # of the views given last: their step has been queued
        self._turn = 1 - self._turn
        buffers = self._take(views_u8)
        with torch.cuda.stream(self._stream):
            # A set that has never been used has no event; new memory may still be read by earlier kernels.
            if (free := self._free[self._turn]) is not None:
                self._stream.wait_event(free)
            for buffer, view in zip(buffers, views_u8, strict=True):
                buffer.copy_(view, non_blocking=True)
            copied = self._stream.record_event()
        work.wait_event(copied)
        return buffers

    def _take(self, views_u8: Sequence[Tensor]) -> list[Tensor]:
        """This turn's buffers, made anew for views of other shapes."""
        buffers = self._buffers[self._turn]
        if [b.shape for b in buffers] != [v.shape for v in views_u8]:
            assert self._stream is not None
            buffers = [torch.empty_like(view, device=self._gpu) for view in views_u8]
            # Memory comes from the stream of the step, in whose order it was free: the copy must wait for it;
            # and when it goes back, a copy that nobody waited for may still write.
            self._free[self._turn] = torch.cuda.current_stream(self._gpu).record_event()
            for buffer in buffers:
                buffer.record_stream(self._stream)
            self._buffers[self._turn] = buffers
        return buffers
