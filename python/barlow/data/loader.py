"""Here: `Loader`, which lends memory to the native stream of batches and hands them out as tensors.

Not here: order, decoding, augmentation, threads (Rust); normalisation (`device.py`).
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor

from barlow import _native
from barlow.data.source import Source, open_index
from barlow.data.views import View

_STATS = (
    "images", "bytes", "read_s", "decode_s", "augment_s", "waited_s", "threads", "lent", "finished",
)  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """This rank's part of one global batch, N samples. The memory is the receiver's, for good."""

    views: list[Tensor]
    """uint8 [N, 3, H, W] for each view, RGB, pinned if asked for."""
    labels: Tensor
    """int64 [N]; -1 where there is none."""
    ids: Tensor
    """int64 [N]: positions in the index."""
    epoch: int
    step: int


class Loader:
    """Batches of augmented views, the same for every number of threads, processes and kind of storage.

    One pass of `for batch in loader` is the rest of the current epoch; the next pass is the next epoch,
    which has been prepared meanwhile. What a batch holds is a function of `seed`, its epoch and its step.

    - `source`: see `barlow.data.open_index`. `views`: what is cut from each image (decoded once).
    - `batch_size`: of the global batch; this `rank` of `world_size` gets its slice of it.
    - `drop_last`: drops the short last batch of an epoch; otherwise it comes with what is left, which may
      differ by one between ranks.
    - `epochs`: the stream ends after so many epochs in all; None: never.
    - `threads`: 0 is every core that this process may run on.
    - `prefetch`: batches in flight. Memory: (`prefetch` + the batches you hold) * (`batch_size` /
      `world_size`) * sum over views of 3 * size**2 bytes, and for each thread one decoded image (3 bytes
      a pixel), its file and the scratch of one augmentation.

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
    ) -> None:
        _whole("seed", seed, 0, 2**64 - 1)
        self._threads = _whole("threads", threads, 0, 4096)
        self._prefetch = _whole("prefetch", prefetch, 1, 4096)
        self._end_epoch = None if epochs is None else _whole("epochs", epochs, 1, 2**32 - 1)
        _whole("batch_size", batch_size, 1, 2**32 - 1)
        _whole("world_size", world_size, 1, 2**32 - 1)
        _whole("rank", rank, 0, world_size - 1)
        if not views:
            raise ValueError("views must hold at least one view")
        for view in views:
            _native.check_view(view)
        if pin_memory and not torch.cuda.is_available():
            raise ValueError("pin_memory=True needs a GPU")
        self.index = open_index(source, threads=threads)
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
        self._pin_memory = pin_memory
        self._epoch, self._step = 0, 0
        self._stream: _native.Loader | None = None
        self._finalizer: weakref.finalize | None = None
        self._lent: deque[Batch] = deque()
        self._past: dict[str, float] = dict.fromkeys(_STATS, 0)
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
        self._stop()
        self._epoch, self._step = epoch, step

    def stats(self) -> dict[str, float]:
        """What has been done since construction.

        `images` delivered, `bytes` read; `read_s`, `decode_s`, `augment_s`: seconds of work summed over
        threads; `waited_s`: seconds this process waited for batches. Of now: `threads`, batches `lent`
        to them, and how many of these are `finished`.
        """
        stream = self._stream
        if stream is None or stream.forked:
            return dict(self._past)
        return {name: value + self._past[name] for name, value in stream.stats().items()}

    def close(self) -> None:
        """Ends the threads, within the time of one image. Idempotent; iterating afterwards is an error."""
        self._closed = True
        self._stop()

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next(self) -> Batch:
        stream = self._stream or self._start()
        if stream.forked:
            raise RuntimeError(
                "this process was forked off after the loader had started; make a new one here"
            )
        try:
            self._lend(stream)
            stream.take()
            batch = self._lent.popleft()
            self._lend(stream)
        except BaseException:
            # Whatever it was (Ctrl-C between two lines included), the position has not moved, and a
            # new stream from there has no half-known state.
            self._stop()
            raise
        last = batch.step + 1 == len(self)
        self._epoch, self._step = (batch.epoch + 1, 0) if last else (batch.epoch, batch.step + 1)
        return batch

    def _start(self) -> _native.Loader:
        if self._closed:
            raise ValueError("the loader is closed")
        stream = _native.Loader(
            self.index,
            self.views,
            self._order,
            threads=self._threads,
            epoch=self._epoch,
            step=self._step,
            end_epoch=self._end_epoch,
        )
        # Also at interpreter exit, while the lent memory is still there.
        self._finalizer = weakref.finalize(self, stream.close)
        self._stream = stream
        return stream

    def _lend(self, stream: _native.Loader) -> None:
        """Lends fresh memory until `prefetch` batches are in flight."""
        pin = self._pin_memory
        while len(self._lent) < self._prefetch and (wanted := stream.wanted()) is not None:
            epoch, step, rows = wanted
            shapes = [(rows, 3, view.size, view.size) for view in self.views]
            views = [torch.empty(shape, dtype=torch.uint8, pin_memory=pin) for shape in shapes]
            labels, ids = (torch.empty(rows, dtype=torch.int64, pin_memory=pin) for _ in range(2))
            stream.lend([view.numpy() for view in views], labels.numpy(), ids.numpy())
            self._lent.append(Batch(views, labels, ids, epoch, step))

    def _stop(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
            self._past = {**self.stats(), "threads": 0, "lent": 0, "finished": 0}
        self._stream, self._finalizer = None, None
        self._lent.clear()


def _whole(name: str, value: int, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, not {value!r}")
    return value
