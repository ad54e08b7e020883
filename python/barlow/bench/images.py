"""Here: the images of a run: which ones, what they weigh, and the files that the peers read.

Not here: what is made of them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from barlow.data import Index, open_index, pack

LARGEST_BATCH = 64
"""Images of a batch if nobody says."""


@dataclass(frozen=True)
class Images:
    """The chosen images twice: as an index of the source, which barlow reads, and as files."""

    index: Path
    """Index of exactly these images, in the order of `files`, none of them recoded."""
    files: list[Path]
    batch_size: int
    """Divides their number."""
    facts: dict[str, float | int | str]
    """source, images, mean_bytes, mean_pixels (area)."""
    recoded: Images | None = None
    """The same images as packed shards of recoded ones, if that was asked for."""


def prepare(
    source: Path | str, count: int, batch_size: int, folder: Path, *, threads: int, recode: bool = False
) -> Images:
    """Writes `count` images, evenly spaced in the source, into the new `folder`, byte for byte: of recoded
    ones the originals, which are then packed for barlow, too.

    Rounded down to whole batches, so that no pipeline has a short one. With fewer batches than `threads` some
    would stand idle: `ValueError`; `batch_size` 0 sees to it that each thread has several. With `recode` they
    are packed beside it, too.
    """
    opened = open_index(source)
    count = min(count, len(opened))
    batch_size = batch_size or min(LARGEST_BATCH, max(1, count // (4 * threads)))
    if count < threads * batch_size:
        raise ValueError(f"{count} images are too few for {threads} threads and batches of {batch_size}")
    count -= count % batch_size
    index = opened.subset([i * len(opened) // count for i in range(count)])
    folder.mkdir()
    files, num_bytes, num_pixels = [], 0, 0
    for i in range(count):
        data = index.read(i, original=True)
        height, width = index.shape(i)
        num_bytes, num_pixels = num_bytes + len(data), num_pixels + height * width
        files.append(folder / f"{i:06d}{_suffix(index, i)}")
        files[-1].write_bytes(data)
    if index.recoded().size:
        pack(folder, folder.parent / "originals")
        index = open_index(folder.parent / "originals")
    facts = {
        "source": str(source),
        "images": count,
        "mean_bytes": round(num_bytes / count),
        "mean_pixels": round(num_pixels / count),
    }
    images = Images(Path(index.write(folder.parent / "bench.index")), files, batch_size, facts)
    return dataclasses.replace(images, recoded=_recoded(images, folder.parent)) if recode else images


def _recoded(images: Images, beside: Path) -> Images:
    """Shards of the same images, and what is in them as files. Facts: images (that could be recoded) and
    mean_bytes (of all)."""
    shards, folder = beside / "recoded", beside / "recoded-files"
    told = pack(images.files[0].parent, shards, recode=True)
    index = open_index(shards)
    folder.mkdir()
    files = [folder / f"{i:06d}" for i in range(len(index))]
    for i, file in enumerate(files):
        file.write_bytes(index.read(i))
    mean_bytes = round(sum(file.stat().st_size for file in files) / len(files))
    facts: dict[str, float | int | str] = {"images": told["recoded"], "mean_bytes": mean_bytes}
    return Images(Path(index.write(beside / "recoded.index")), files, images.batch_size, facts)


def _suffix(index: Index, i: int) -> str:
    """DALI goes by the content, but others look at the name."""
    return Path(index.name(i).removesuffix(".bjc")).suffix.lower()
