"""Here: `Loader`, which lends memory to the native stream of batches and hands them out as tensors.

Not here: order, decoding, augmentation, threads (Rust); normalisation (`device.py`).
"""

from __future__ import annotations

import logging
import math
import time
import warnings
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from barlow import _native
from barlow._native import DataError
from barlow.data.source import Source, open_index
from barlow.data.stalls import Patience, described
from barlow.data.stats import Stats, stats_of
from barlow.data.views import View

HandOver = Literal["views", "crops", "encoded"]

_Taken = tuple[int, list[tuple[int, DataError]], list[list[bytes | None]], list[NDArray[np.uint8]]]
"""Samples replaced, those found damaged, extra members, encoded images."""

CLOSE_S = 1.0
"""How long `close` waits for threads; an image takes milliseconds, a read from a dead disk for ever."""
_ERROR_S = 0.05
"""The same after an exception, Ctrl-C among them: it is to be heard at once."""

_log = logging.getLogger("barlow.data")


@dataclass(frozen=True)
class Batch:
    """This rank's part of one global batch, N samples.

    The memory is the receiver's for as long as anything of it is referred to: a view, a slice, an array.
    """

    views: list[Tensor]
    """uint8 [N, 3, H, W] for each view, RGB, pinned if asked for; floats where a device stage has been."""
    labels: Tensor
    """int64 [N]; -1 where there is none."""
    ids: Tensor
    """int64 [N]: positions in the index, of what is in the row (also where it replaces another sample)."""
    epoch: int
    step: int
    members: dict[str, list[bytes | None]] = field(default_factory=dict)
    """For each of the loader's `members` N times the bytes, of what is in the row; None where it has none."""
    cuts: list[Tensor] = field(default_factory=list)
    """Unless `hand_over` is "views", for each view int32 [N, 8]: x, y, width and height of the window in the
    image, width and height that it is resized to, x and y of the square cut out of that."""
    steps: list[Tensor] = field(default_factory=list)
    """The same: for each view float32 [N, K, 2], code and value of the operations left to do
    (docs/dali.md)."""
    encoded: list[NDArray[np.uint8]] = field(default_factory=list)
    """With `hand_over` "encoded": the file of each row; `views` is empty then."""


