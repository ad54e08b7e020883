"""Small real images on disk, loaders over them, and everything about a batch as something to compare."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from barlow.data import Batch, Index, Loader, views
from nursery import Forked

NUM_IMAGES = 46
NUM_CLASSES = 3
TWO_VIEWS = views.barlow_twins(size=24)


def photo(seed: int, height: int, width: int) -> Image.Image:
    """Smooth colours and some noise, so that every operation changes something."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((width, height))
    noisy = np.asarray(coarse, np.int16) + rng.integers(-20, 21, (height, width, 1))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def write_folder(root: Path) -> Path:
    """NUM_IMAGES JPEGs and PNGs of different sizes in NUM_CLASSES class folders."""
    for i in range(NUM_IMAGES):
        image = photo(i, height=20 + i, width=70 - i)
        path = root / f"class{i % NUM_CLASSES}" / f"{i:03}.{'png' if i % 5 == 0 else 'jpg'}"
        path.parent.mkdir(exist_ok=True)
        image.save(path, quality=90)
    return root


def write_tar(folder: Path, path: Path) -> Path:
    """The files of a folder as a ustar archive, in the order of their names."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            tar.add(file, str(file.relative_to(folder)))
    return path


def loader(source: Path | Index, **settings: object) -> Loader:
    defaults = {"views": TWO_VIEWS, "batch_size": 8, "seed": 5, "threads": 2}
    return Loader(source, **{**defaults, **settings})  # pyright: ignore[reportArgumentType]


def samples(batches: Iterable[Batch]) -> list[tuple[object, ...]]:
    """Everything about each sample in order: epoch, step, id, label and the hash of its views' pixels."""
    rows = []
    for batch in batches:
        for row in range(len(batch.ids)):
            pixels = hashlib.sha256(b"".join(view[row].numpy().tobytes() for view in batch.views))
            place = (batch.epoch, batch.step, int(batch.ids[row]), int(batch.labels[row]))
            rows.append((*place, pixels.hexdigest()))
    return rows


def num_threads(expected: int = 0) -> int:
    """Loader threads alive in this process, once they are `expected`, or after a second of waiting for that.

    A thread that was joined stays in /proc for another moment, and a caught exception keeps its frames.
    """
    gc.collect()
    deadline = time.monotonic() + 1
    while True:
        names = []
        for comm in Path("/proc/self/task").glob("*/comm"):
            with contextlib.suppress(OSError):  # it ended while we looked
                names.append(comm.read_text())
        found = sum(name.startswith("barlow-") for name in names)
        if found == expected or time.monotonic() > deadline:
            return found


def endless(batches: Loader) -> Iterable[Batch]:
    while True:
        yield from batches


def passes(batches: Loader, epochs: int) -> Iterable[Iterable[Batch]]:
    return (iter(batches) for _ in range(epochs))


def run_script(body: str, *arguments: object, anew: bool = False) -> subprocess.Popen[str]:
    """A script with `Loader` and `views` in a process of its own; `anew` as for `commands.start`."""
    script = "import os, sys, time\nfrom barlow.data import Loader, views\n" + body
    command = [sys.executable, "-c", script, *map(str, arguments)]
    pipe = subprocess.PIPE
    return (subprocess.Popen if anew else Forked)(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
