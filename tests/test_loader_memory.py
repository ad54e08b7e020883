"""The memory of batches is used again, and never while anything at all still sees it."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils import dlpack

from barlow import _native as native
from photos import loader, samples, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photos"))


class Cycle:
    """Garbage that only the collector finds."""

    def __init__(self, content: object) -> None:
        self.content, self.itself = content, self


class Node(torch.autograd.Function):
    """Keeps its input for a backward pass that has not come yet."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return weight.clone()


ALIASES: dict[str, Callable[[Tensor], object]] = {
    "tensor": lambda view: view,
    "slice": lambda view: view[3:4, :, 1:],
    "reshaped": lambda view: view.reshape(-1)[5:],
    "transposed": lambda view: view.permute(0, 2, 3, 1).detach(),
    "bits": lambda view: view.view(torch.int16),
    "expanded": lambda view: view[0].expand(4, -1, -1, -1),
    "storage": lambda view: view.untyped_storage(),
    "set to its storage": lambda view: torch.empty(0, dtype=torch.uint8).set_(view.untyped_storage()),
    "array": lambda view: view.numpy(),
    "slice of an array": lambda view: view.numpy()[2:3],
    "view of an array": lambda view: view.numpy().view(np.int8).reshape(-1),
    "its base": lambda view: view.numpy().base,
    "memoryview": lambda view: view.numpy().data[1:],
    "array over a memoryview": lambda view: np.frombuffer(view.numpy().data.cast("B"), np.uint8),
    "capsule": torch.to_dlpack,
    "tensor of a capsule": lambda view: dlpack.from_dlpack(torch.to_dlpack(view)),
    "array of a capsule": lambda view: np.from_dlpack(view[1:]),
    "tensor of an array": lambda view: torch.from_numpy(view.numpy()[1:]),
    "garbage": lambda view: Cycle(view[:1]),
    "saved for backward": lambda view: Node.apply(view, torch.ones((), requires_grad=True)),
    "in a closure": lambda view: lambda: view,
}


@pytest.mark.parametrize("alias", ALIASES.values(), ids=ALIASES)
def test_memory_that_somebody_sees_is_not_used_again(folder: Path, alias: Callable[[Tensor], object]) -> None:
    gc.collect()
    gc.disable()  # garbage keeps its memory until somebody collects it
    try:
        batches = loader(folder, prefetch=1)
        batch = next(iter(batches))
        address, size = batch.views[1].data_ptr(), batch.views[1].nbytes
        before = batch.views[1].clone()
        kept = alias(batch.views[1])
        del batch
        for _ in range(2):
            for later in batches:
                for view in later.views:
                    start = view.data_ptr()
                    assert start + view.nbytes <= address or address + size <= start
                    view.fill_(0)
        # It is alive, and nobody has written into it.
        assert ctypes.string_at(address, size) == before.numpy().tobytes()
        del kept
    finally:
        gc.enable()
    gc.collect()
    addresses = {view.data_ptr() for later in batches for view in later.views}
    assert address in addresses, "nobody sees it any more, and yet it was not used again"


def test_few_batches_of_memory_do_for_an_epoch(folder: Path) -> None:
    batches = loader(folder, prefetch=2)
    addresses, contents = set(), []
    for _ in range(4):
        for batch in batches:
            addresses |= {view.data_ptr() for view in batch.views}
            contents += samples([batch])
    # Two in flight, one with the consumer (`batch` still is, while the next one is lent), one on the way.
    assert len(addresses) <= 2 * 4
    fresh = [row for _ in range(4) for row in samples(list(loader(folder, epochs=4)))]
    assert contents[: len(fresh) // 4] == fresh[: len(fresh) // 4]


def test_memory_goes_back_from_any_thread(folder: Path) -> None:
    batches = loader(folder, prefetch=1)
    addresses = set()
    for batch in batches:
        addresses |= {view.data_ptr() for view in batch.views}
        box = [batch]
        del batch
        thread = threading.Thread(target=box.clear)
        thread.start()
        thread.join()
    assert len(addresses) <= 2 * 2


def test_batches_outlive_their_loader(folder: Path) -> None:
    reference = samples(loader(folder))
    batches = loader(folder)
    kept = list(batches)
    batches.close()
    del batches
    gc.collect()
    others = [list(loader(folder, seed=6)) for _ in range(3)]
    assert samples(kept) == reference
    assert len(others) == 3


def test_a_failed_or_abandoned_stream_gives_nothing_out_twice(folder: Path) -> None:
    """Whatever was in flight when a stream ended is not what a kept batch lies in."""
    batches = loader(folder, prefetch=3)
    kept = [next(iter(batches))]
    for step in (0, 3, 1, 4, 2, 0):
        batches.load_state_dict({"epoch": 0, "step": step})
        kept.append(next(iter(batches)))
    addresses = [view.data_ptr() for batch in kept for view in batch.views]
    assert len(set(addresses)) == len(addresses)
    assert samples(kept[1:2]) == samples(kept[:1]) == samples(kept[-1:])


def test_a_pool_has_bounds_and_its_leases_cannot_be_made() -> None:
    pool = native.Pool(2)
    arrays = [pool.take((2, 3, 4, 4)) for _ in range(5)]
    addresses = [array.ctypes.data for array in arrays]
    assert len(set(addresses)) == 5
    lease = arrays[0].base
    assert lease is not None
    with pytest.raises(TypeError):
        type(lease)()  # pyright: ignore[reportCallIssue]
    del lease
    arrays.clear()
    again = [pool.take((2, 3, 4, 4)).ctypes.data, pool.take((1, 3, 4, 4)).ctypes.data]
    assert again[0] in addresses
    for impossible in [(2**40, 2**40, 1, 1), (2**62, 1, 1, 3)]:
        with pytest.raises(ValueError, match="too large"):
            pool.take(impossible)
    assert pool.take((0, 3, 4, 4)).shape == (0, 3, 4, 4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pinned_memory_is_used_again_after_its_copies(folder: Path) -> None:
    batches = loader(folder, prefetch=1, pin_memory=True)
    addresses = {view.data_ptr() for _ in range(8) for batch in batches for view in batch.views}
    assert len(addresses) <= 2 * 8
