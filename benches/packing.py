"""Packing and unpacking, plain and recoded, beside decoding alone: `python benches/packing.py [IMAGES]`

Rounds of all lanes alternate, on one thread each. A lane is the whole of `barlow pack` or `barlow unpack`
but for the start of Python: reading from and writing to the disk (of --folder), proofs, checksums, index.
`decode` is libjpeg-turbo's own decoder on the same JPEGs in memory, nothing made of the pixels, which packing
does too, and more; `recode` and `restore` are the work on the bytes alone. MB are those of the original
files. What is unpacked is compared with the source.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from bench_images import source

from barlow.data import decode, open_index, pack, recode, restore, unpack

BESIDE = "decode: libjpeg-turbo alone"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("images", type=Path, nargs="?", help="anything that can be trained on")
    parser.add_argument("--most", type=int, default=256, help="images, evenly out of all")
    parser.add_argument("--rounds", type=int, default=5, help="after one that is left out")
    parser.add_argument("--folder", type=Path, help="on the disk in question")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args(arguments)
    images = options.images or source()
    if images is None:
        print("no images: name some, or set BARLOW_IMAGES")
        return 1
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        files = chosen(images, options.most)
        tar = written(files, Path(folder) / "images.tar")
        seconds = measured(lanes(tar, files, Path(folder)), options.rounds)
        grown = check(files, Path(folder))
    megabytes = sum(map(len, files.values())) / 1e6
    print(f"{len(files)} files of {images}, {megabytes:.1f} MB; recoded shards {grown:.3f} x the plain ones")
    found = {name: summary(times, seconds[BESIDE], megabytes) for name, times in seconds.items()}
    for name, row in found.items():
        low, high = row["least_mb_per_s"], row["most_mb_per_s"]
        print(f"{name:30}{row['mb_per_s']:8.1f} MB/s [{low:.1f}-{high:.1f}]  x decode {row['x_decode']:.2f}")
    if options.json:
        options.json.write_text(
            json.dumps({"megabytes": megabytes, "grown": grown, "lanes": found}, indent=2)
        )
    return 0


def chosen(images: Path, most: int) -> dict[str, bytes]:
    """Original files by name."""
    index = open_index(images)
    count = min(len(index), most)
    ids = [i * len(index) // count for i in range(count)]
    return {index.name(i).removesuffix(".bjc"): index.read(i, original=True) for i in ids}


def written(files: dict[str, bytes], path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def lanes(tar: Path, files: dict[str, bytes], folder: Path) -> dict[str, Callable[[], object]]:
    """What each lane does in a round; each unpacking goes to a folder of its own."""
    jpegs = [data for data in files.values() if data.startswith(b"\xff\xd8")]
    recoded = [member for member in map(recode, jpegs) if member is not None]

    def packing(kind: str, prove: Literal["rewrite", "strict"] = "strict") -> Callable[[], object]:
        return lambda: pack(
            tar, folder / kind, recode=kind != "plain", prove=prove, threads=1, overwrite=True
        )

    def unpacking(kind: str) -> Callable[[], object]:
        def run() -> None:
            unpack(folder / kind, folder / f"{kind}-{len(list(folder.glob(f'{kind}-*')))}")

        return run

    return {
        BESIDE: lambda: [decode(data, library_codes=True) for data in jpegs],
        "pack": packing("plain"),
        "pack --recode": packing("recoded"),
        "... --prove rewrite": packing("rewritten", "rewrite"),
        "recode: the bytes alone": lambda: list(map(recode, jpegs)),
        "unpack": unpacking("plain"),
        "unpack, recoded": unpacking("recoded"),
        "restore: the bytes alone": lambda: list(map(restore, recoded)),
    }


def measured(made: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each round, without the first."""
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(rounds + 1):
        for name, run in made.items():
            began_s = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - began_s)
    return seconds


def check(files: dict[str, bytes], folder: Path) -> float:
    """`ValueError` unless both kinds of shards gave every file back; how much larger the recoded ones are."""
    for kind in ("plain", "recoded"):
        back = folder / f"{kind}-0"
        if {name: (back / name).read_bytes() for name in files} != files:
            raise ValueError(f"{kind} shards did not give the files back")
    sizes = [
        sum(path.stat().st_size for path in (folder / kind).glob("*.tar")) for kind in ("plain", "recoded")
    ]
    return sizes[1] / sizes[0]


def summary(seconds: list[float], decoding: list[float], megabytes: float) -> dict[str, float]:
    """Median rates, and the median of the rounds' own ratios to decoding: what slows a round slows both."""
    return {
        "mb_per_s": megabytes / statistics.median(seconds),
        "least_mb_per_s": megabytes / max(seconds),
        "most_mb_per_s": megabytes / min(seconds),
        "x_decode": statistics.median(d / s for d, s in zip(decoding, seconds, strict=True)),
    }


if __name__ == "__main__":
    raise SystemExit(main())