class Loader:
    """Batches of augmented views, the same for every number of threads, processes and kind of storage.

    One pass of `for batch in loader` is the rest of the current epoch; the next pass is the next epoch,
    which has been prepared meanwhile. What a batch holds is a function of `seed`, its epoch and its step.
    It takes the place of a `DataLoader` (no workers: its threads need no GIL) and of a `StatefulDataLoader`.

    - `source`: see `barlow.data.open_index`. `views`: what is cut from each image (decoded once).
    - `batch_size`: of the global batch; this `rank` of `world_size` gets its slice of it.
    - `drop_last`: drops the short last batch of an epoch; otherwise it comes with what is left, which may
      differ by one between ranks.
    - `epochs`: the stream ends after so many epochs in all; None: never.
    - `threads`: 0 is every core that this process may run on.
    - `prefetch`: batches in flight. Memory: (`prefetch` + 1 + the batches you hold) * (`batch_size` /
      `world_size`) * sum over views of 3 * size**2 bytes, and for each thread one decoded image (3 bytes
      a pixel), its file and the scratch of one augmentation.
    - `pin_memory`: batches in page-locked memory of torch's caching allocator, which uses it again only
      after the copies to a GPU that were started from it.
    - `shrink_on_load`: JPEGs of more than a million pixels are decoded at 1/2, 1/4 or 1/8 of their size
      where every view of the image still has its pixels; False: always in full, as torchvision does.
    - `members`: extensions of extra members that come with each sample, such as ("json", "txt"), on top of
      the memory above; `Index.member_names` has those that there are. A damaged one damages its sample.
    - `on_error`: "raise", or "replace": another sample, drawn by (`seed`, epoch, damaged sample) alone,
      stands in for one whose bytes are damaged, under its own id and label. At most `max_replaced` (a
      share, rounded up) of the samples that this process takes in an epoch; more are an error. What is
      no sample's fault is an error always: a disk that fails, a shard that was changed since it was indexed.
    - `hand_over`: what a device stage (`barlow.data.staged`) needs to do the rest: "crops" are the views
      before any operation, with the drawn parameters; "encoded" are files and windows, not decoded here.
    - `stall_after`: seconds without a batch after which a `RuntimeWarning` says what each thread is at;
      after ten such reports it is a `TimeoutError`.

    `ValueError` names a bad argument; `DataError` (a `ValueError`) has the address of bad data. A batch
    that fails raises when it is its turn and the position stays: iterating again tries it again,
    `load_state_dict` goes elsewhere. For one consumer thread; after a fork the child needs its own.
    """

    def __init__(
        self,
        source: Source,
        *,
        views: Sequence[View],
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        threads: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        epochs: int | None = None,
        prefetch: int = 3,
        pin_memory: bool = False,
        shrink_on_load: bool = True,
        members: Sequence[str] = (),
        on_error: Literal["raise", "replace"] = "raise",
        max_replaced: float = 0.01,
        hand_over: HandOver = "views",
        stall_after: float = 60.0,
    ) -> None:
        _whole("seed", seed, 0, 2**64 - 1)
        _whole("threads", threads, 0, 4096)
        self._prefetch = _whole("prefetch", prefetch, 1, 4096)
        self._end_epoch = None if epochs is None else _whole("epochs", epochs, 1, 2**32 - 1)
        _whole("batch_size", batch_size, 1, 2**32 - 1)
        _whole("world_size", world_size, 1, 2**32 - 1)
        _whole("rank", rank, 0, world_size - 1)
        if on_error not in ("raise", "replace"):
            raise ValueError(f'on_error must be "raise" or "replace", not {on_error!r}')
        _number("max_replaced", max_replaced, 0, 1)
        if hand_over not in get_args(HandOver):
            raise ValueError(f"hand_over must be one of {get_args(HandOver)}, not {hand_over!r}")
        self.hand_over: HandOver = hand_over
        self._stall_after = _number("stall_after", stall_after, 1e-3, 1e6)
        self._patience = Patience(self._stall_after)
        if not views:
            raise ValueError("views must hold at least one view")
        for view in views:
            _native.check_view(view)
        if pin_memory and not torch.cuda.is_available():
            raise ValueError("pin_memory=True needs a GPU")
        if isinstance(members, str) or len(set(members)) < len(members):
            raise ValueError(f"members must be different extensions in a tuple or list, not {members!r}")
        self._members = tuple(members)
        self.index = open_index(source, threads=threads, members=bool(members))
        self.index.check_members(self._members)
        self.views = tuple(views)
        self._order = _native.Order(
            len(self.index),
            batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
            shuffle=shuffle,
            drop_last=drop_last,
        )
        self.most_rows = batch_size // world_size
        """Samples of this rank's batches; a short last one has fewer."""
        own_samples = min(len(self.index), len(self) * batch_size) / world_size
        self._max_replaced = math.ceil(max_replaced * own_samples) if on_error == "replace" else None
        self._shrink_on_load = shrink_on_load
        self._replaced = (0, 0)
        self._damaged: dict[int, DataError] = {}
        self._pool = None if pin_memory else _native.Pool((prefetch + 1) * len(views))
        self._meter = _native.Meter(threads)
        self._epoch, self._step = 0, 0
        self._stream: _native.Loader | None = None
        self._finalizer: weakref.finalize | None = None
        self._lent: deque[Batch] = deque()
        self._taken: _Taken | Exception | None = None
        """What the stream has said of the oldest lent batch, whose turn comes next."""
        self._asks = False
        self._closed = False

    def __len__(self) -> int:
        """Steps of one epoch."""
        return self._order.steps_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        """The batches from the current position to the end of its epoch."""
        while self._end_epoch is None or self._epoch < self._end_epoch:
            epoch = self._epoch
            yield self._next()
            if (self._epoch, self._step) == (epoch + 1, 0):
                return

    def state_dict(self) -> dict[str, int]:
        """The position of the batch that comes next. It is the whole state, and the same on every rank."""
        return {"epoch": self._epoch, "step": self._step}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Goes on at a position, also of a run with another number of processes or threads."""
        if state.keys() != {"epoch", "step"}:
            raise ValueError(f"state must have the keys epoch and step, not {sorted(state)}")
        epoch = _whole("state['epoch']", state["epoch"], 0, 2**32 - 1)
        step = _whole("state['step']", state["step"], 0, len(self) - 1)
        self._stop(CLOSE_S)
        self._epoch, self._step = epoch, step
        self._replaced = (epoch, 0)

    @property
    def damaged(self) -> list[tuple[int, DataError]]:
        """Position and error of each damaged sample met so far (`on_error="replace"`), in that order."""
        return list(self._damaged.items())

    def stats(self) -> Stats:
        """What has been done since construction, by stage; `print(loader.stats())` says what limits."""
        stream = self._stream
        running = stream is not None and not stream.forked
        lent, finished = stream.occupancy() if stream is not None and running else (0, 0)
        image_bytes = sum(3 * view.size**2 for view in self.views)
        raw = self._meter.stats()
        return stats_of(raw, lent=lent, finished=finished, running=running, image_bytes=image_bytes)

    def close(self) -> None:
        """Ends the threads, within the time of one image. Idempotent; iterating afterwards is an error.

        A thread whose read hangs is left behind after a second, and ends with its read.
        """
        self._closed = True
        self._stop(CLOSE_S)

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ready(self, timeout_s: float = 0.0) -> bool:
        """Waits up to `timeout_s` for the batch that comes next; whether taking it will wait no more.

        Also where taking it will raise, or where no more come. The position stays as it is.
        """
        if self._end_epoch is not None and self._epoch >= self._end_epoch:
            return True
        stream = self._stream or self._start()
        if stream.forked:
            raise RuntimeError(
                "this process was forked off after the loader had started; make a new one here"
            )
        if self._taken is None:
            try:
                if timeout_s > 0 and not self._asks:
                    self._asks = True
                    self._meter.ask()
                self._lend(stream)
                self._taken = self._take(stream, timeout_s)
            except Exception as error:
                self._taken = error  # of the batch whose turn it is not yet
            except BaseException:
                self._stop(_ERROR_S)
                raise
        return self._taken is not None

    def _next(self) -> Batch:
        while not self.ready(self._stall_after):
            pass
        stream, taken = self._stream, self._taken
        assert stream is not None
        assert taken is not None
        try:
            if isinstance(taken, Exception):
                raise taken
            if not self._asks:
                self._meter.ask()
            batch = self._lent.popleft()
            self._note(batch, *taken)
            self._taken, self._asks = None, False
            self._lend(stream)
            self._meter.answer()
        except BaseException:
            # Whatever it was (Ctrl-C between two lines included), the position has not moved, and a
            # new stream from there has no half-known state.
            self._stop(_ERROR_S)
            raise
        last = batch.step + 1 == len(self)
        self._epoch, self._step = (batch.epoch + 1, 0) if last else (batch.epoch, batch.step + 1)
        return batch

    def _start(self) -> _native.Loader:
        if self._closed:
            raise ValueError("the loader is closed")
        before = self._replaced[1] if self._replaced[0] == self._epoch else 0
        stream = _native.Loader(
            self.index,
            self.views,
            self._order,
            self._meter,
            epoch=self._epoch,
            step=self._step,
            end_epoch=self._end_epoch,
            shrink_on_load=self._shrink_on_load,
            replace=None if self._max_replaced is None else (self._max_replaced, before),
            members=self._members,
            hand_over=self.hand_over,
        )
        # Also at interpreter exit, while the lent memory is still there.
        self._finalizer = weakref.finalize(self, stream.close, CLOSE_S)
        self._stream = stream
        return stream

    def _lend(self, stream: _native.Loader) -> None:
        """Lends memory until `prefetch` batches are in flight."""
        pin = self._pool is None
        while len(self._lent) < self._prefetch and (wanted := stream.wanted()) is not None:
            epoch, step, rows = wanted
            labels, ids = (torch.empty(rows, dtype=torch.int64, pin_memory=pin) for _ in range(2))
            batch = Batch([], labels, ids, epoch, step)
            if self.hand_over != "encoded":
                batch.views.extend(self._empty((rows, 3, view.size, view.size)) for view in self.views)
            lent = [view.numpy() for view in batch.views]
            if self.hand_over != "views":
                # What is left of the arrays that are wanted are each view's cut, then each view's steps.
                sizes = stream.row_bytes()[len(lent) :]
                cuts, steps = sizes[: len(self.views)], sizes[len(self.views) :]
                batch.cuts.extend(torch.empty((rows, size // 4), dtype=torch.int32) for size in cuts)
                batch.steps.extend(torch.empty((rows, size // 8, 2)) for size in steps)
                numbers = (*batch.cuts, *(step.flatten(1) for step in batch.steps))
                lent += [number.numpy().view(np.uint8) for number in numbers]
            stream.lend(lent, labels.numpy(), ids.numpy())
            self._lent.append(batch)

    def _empty(self, shape: tuple[int, int, int, int]) -> Tensor:
        if self._pool is None:
            # Torch knows which copies to a GPU are under way, and its allocator keeps pinned memory.
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        return torch.from_numpy(self._pool.take(shape))

    def _take(self, stream: _native.Loader, timeout_s: float) -> _Taken | None:
        """Waits for the oldest lent batch; speaks up, and at last gives up, when that is too long in all."""
        begin_s = time.monotonic()
        taken = stream.take(min(timeout_s, self._patience.left_s))
        if taken is not None:
            self._patience.renew()
        elif waited_s := self._patience.spend(time.monotonic() - begin_s):
            batch = self._lent[0]
            where = f"epoch {batch.epoch}, step {batch.step}"
            stalled = described(self.index, stream, f"no batch for {waited_s:g} s ({where})")
            if self._patience.is_over:
                raise TimeoutError(stalled)
            warnings.warn(stalled, RuntimeWarning, stacklevel=5)
        return taken

    def _note(
        self,
        batch: Batch,
        replaced: int,
        damaged: Sequence[tuple[int, DataError]],
        members: Sequence[list[bytes | None]],
        encoded: Sequence[NDArray[np.uint8]],
    ) -> None:
        """What the stream has said of the batch: its part beside the tensors, and the samples replaced."""
        batch.encoded.extend(encoded)
        batch.members.update(zip(self._members, members, strict=True))
        before = self._replaced[1] if self._replaced[0] == batch.epoch else 0
        self._replaced = (batch.epoch, before + replaced)
        for sample, error in damaged:
            if self._damaged.setdefault(sample, error) is error:
                _log.warning("sample %d is damaged and was replaced: %s", sample, error)

    def _stop(self, patience_s: float) -> None:
        stream, finalizer = self._stream, self._finalizer
        self._stream, self._finalizer = None, None
        self._lent.clear()
        self._taken, self._asks = None, False
        self._patience.renew()
        if stream is not None and finalizer is not None:
            left = stream.close(patience_s)
            finalizer.detach()
            if left:
                _log.warning("%d loader threads hang in a read; they end with it", left)


def _whole(name: str, value: int, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, not {value!r}")
    return value


def _number(name: str, value: float, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise ValueError(f"{name} must be a number from {least:g} to {most:g}, not {value!r}")
    return value
