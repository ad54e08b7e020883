"""Here: steps on real images: our loader and step, the official loader and step, and ours on images that are
on the device already.

Not here: the ladder of formulations. The three take turns, each with all cores and nobody beside it, and each
starts its loader anew, whose first batches do not count.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from barlow.bench.images import Images, prepare
from barlow.bench.pipelines import official
from barlow.bench.pipelines.files import Files
from barlow.bench.step import StepSettings
from barlow.bench.step.ladder import device_of
from barlow.bench.step.report import Report
from barlow.bench.step.rungs import LADDER, Contestant
from barlow.data import Index, Loader, views
from barlow.train.feed import Feed

Batches = Callable[[], contextlib.AbstractContextManager[Iterator[list[Tensor]]]]


def measure(
    data: Path, settings: StepSettings, report: Report, *, window_s: float = 20.0, rung: str = "lists"
) -> None:
    """Part "end_to_end" of the report: views per second in such windows, `rung` being our step."""
    device = device_of(settings)
    cores = len(os.sched_getaffinity(0))
    rates: dict[str, list[float]] = {"official": [], "barlow": [], "synthetic": []}
    rungs = {one.name: one for one in LADDER}
    with tempfile.TemporaryDirectory(prefix="barlow-bench-") as folder:
        images = prepare(data, 1 << 20, 1, Path(folder) / "images", threads=1)
        ours = Contestant(rungs[rung], settings, device)
        theirs = Contestant(rungs["official"], settings, device)
        # The paper's two views at any size; the sizes of batches are the step's, not the images'.
        sources: dict[str, tuple[Contestant, Batches]] = {
            "official": (theirs, lambda: _official(images, settings, cores, device)),
            "barlow": (ours, lambda: _ours(images, settings, cores, device)),
            "synthetic": (ours, lambda: contextlib.nullcontext(itertools.repeat(ours.images))),
        }
        for _ in range(settings.rounds):
            for name, (contestant, batches) in sources.items():
                if report.left_s() < 2 * window_s:
                    return
                with batches() as stream:
                    rates[name].append(_rate(contestant, stream, settings, window_s, device))
                report.part("end_to_end", {"cores": cores, "data": images.facts, "views_per_s": rates})


def _rate(
    contestant: Contestant,
    stream: Iterator[list[Tensor]],
    settings: StepSettings,
    window_s: float,
    device: torch.device,
) -> float:
    """Views per second, once what a loader had prepared before is used up."""
    _take(contestant, stream, window_s / 2, device)
    seconds, steps = _take(contestant, stream, window_s, device)
    return 2 * settings.batch_size * steps / seconds


def _take(
    contestant: Contestant, stream: Iterator[list[Tensor]], least_s: float, device: torch.device
) -> tuple[float, int]:
    begin_s, steps = time.perf_counter(), 0
    # The host runs ahead of a GPU, by as much as the queue of kernels holds; it is waited for at the end.
    while time.perf_counter() - begin_s < least_s:
        contestant.step(next(stream))
        steps += 1
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin_s, steps


@contextlib.contextmanager
def _ours(
    images: Images, settings: StepSettings, cores: int, device: torch.device
) -> Iterator[Iterator[list[Tensor]]]:
    feed = Feed(device)
    with Loader(
        Index.open(str(images.index)),
        views=views.barlow_twins(settings.image_size),
        batch_size=settings.batch_size,
        threads=cores,
        pin_memory=device.type == "cuda",
    ) as loader:
        yield (feed(batch.views) for batch in itertools.chain.from_iterable(itertools.repeat(loader)))


@contextlib.contextmanager
def _official(
    images: Images, settings: StepSettings, cores: int, device: torch.device
) -> Iterator[Iterator[list[Tensor]]]:
    """As many worker processes as cores; the images over and over, as an epoch of ImageNet is long."""
    files = images.files * (1 + 1_000_000 // len(images.files))
    transforms = official.Views(views.barlow_twins(settings.image_size), "float32")
    loader = DataLoader(
        Files([str(file) for file in files], transforms),
        settings.batch_size,
        shuffle=True,
        num_workers=cores,
        pin_memory=device.type == "cuda",
    )
    batches = iter(loader)
    try:
        yield ([view.to(device, non_blocking=True) for view in batch] for batch in batches)
    finally:
        del batches  # a DataLoader's workers end with its iterator
