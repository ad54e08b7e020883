"""CPython's tarfile as the oracle of the tar reader: agree or raise, never lose a member, never invent one.

`tarfile` is right but for three silences: it stops without a word at a damaged header, at a header cut short,
and at the first end mark whatever follows. There the only right answer is an error.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import TypeAlias

from barlow import _native as native
from corpus.tar_parts import BLOCK, with_checksum

Members: TypeAlias = "list[tuple[bytes, int, int]]"
"""Name, where the data begin, and their length in bytes."""


class Reference(tarfile.TarInfo):
    """tarfile, cured of minding fields that do not matter here (mode, owner, time, device), of taking the
    times that GNU keeps at byte 345 for a POSIX prefix, and of going backwards."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        buf = bytes(buf)
        if checksum_holds(buf):
            number = b"0000000\0"
            buf = (
                buf[:100]
                + 3 * number
                + buf[124:136]
                + b"0000"
                + number
                + buf[148:329]
                + 2 * number
                + buf[345:]
            )
            if buf[257:263] == b"ustar " and buf[156:157] != b"S":
                buf = buf[:345] + bytes(155) + buf[500:]
            buf = with_checksum(buf)
        found = super().frombuf(buf, encoding, errors)
        if found.size < 0:
            # Older versions go back by that much, and round and round (CVE-2025-8194).
            raise tarfile.HeaderError("negative size")
        return found


def checksum_holds(block: bytes) -> bool:
    if len(block) < BLOCK:
        return False
    try:
        stored = tarfile.nti(block[148:156])  # pyright: ignore[reportAttributeAccessIssue]
    except tarfile.TarError:
        return False
    return stored in tarfile.calc_chksums(block)  # pyright: ignore[reportAttributeAccessIssue]


def listed(archive: bytes, path: Path) -> Members | None:
    path.write_bytes(archive)
    try:
        return native.members(path)
    except native.DataError:
        return None


def expected(archive: bytes) -> tuple[Members, bool] | None:
    """The oracle's members and whether they are all there is; None where it refuses."""
    try:
        with tarfile.open(
            fileobj=io.BytesIO(archive),
            mode="r:",
            tarinfo=Reference,
            encoding="utf-8",
            errors="surrogateescape",
        ) as tar:
            found = tar.getmembers()
            stop = tar.offset
    except (tarfile.TarError, ValueError, OverflowError, EOFError, MemoryError, IndexError, KeyError):
        return None
    files = [m for m in found if m.isreg()]
    members = [(m.name.encode("utf-8", "surrogateescape"), m.offset_data, m.size) for m in files]
    complete = not archive[stop:].strip(b"\0") and not any(m.issparse() for m in files)
    return members, complete


def verdict(archive: bytes, path: Path) -> str:
    """Compares both readers, with `path` as a place for the archive; fails on a loss or an invention."""
    ours, oracle = listed(archive, path), expected(archive)
    if ours is None:
        return "refused by both" if oracle is None else "refused by us"
    assert oracle is not None, f"tarfile refuses, we list {ours}"
    members, complete = oracle
    assert complete, f"tarfile stopped early, we list {ours}"
    assert ours == members
    return "agreed"
