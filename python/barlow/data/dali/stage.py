"""Here: `DaliStage`, which feeds batches to DALI's pipeline and takes tensors out of it, in order.

Not here: the pipeline itself (`graph.py`), which batches come and when (`data/staged.py`).
"""

# The package is optional.
# pyright: reportMissingImports=false

from __future__ import annotations

import io
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from barlow import _native
from barlow.data.dali import graph
from barlow.data.loader import Batch
from barlow.data.views import GaussianBlur, View


class DaliStage:
    """Crops or encoded images in, normalised float views out, `depth` batches ahead.

    `submit` up to `depth` batches, then `take` one for each further one: their views in the order in which
    they were submitted, [N, 3, size, size] channels last in `dtype` on `device`, on torch's current stream,
    without a copy. Batches hold at most `batch_size` samples. An error leaves a stage from which everything
    submitted is gone and that works on.
    """

    def __init__(
        self,
        recipe: Sequence[View],
        *,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        dtype: torch.dtype,
        decodes: bool,
        threads: int,
        depth: int = 2,
    ) -> None:
        gpu = (
            None
            if device.type == "cpu"
            else torch.cuda.current_device()
            if device.index is None
            else device.index
        )
        self.depth, self.device = depth, device
        self._plan = graph.Plan(tuple(recipe), tuple(mean), tuple(std), dtype, gpu, decodes)
        self._batch_size, self._threads = max(batch_size, 1), threads
        self._pipeline: Any = None
        self._making: Future[Any] | None = None
        self._submitted: deque[tuple[Batch, dict[str, Any]]] = deque()
        # Memory that a copy to the GPU may still read: torch's pinned allocator does not know DALI's streams.
        self._read: deque[tuple[torch.cuda.Event, object]] = deque()

    def submit(self, batch: Batch) -> None:
        """Queues a batch; its memory is kept until nobody reads it any more."""
        fed = self._fed(batch)
        self._submitted.append((batch, fed))
        if len(batch.ids) == 0:
            return  # a rank's share of a short last batch; DALI knows no empty batches
        try:
            self._feed(self._running(), fed)
        except BaseException:
            self.clear()
            raise

    def take(self) -> list[Tensor]:
        """The views of the oldest batch that was submitted."""
        batch, fed = self._submitted[0]
        if len(batch.ids) == 0:
            self._submitted.popleft()
            return [self._empty(view.size) for view in self._plan.recipe]
        try:
            views = self._results()
        except BaseException:
            self.clear()
            raise
        self._submitted.popleft()
        if self._plan.gpu is not None:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(self.device))
            self._read.append((event, (batch, fed)))
            self._forget()
        return views

    def clear(self) -> None:
        """Drops what was submitted. The pipeline goes with it: it cannot take back what it was fed."""
        if self._pipeline is not None and self._plan.gpu is not None:
            torch.cuda.synchronize(self.device)
        self._pipeline = None
        self._submitted.clear()
        self._read.clear()

    def _running(self) -> Any:
        """The pipeline, made when it is needed first, in a thread of its own: a signal's exception goes to
        the main thread, and in the middle of describing a graph would leave DALI confused for good."""
        if self._pipeline is None:
            if self._making is None:
                maker = ThreadPoolExecutor(1)
                self._making = maker.submit(self._made)
                maker.shutdown(wait=False)
            try:
                self._pipeline = self._making.result()
            finally:
                if self._making.done():
                    self._making = None
        return self._pipeline

    def _made(self) -> Any:
        """A new pipeline after a rehearsal: its first call runs `depth` batches at once, and needs that
        many."""
        made = graph.pipeline(
            self._plan, batch_size=self._batch_size, threads=self._threads, depth=self.depth
        )
        made.build()
        blank = self._fed(self._blank())
        for _ in range(self.depth):
            self._feed(made, blank, run=False)
        made.schedule_run()
        for _ in range(self.depth):
            made.share_outputs()
            made.release_outputs()
        return made

    def _feed(self, pipeline: Any, fed: dict[str, Any], *, run: bool = True) -> None:
        for name, data in fed.items():
            pipeline.feed_input(name, data)
        if run:
            pipeline.schedule_run()

    def _results(self) -> list[Tensor]:
        stream = None if self._plan.gpu is None else torch.cuda.current_stream(self.device)
        lists = self._pipeline.share_outputs(cuda_stream=stream)
        views = [self._tensor(made.as_tensor()) for made in lists]
        self._pipeline.release_outputs()
        return views

    def _tensor(self, made: Any) -> Tensor:
        x = torch.from_dlpack(made)
        if self._plan.dtype == torch.bfloat16:
            x = x.view(torch.bfloat16)
        return x.permute(0, 3, 1, 2)

    def _empty(self, size: int) -> Tensor:
        x = torch.empty((0, 3, size, size), dtype=self._plan.dtype, device=self.device)
        return x.contiguous(memory_format=torch.channels_last)

    def _forget(self) -> None:
        """Lets go of memory whose copies have ended; waits if the GPU is far behind."""
        while self._read:
            event, _ = self._read[0]
            if len(self._read) <= 2 * self.depth and not event.query():
                return
            event.synchronize()
            self._read.popleft()

    def _fed(self, batch: Batch) -> dict[str, Any]:
        """By the names of the graph's inputs what a batch has for them; also what keeps that memory."""
        fed: dict[str, Any] = {}
        if self._plan.decodes:
            fed["encoded"] = batch.encoded
        for number, view in enumerate(self._plan.recipe):
            if self._plan.decodes:
                # DALI counts rows first, our cuts columns.
                cuts = batch.cuts[number].numpy()
                fed[f"place{number}"] = np.ascontiguousarray(cuts[:, [1, 0, 3, 2, 5, 4, 7, 6]])
            else:
                fed[f"crop{number}"] = batch.views[number].numpy()
            kinds = graph.columns(view)
            if not kinds:
                continue
            steps = batch.steps[number].numpy()
            fed[f"codes{number}"] = steps[:, :, 0].astype(np.int32)
            values = np.ascontiguousarray(steps[:, :, 1])
            if graph.has_values(kinds):
                fed[f"values{number}"] = values
            for column, kind in enumerate(kinds):
                if kind is GaussianBlur:
                    fed[f"kernel{number}_{column}"] = self._kernels(
                        view, fed[f"codes{number}"], values, column
                    )
        return fed

    @staticmethod
    def _kernels(view: View, codes: np.ndarray[Any, Any], values: np.ndarray[Any, Any], column: int) -> Any:
        """float32 [N, width]: one width for all, so that they are one array."""
        blurs = [step for step in view.operations if isinstance(step, GaussianBlur)]
        # A pass weighs so many whole pixels on either side, at most sigma of them, and one more in part.
        radius = int(max(step.sigma[1] for step in blurs)) + 1
        sigmas = np.where(codes[:, column] == graph.BLUR, values[:, column], np.float32(0))
        return _native.blur_kernels(sigmas.astype(np.float32), 2 * radius + 1)

    def _blank(self) -> Batch:
        """One black image that takes no operation."""
        views = [torch.zeros((1, 3, view.size, view.size), dtype=torch.uint8) for view in self._plan.recipe]
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, "JPEG")
        sizes = [view.size for view in self._plan.recipe]
        return Batch(
            views,
            torch.zeros(1, dtype=torch.int64),
            torch.zeros(1, dtype=torch.int64),
            0,
            0,
            cuts=[torch.tensor([[0, 0, 8, 8, size, size, 0, 0]], dtype=torch.int32) for size in sizes],
            steps=[torch.zeros((1, len(graph.columns(view)), 2)) for view in self._plan.recipe],
            encoded=[np.frombuffer(file.getvalue(), np.uint8)],
        )
