"""Here: `staged`, which puts a device stage behind a loader, and `StagedLoader`, which reads ahead through
one.

Not here: the stage itself (`dali/stage.py`), its choice by measurement (`choice.py`), the stage "none"
(`device.py`: whoever trains copies and normalises the uint8 views).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import torch

from barlow._native import DataError, Index
from barlow.data.dali.installed import missing
from barlow.data.loader import Batch, HandOver, Loader
from barlow.data.stats import Stats
from barlow.data.verify import damaged
from barlow.data.views import View

if TYPE_CHECKING:
    from barlow.data.dali.stage import DaliStage

StageName = Literal["none", "dali", "dali_decode"]
HAND_OVER: dict[str, HandOver] = {"none": "views", "dali": "crops", "dali_decode": "encoded"}
"""What the loader of each stage is made with."""


def check_stage(name: str) -> None:
    """`ValueError` in one line, saying what to install, if the stage of this name cannot be had here."""
    if name in ("dali", "dali_decode") and (line := missing()):
        raise ValueError(f"device stage {name}: {line}")


def staged(
    loader: Loader,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    threads: int = 0,
) -> Loader | StagedLoader:
    """The loader with the device stage behind it that its `hand_over` asks for.

    - "views": the loader itself; its uint8 views go through `to_float`.
    - "crops": DALI applies the operations that Rust drew, and normalises.
    - "encoded": DALI decodes, too.

    With DALI the views of a batch are floats, [N, 3, size, size] channels last, as `normalise` gives them,
    in `dtype` on `device`. `threads`: DALI's on the host where it decodes or there is no GPU, else it has
    two; 0 is as many as torch has. `ValueError` says what to install if DALI is missing or too old.
    """
    if loader.hand_over == "views":
        return loader
    check_stage("dali_decode" if loader.hand_over == "encoded" else "dali")
    from barlow.data.dali.stage import DaliStage

    device, decodes = torch.device(device), loader.hand_over == "encoded"
    all_cores = decodes or device.type == "cpu"
    stage = DaliStage(
        loader.views,
        batch_size=loader.most_rows,
        mean=mean,
        std=std,
        device=device,
        dtype=dtype,
        decodes=decodes,
        # What is left for the host: handing on what others have made.
        threads=(threads or torch.get_num_threads()) if all_cores else 2,
    )
    return StagedLoader(loader, stage)


class StagedLoader:
    """A `Loader` whose batches have been through a device stage: same batches, same order, same position.

    The stage works `depth` batches ahead; `state_dict` counts those handed out. An error comes when it is the
    turn of its batch, and the position stays, as in a `Loader`.
    """

    def __init__(self, loader: Loader, stage: DaliStage) -> None:
        self.loader, self._stage = loader, stage
        self._source: Iterator[Batch] | None = None
        self._ahead: deque[Batch] = deque()
        self._failure: Exception | None = None
        self._position: dict[str, int] = loader.state_dict()
        self._waited_s = 0.0
        self._closed = False

    @property
    def index(self) -> Index:
        """The loader's samples."""
        return self.loader.index

    @property
    def views(self) -> tuple[View, ...]:
        """The loader's views."""
        return self.loader.views

    def __len__(self) -> int:
        """Steps of one epoch."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        """The batches from the current position to the end of its epoch."""
        while (batch := self._next()) is not None:
            yield batch
            if self._position["step"] == 0:
                return

    def ready(self, timeout_s: float = 0.0) -> bool:
        """Waits up to `timeout_s` for what the next batch is made of, and what is read ahead with it; whether
        taking it will wait for no more reading. See `Loader.ready`."""
        return self._read_ahead(timeout_s)

    def state_dict(self) -> dict[str, int]:
        """The position of the batch that comes next; see `Loader.state_dict`."""
        return dict(self._position)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Goes on at a position; see `Loader.load_state_dict`."""
        self.loader.load_state_dict(state)
        self._drop()
        self._position = self.loader.state_dict()

    @property
    def damaged(self) -> list[tuple[int, DataError]]:
        """See `Loader.damaged`; those of the batches ahead are in it already."""
        return self.loader.damaged

    def stats(self) -> Stats:
        """Those of the loader, which runs ahead; `waited_s` is with the wait for the stage."""
        stats = self.loader.stats()
        return replace(stats, waited_s=stats.waited_s + self._waited_s)

    def close(self) -> None:
        """Ends the threads and the pipeline. Idempotent; iterating afterwards is an error."""
        self._closed = True
        self.loader.close()
        self._drop()

    def __enter__(self) -> StagedLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next(self) -> Batch | None:
        """The next batch; None at the end of the stream. After any exception everything ahead is dropped and
        the loader is back where the consumer is."""
        if self._closed:
            raise ValueError("the loader is closed")
        try:
            self._read_ahead()
            if not self._ahead:
                if self._failure is not None:
                    raise self._failure
                return None
            begin_s = time.perf_counter()
            views = self._stage.take()
            self._waited_s += time.perf_counter() - begin_s
            batch = self._ahead.popleft()
            self._read_ahead(0.0)  # so that the stage has work while the consumer has its own
        except BaseException as error:
            named = self._culprit(error)
            self._rewind()
            if named is not None:
                raise named from error
            raise
        last = batch.step + 1 == len(self)
        epoch, step = (batch.epoch + 1, 0) if last else (batch.epoch, batch.step + 1)
        self._position = {"epoch": epoch, "step": step}
        return replace(batch, views=views, cuts=[], steps=[], encoded=[])

    def _read_ahead(self, timeout_s: float | None = None) -> bool:
        """Fills the stage; whether that was done within `timeout_s` seconds for each batch (None: it is)."""
        while len(self._ahead) < self._stage.depth and self._failure is None:
            if timeout_s is not None and not self.loader.ready(timeout_s):
                return False
            if self._source is None:
                self._source = endless(self.loader)
            try:
                batch = next(self._source)
            except StopIteration:
                return True
            except Exception as error:  # the batches before it are whole, and come first
                self._failure = error
                return True
            self._ahead.append(batch)
            self._stage.submit(batch)
        return True

    def _culprit(self, error: BaseException) -> DataError | None:
        """The damaged image because of which DALI failed, with its address: decoded here, one after the
        other."""
        if self.loader.hand_over != "encoded" or not isinstance(error, RuntimeError):
            return None
        ids = [sample for batch in self._ahead for sample in batch.ids.tolist()]
        found = damaged(self.loader.index.subset(ids), threads=1)
        return found[0][1] if found else None

    def _rewind(self) -> None:
        self._drop()
        self.loader.load_state_dict(self._position)

    def _drop(self) -> None:
        self._source, self._failure = None, None
        self._ahead.clear()
        self._stage.clear()


AnyLoader = Loader | StagedLoader
"""Batches from the first epoch to the last, with or without a device stage."""


def endless(loader: AnyLoader) -> Iterator[Batch]:
    """Epoch after epoch, until the stream ends."""
    while True:
        batch = None
        for batch in loader:
            yield batch
        if batch is None:
            return
