"""The tar reader against CPython's tarfile: agree or raise, never lose a member, never invent one.

`tarfile` is the oracle but for three silences: it stops without a word at a damaged header, at a header cut
short, and at the first end mark whatever follows. There the only right answer is an error.
"""

from __future__ import annotations

import io
import random
import tarfile
from collections import Counter
from pathlib import Path
from typing import TypeAlias

import pytest

from barlow import _native as native

Members: TypeAlias = "list[tuple[bytes, int, int]]"

BLOCK = 512
MUTANTS = 2000


class Reference(tarfile.TarInfo):
    """tarfile, cured of minding fields that do not matter here (mode, owner, time, device), and of taking the
    times that GNU keeps at byte 345 for a POSIX prefix."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        buf = bytes(buf)
        if len(buf) == BLOCK and checksum_holds(buf):
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
        return super().frombuf(buf, encoding, errors)


def with_checksum(block: bytes) -> bytes:
    total = sum(block[:148]) + 8 * 32 + sum(block[156:])
    return block[:148] + b"%06o\0 " % total + block[156:]


def checksum_holds(block: bytes) -> bool:
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
    """Compares both readers; fails on a loss or an invention."""
    ours, oracle = listed(archive, path), expected(archive)
    if ours is None:
        return "refused by both" if oracle is None else "refused by us"
    assert oracle is not None, f"tarfile refuses, we list {ours}"
    members, complete = oracle
    assert complete, f"tarfile stopped early, we list {ours}"
    assert ours == members
    return "agreed"


def archive_of(format: int) -> bytes:
    """Files of all critical sizes and names, and everything that is no file between them."""
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=format, encoding="utf-8", errors="surrogateescape"
    ) as tar:
        names = ["a/0.jpg", "b" * 99, "c" * 100, "ä/ö.jpg", "d" * 80 + "/" + "e" * 90, "a/0.jpg", "./f.jpg"]
        if format != tarfile.USTAR_FORMAT:
            names += ["g" * 101, "h" * 60 + "/" + "i" * 300, "\udcff\udcfe.jpg"]
        for number, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size = [0, 1, 511, 512, 513, 1500][number % 6]
            tar.addfile(member, io.BytesIO(bytes([65 + number]) * member.size))
            other = tarfile.TarInfo(
                f"other-{number}" + "k" * (40 * number if format != tarfile.USTAR_FORMAT else 0)
            )
            kinds = [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
            other.type = kinds[number % len(kinds)]
            other.linkname = "l" * (30 * number) if format != tarfile.USTAR_FORMAT else "target"
            tar.addfile(other)
        inner = b"".join(with_checksum(header(b"evil.jpg", 4)) for _ in range(2))
        nested = tarfile.TarInfo("nested.tar")
        nested.size = len(inner)
        tar.addfile(nested, io.BytesIO(inner))
    return buffer.getvalue()


def header(name: bytes, size: int, kind: bytes = b"0") -> bytes:
    fields = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"0" * 11 + b"\0"
    return with_checksum((fields.ljust(156, b" ") + kind).ljust(257, b"\0").ljust(BLOCK, b"\0"))


def member(name: bytes, data: bytes, kind: bytes = b"0") -> bytes:
    return header(name, len(data), kind) + data + bytes(-len(data) % BLOCK)


ARCHIVES = {
    "ustar": archive_of(tarfile.USTAR_FORMAT),
    "gnu": archive_of(tarfile.GNU_FORMAT),
    "pax": archive_of(tarfile.PAX_FORMAT),
}


@pytest.mark.parametrize("dialect", ARCHIVES)
def test_whole_archives_are_listed_as_tarfile_lists_them(dialect: str, tmp_path: Path) -> None:
    archive = ARCHIVES[dialect]
    assert verdict(archive, tmp_path / "x.tar") == "agreed"
    assert len(native.members(tmp_path / "x.tar")) == (8 if dialect == "ustar" else 11)


@pytest.mark.parametrize("dialect", ARCHIVES)
def test_mutated_archives_agree_or_raise(dialect: str, tmp_path: Path) -> None:
    archive = ARCHIVES[dialect]
    seed = sum(map(ord, dialect))
    verdicts: Counter[str] = Counter()
    for number in range(MUTANTS):
        mutant = mutated(archive, random.Random(seed * 100_000 + number))
        try:
            verdicts[verdict(mutant, tmp_path / "x.tar")] += 1
        except AssertionError as error:
            raise AssertionError(f"mutant {number} of {dialect}") from error
    # A comparison that never got to compare would prove nothing.
    assert verdicts["agreed"] > MUTANTS / 10, verdicts
    assert verdicts["refused by both"] > MUTANTS / 20, verdicts


def mutated(archive: bytes, rng: random.Random) -> bytes:
    blocks = [archive[at : at + BLOCK] for at in range(0, len(archive), BLOCK)]
    used = len(archive.rstrip(b"\0")) // BLOCK + 2
    at = rng.randrange(min(used, len(blocks)))
    kind = rng.randrange(8)
    if kind == 0:  # A flipped bit anywhere.
        changed = bytearray(archive)
        changed[rng.randrange(used * BLOCK)] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if kind == 1:  # Cut anywhere.
        return archive[: rng.randrange(used * BLOCK)]
    if kind == 2:  # A block lost, doubled or moved.
        block = blocks.pop(at)
        for _ in range(rng.randrange(3)):
            blocks.insert(rng.randrange(len(blocks)), block)
        return b"".join(blocks)
    if kind == 3:  # Something behind the end.
        return archive.rstrip(b"\0") + bytes(rng.randrange(3 * BLOCK)) + rng.choice([b"", b"x", archive])
    # The rest changes a header and makes its checksum right again.
    headers = [
        number for number, block in enumerate(blocks[:used]) if block.strip(b"\0") and checksum_holds(block)
    ]
    at = rng.choice(headers)
    block = bytearray(blocks[at])
    if kind == 4:
        for _ in range(rng.randrange(1, 4)):
            block[rng.randrange(BLOCK)] = rng.randrange(256)
    elif kind == 5:
        block[156] = rng.choice(b"\x000123456789LKxgXSMDVNAZ ")
    elif kind == 6:
        sizes = [
            b"00000000000\0",
            b"%011o\0" % rng.randrange(4096),
            b" 17 \0\0\0\0\0\0\0\0",
            b"0000000017x\0",
        ]
        sizes += [b"\x80" + bytes(9) + b"\x02\0", b"\xff" * 12, b"77777777777\0", b"-0000000001\0", bytes(12)]
        block[124:136] = rng.choice(sizes)
    else:
        records = [
            b"size=512",
            b"size=0",
            b"size=-1",
            b"path=p/q.jpg",
            b"path=p/",
            b"comment=x",
            b"GNU.sparse.major=1",
        ]
        data = b"".join(pax_record(record) for record in rng.sample(records, rng.randrange(1, 3)))
        blocks[at:at] = [member(b"pax", data, rng.choice([b"x", b"x", b"g"]))]
        return b"".join(blocks)
    blocks[at] = with_checksum(bytes(block))
    return b"".join(blocks)


def pax_record(text: bytes) -> bytes:
    length = len(text) + 3
    while len(b"%d %s\n" % (length, text)) != length:
        length += 1
    return b"%d %s\n" % (length, text)


INNER = header(b"EVIL.bin", 0)
HOSTILE = {
    "cut inside data": (member(b"a", b"x") + member(b"b", b"y" * 600)[:-300], None),
    "cut inside a header": (member(b"a", b"x") + member(b"b", b"y")[:200], None),
    "header byte flipped": (
        member(b"a", b"x") + member(b"B", b"y").replace(b"B", b"C", 1) + member(b"c", b""),
        None,
    ),
    "PAX size override": (
        member(b"p", pax_record(b"size=512"), b"x") + header(b"a", 0) + INNER + member(b"b", b"y"),
        [b"a", b"b"],
    ),
    "PAX size, then a GNU long name": (
        member(b"p", pax_record(b"size=512"), b"x") + member(b"L", b"long\0", b"L") + header(b"a", 0) + INNER,
        [b"long"],
    ),
    "base-256 size": (
        with_checksum(header(b"a", 0)[:124] + b"\x80" + bytes(9) + b"\x02\0" + header(b"a", 0)[136:]) + INNER,
        [b"a"],
    ),
    "negative base-256": (
        with_checksum(header(b"a", 0)[:124] + b"\xff" * 12 + header(b"a", 0)[136:]) + member(b"b", b""),
        None,
    ),
    "a claim of 8 GiB": (header(b"a", 8**11 - 1) + member(b"b", b"y"), None),
    "no end mark": (member(b"a", b"x") + member(b"b", b"y"), [b"a", b"b"]),
    "one block as end mark": (member(b"a", b"x") + bytes(512), [b"a"]),
    "concatenated archives": (member(b"a", b"x") + bytes(1024) + member(b"b", b"y") + bytes(1024), None),
    "names that lead elsewhere": (member(b"../../e", b"x") + member(b"/abs", b"y"), [b"../../e", b"/abs"]),
    "duplicate names": (member(b"a", b"x") + member(b"a", b"y"), [b"a", b"a"]),
    "sparse": (member(b"a", b"x") + member(b"s", b"y" * 10, b"S"), None),
    "empty": (b"", None),
    "not a tar": (b"PK\3\4" + b"x" * 2000, None),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_have_one_outcome_each(case: str, tmp_path: Path) -> None:
    archive, names = HOSTILE[case]
    members = listed(archive, tmp_path / "x.tar")
    assert (members and [name for name, _, _ in members]) == names


def test_a_fault_has_an_address(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(member(b"a", b"x") + member(b"b\n.jpg", b"y" * 600)[:-300])
    with pytest.raises(native.DataError, match="archive ends early") as caught:
        native.members(path)
    error = caught.value
    assert (error.kind, error.shard, error.member, error.offset) == ("archive", str(path), "b\\n.jpg", 1024)
