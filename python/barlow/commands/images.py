"""Here: the subcommands about images: pack, index, verify, unpack.

Not here: the work (barlow.data), training.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from json import dumps
from pathlib import Path
from typing import Any, Literal

from barlow.commands.arguments import MAX_THREADS, Out, Source, check, show
from barlow.terminal import bar, one_line


def pack(
    source: Source,
    out: Out,
    *,
    shard_mb: int = 256,
    min_shards: int = 1,
    held_out: float = 0.0,
    on_error: Literal["raise", "skip"] = "raise",
    members: bool = True,
    decode: bool = True,
    recode: bool = False,
    prove: Literal["rewrite", "strict"] = "strict",
    overwrite: bool = False,
    threads: int = 0,
) -> None:
    """Packs images into tar shards with an index.

    Every image is decoded once, to prove that it can be.

    Args:
        source: Folder of class folders, flat folder, tar of class folders, or (folder of) WebDataset tars.
        out: New folder for the shards; it appears complete or not at all.
        shard_mb: Largest shard in MiB.
        min_shards: Fewest shards, however small.
        held_out: Share of each class that goes to OUT/held-out, the rest to OUT/train; 0: no such split.
        on_error: What an image that can't be decoded does: end the command, or be left out and listed.
        members: Keep other files of an image's stem beside it (0001.json of 0001.jpg).
        decode: Prove images by decoding them; without, only headers are looked at, at the speed of the disk.
        recode: Store JPEGs with their Huffman codes undone: about 1.2 times the bytes, decoded 3 to 4
            times as fast as by libjpeg-turbo, to the same pixels; `barlow unpack` gives the originals back,
            byte for byte, and each is proven to. What cannot be recoded is stored as it is
            (docs/recode-format.md).
        prove: With --recode: "rewrite" makes every original of what is stored and compares it; "strict" does
            so where a file leaves its writer a choice, and where reading has seen that it leaves none it
            compares coefficients, which is quicker. What is stored is the same.
        overwrite: Replace what an earlier pack left at OUT.
        threads: Decoding threads; 0 is all cores.
    """
    from barlow.data import pack

    check("--shard-mb", shard_mb, 1, 1 << 20)
    check("--min-shards", min_shards, 1, 1 << 20)
    check("--threads", threads, 0, MAX_THREADS)
    with bar("packing") as progress, _hint(on_error, "images"):
        report = pack(
            source,
            out,
            shard_bytes=shard_mb << 20,
            min_shards=min_shards,
            held_out=held_out,
            on_error=on_error,
            members=members,
            decode=decode,
            recode=recode,
            prove=prove,
            overwrite=overwrite,
            threads=threads,
            progress=progress,
        )
    if report["classes_without_training"]:
        warnings.warn(
            f"{report['classes_without_training']} classes have their only image in {out / 'held-out'}",
            stacklevel=1,
        )
    show(_told(report, recode=recode))


def _told(report: dict[str, Any], *, recode: bool = False) -> dict[str, str]:
    """A report for reading: without what there was none of or what wasn't asked for."""
    nothing = ("extra_members", "ignored", "held_out_images", "classes_without_training", "restored")
    told = {
        name: f"{value:,}"
        for name, value in report.items()
        if isinstance(value, int) and (value or name not in nothing) and not name.startswith("recoded")
    }
    if recode:
        before, after = report["recoded_from_bytes"], report["recoded_to_bytes"]
        told["recoded"] = f"{report['recoded']:,} images, from {before:,} to {after:,} bytes"
    for why, count in report.get("not_recoded", {}).items() if recode else ():
        told[f"not recoded, since {why}"] = f"{count:,}"
    for one in report["skipped"]:
        # A loose file is no shard's member.
        where = "/".join(part for part in (one["shard"], one["member"]) if part)
        told[f"skipped {where}"] = one["reason"]
    return told | {"time": f"{report['seconds']:.1f} s"}


@contextlib.contextmanager
def _hint(on_error: str, what: str) -> Iterator[None]:
    """Says what to do about an image that can't be decoded, or a file that can't be given back."""
    from barlow.data import DataError

    try:
        yield
    except DataError as error:
        if on_error == "raise" and error.kind in ("image", "limit", "checksum"):
            raise ValueError(f"{one_line(error)}; --on-error skip leaves such {what} out") from error
        raise


def index(source: Source, out: Path | None = None, *, members: bool = True, threads: int = 0) -> None:
    """Indexes tars or folders of images in place, rewriting nothing.

    Beside each tar, NAME.idx is the same for DALI's own WebDataset reader.

    Args:
        source: A tar, a folder of tars, or a folder of images.
        out: Where the index goes (and DALI's, into the same folder); by default beside the data, where every
            command looks for it.
        members: Record other files of an image's stem (0001.json of 0001.jpg), which costs reading them.
        threads: Reading threads; 0 is all cores.
    """
    from barlow.data import Index, index_source
    from barlow.data.dali.wds_index import write_indexes

    check("--threads", threads, 0, MAX_THREADS)
    with bar("indexing") as progress:
        path = index_source(source, out, threads=threads, progress=progress, members=members)
    print(path)
    for dalis in write_indexes(Index.open(path), None if out is None else path.parent):
        print(dalis)


def verify(source: Source, *, threads: int = 0, json: bool = False) -> None:
    """Decodes every image and lists those that are damaged.

    Exit code 1 if there are any. Of a recoded image the original file is made, too, and checked.

    Args:
        source: Shards, or anything else that can be trained on.
        threads: Decoding threads; 0 is all cores.
        json: Print one JSON object instead of lines.
    """
    from barlow.data import open_index
    from barlow.data.verify import as_json, damaged

    check("--threads", threads, 0, MAX_THREADS)
    opened = open_index(source)
    with bar("verifying") as progress:
        found = damaged(opened, threads=threads, progress=progress)
    if json:
        print(dumps(as_json(opened, found), indent=2))
    else:
        for _, error in found:
            print(one_line(error))
        print(f"{len(opened)} images, {len(found)} damaged")
    if found:
        raise SystemExit(1)


def unpack(source: Source, out: Out, *, on_error: Literal["raise", "skip"] = "raise") -> None:
    """Writes the original files back, byte for byte.

    Those of recoded images, too.

    Args:
        source: Packed shards, or any other tars.
        out: New folder for the files.
        on_error: What a damaged file does: end the command, or be left out and listed.
    """
    from barlow.data import unpack

    with bar("unpacking") as progress, _hint(on_error, "files"):
        report = unpack(source, out, on_error=on_error, progress=progress)
    show(_told(report))
