"""Ten thousand mutated archives: the tar reader lists what CPython's tarfile lists, or raises.

Flips and cuts alone seldom get past a header's checksum, so most mutations know the format: they change a
field and make the checksum right again, put extension headers in front of members, state sizes in another
notation, splice archives. BARLOW_MUTANTS asks for more of them (a million takes about an hour).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from os import environ
from pathlib import Path

import pytest

from corpus.tar_parts import (
    BLOCK,
    END,
    GNU,
    header,
    long_name,
    member,
    padded,
    pax,
    pax_record,
    with_checksum,
)
from tar_oracle import checksum_holds, verdict
from test_tar import ARCHIVES

MUTANTS = int(environ.get("BARLOW_MUTANTS", "10000"))
KINDS = b"\x000123456789LKxgXSMDVNAZ "

Blocks = list[bytes]
Mutation = Callable[[Blocks, random.Random], Blocks]


def blocks_of(data: bytes) -> Blocks:
    return [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]


def any_header(blocks: Blocks, rng: random.Random) -> int:
    """The place of a header; some are inside data, and a mutant may have none left."""
    places = [i for i, block in enumerate(blocks) if block.strip(b"\0") and checksum_holds(block)]
    return rng.choice(places) if places else 0


def changed(blocks: Blocks, at: int, field: int, value: bytes) -> Blocks:
    """A field of a block written over, its checksum right again."""
    block = blocks[at].ljust(BLOCK, b"\0")
    block = with_checksum(block[:field] + value + block[field + len(value) :])
    return [*blocks[:at], block, *blocks[at + 1 :]]


def inserted(blocks: Blocks, at: int, data: bytes) -> Blocks:
    return [*blocks[:at], *blocks_of(data), *blocks[at:]]


# What a disk or a network does.


def flip(blocks: Blocks, rng: random.Random) -> Blocks:
    data = bytearray(b"".join(blocks))
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return blocks_of(bytes(data))


def cut(blocks: Blocks, rng: random.Random) -> Blocks:
    data = b"".join(blocks)
    return blocks_of(data[: rng.randrange(len(data))])


def move(blocks: Blocks, rng: random.Random) -> Blocks:
    """A block lost, moved or doubled."""
    at = rng.randrange(len(blocks))
    block, rest = blocks[at], [*blocks[:at], *blocks[at + 1 :]]
    for _ in range(rng.randrange(3)):
        rest.insert(rng.randrange(len(rest) + 1), block)
    return rest


def append(blocks: Blocks, rng: random.Random) -> Blocks:
    tail = rng.choice([b"", b"x", b"".join(blocks), END, member(b"late", b"z")])
    return blocks_of(b"".join(blocks).rstrip(b"\0") + bytes(rng.randrange(3 * BLOCK)) + tail)


def splice(blocks: Blocks, rng: random.Random) -> Blocks:
    """Some blocks of an archive of any dialect in the middle of this one."""
    other = blocks_of(rng.choice(list(ARCHIVES.values())))
    begin = rng.randrange(len(other))
    at = rng.randrange(len(blocks))
    return [*blocks[:at], *other[begin : begin + rng.randrange(1, 8)], *blocks[at + rng.randrange(4) :]]


# What a writer with a bug, or with intent, does.


def noise(blocks: Blocks, rng: random.Random) -> Blocks:
    at = any_header(blocks, rng)
    for _ in range(rng.randrange(1, 4)):
        blocks = changed(blocks, at, rng.randrange(BLOCK), bytes([rng.randrange(256)]))
    return blocks


def kind(blocks: Blocks, rng: random.Random) -> Blocks:
    return changed(blocks, any_header(blocks, rng), 156, bytes([rng.choice(KINDS)]))


def magic(blocks: Blocks, rng: random.Random) -> Blocks:
    text = rng.choice([b"ustar\x0000", b"ustar  \0", bytes(8), b"ustar\x0001", b"ustar 00", b"USTAR\x0000"])
    blocks = changed(blocks, at := any_header(blocks, rng), 257, text)
    return changed(blocks, at, 345, rng.choice([b"pre/fix", b"14700000000\0", bytes(155)]))


def size(blocks: Blocks, rng: random.Random) -> Blocks:
    small = rng.randrange(4096)
    return changed(
        blocks,
        any_header(blocks, rng),
        124,
        rng.choice(
            [
                b"%011o\0" % small,
                b"%12o" % small,
                b" %o \0" % (small % 512),
                b"%o\0garbage" % (small % 512),
                b"\x80" + small.to_bytes(11, "big"),
                b"\x80" + (small << 60).to_bytes(11, "big"),
                b"\xff" + (-small % (1 << 88)).to_bytes(11, "big"),
                b"\xff" * 12,
                b"77777777777\0",
                b"-0000000001\0",
                b"0000000017x\0",
                b"0o000000017\0",
                b"0000_000017\0",
                bytes(12),
                b" " * 12,
            ]
        ),
    )


def same_size_in_base_256(blocks: Blocks, rng: random.Random) -> Blocks:
    at = any_header(blocks, rng)
    digits = blocks[at][124:136].strip(b"\0 ")
    number = int(digits, 8) if digits.isdigit() and not set(digits) & set(b"89") else 0
    return changed(blocks, at, 124, b"\x80" + number.to_bytes(11, "big"))


def name(blocks: Blocks, rng: random.Random) -> Blocks:
    texts = [bytes(100), b"x/".ljust(100, b"\0"), b"\0hidden", b"../up\0", b"\xff\xfe\0", b"n" * 100]
    return changed(blocks, any_header(blocks, rng), 0, rng.choice(texts))


def pax_header(blocks: Blocks, rng: random.Random) -> Blocks:
    records = [
        b"size=%d" % (BLOCK * rng.randrange(4)),
        b"size=%d" % rng.randrange(4096),
        b"size=-1",
        b"size=+5",
        b"size= 5",
        b"size=0005",
        b"size=",
        b"size=1_0",
        b"path=p/q.jpg",
        b"path=p/",
        b"path=",
        b"path=nul\0here",
        b"path=\xff\xfe",
        b"hdrcharset=BINARY",
        b"mtime=1e9",
        b"mtime=x",
        b"uid=x",
        b"comment=x",
        b"linkpath=somewhere",
        b"GNU.sparse.major=1",
        b"GNU.sparse.size=5",
        b"GNU.sparse.name=n",
        b"=x",
    ]
    chosen = rng.choices(records, k=rng.randrange(1, 4))
    return inserted(blocks, any_header(blocks, rng), pax(*chosen, kind=rng.choice([b"x", b"x", b"x", b"g"])))


def pax_lie(blocks: Blocks, rng: random.Random) -> Blocks:
    """Records whose lengths are wrong, cut or followed by others behind the stated size."""
    data = b"".join(pax_record(text) for text in (b"path=first.jpg", b"size=512", b"comment=" + b"c" * 30))
    way = rng.randrange(4)
    if way == 0:
        at = rng.randrange(len(data))
        data = data[:at] + bytes([rng.choice(b"0123456789 =\n\0x")]) + data[at + 1 :]
    stated = len(data) if way < 2 else rng.randrange(len(data) + 40)
    if way == 3:
        data = data[: rng.randrange(len(data))]
    return inserted(blocks, any_header(blocks, rng), header(b"pax", stated, b"x") + padded(data))


def hidden_by_pax_size(blocks: Blocks, rng: random.Random) -> Blocks:
    """A member whose data only a PAX size counts; they look like headers."""
    count = rng.randrange(1, 4)
    inside = b"".join(rng.choice([header(b"EVIL", 0), header(b"EVIL", BLOCK), END]) for _ in range(count))
    between = rng.choice(
        [b"", long_name(b"long.jpg"), long_name(b"link", b"K"), pax(b"comment=x", kind=b"g")]
    )
    first, second = rng.sample([pax(b"size=%d" % len(inside)), between], 2)
    stated = rng.choice([0, len(inside), BLOCK])
    part = first + second + header(b"cover.jpg", stated, rng.choice([b"0", b"0", b"7", b"\0", b"2", b"5"]))
    return inserted(blocks, any_header(blocks, rng), part + inside)


def gnu_name(blocks: Blocks, rng: random.Random) -> Blocks:
    text = rng.choice([b"gnu.jpg", b"", b"folder/", b"nul\0behind", b"n" * rng.randrange(90, 5000), b"\xff"])
    data = rng.choice([text, text + b"\0", text + b"\0\0tail", b"\0" + text])
    part = member(b"././@LongLink", data, rng.choice([b"L", b"L", b"K"]), GNU)
    return inserted(blocks, any_header(blocks, rng), part)


def sparse(blocks: Blocks, rng: random.Random) -> Blocks:
    """GNU's map in the header, or that of PAX 1.0 in the data."""
    if rng.randrange(2):
        block = header(b"sparse", BLOCK, b"S", GNU)
        fields = b"%011o\0%011o\0" % (rng.randrange(3) * BLOCK, BLOCK) + bytes(72) + bytes([rng.randrange(2)])
        block = with_checksum(block[:386] + fields + b"%011o\0" % 2048 + block[386 + len(fields) + 12 :])
        return inserted(blocks, any_header(blocks, rng), block + bytes(BLOCK))
    records = (
        b"GNU.sparse.major=1",
        b"GNU.sparse.minor=0",
        b"GNU.sparse.name=real",
        b"GNU.sparse.realsize=99",
    )
    part = pax(*records[: rng.randrange(1, 5)]) + member(b"sparse", padded(b"1\n0\n1\n") + b"x")
    return inserted(blocks, any_header(blocks, rng), part)


def several(blocks: Blocks, rng: random.Random) -> Blocks:
    for _ in range(rng.randrange(2, 4)):
        blocks = rng.choice(MUTATIONS[:-1])(blocks, rng) or [bytes(BLOCK)]
    return blocks


MUTATIONS: list[Mutation] = [
    flip,
    cut,
    move,
    append,
    splice,
    noise,
    kind,
    magic,
    size,
    same_size_in_base_256,
    name,
    pax_header,
    pax_lie,
    hidden_by_pax_size,
    gnu_name,
    sparse,
    several,
]


@pytest.mark.timeout(0 if MUTANTS > 20_000 else 300)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_mutated_archives_agree_or_raise(mutation: Mutation, tmp_path: Path) -> None:
    verdicts: Counter[str] = Counter()
    count = -(-MUTANTS // len(MUTATIONS))
    for number in range(count):
        rng = random.Random(f"{mutation.__name__} {number}")
        dialect = rng.choice(list(ARCHIVES))
        blocks = blocks_of(ARCHIVES[dialect])
        # The zeros behind the end mark would be the target of most mutations.
        used = len(ARCHIVES[dialect].rstrip(b"\0")) // BLOCK + 3
        mutant = b"".join(mutation(blocks[:used], rng))
        try:
            verdicts[verdict(mutant, tmp_path / "x.tar")] += 1
        except AssertionError as error:
            raise AssertionError(f"mutant {number} of {mutation.__name__}, {dialect}") from error
    if mutation is sparse:
        # tarfile reads them, we refuse them: their data are not the file.
        assert verdicts["refused by us"] > count / 2, verdicts
        return
    # A comparison that never got to compare would prove nothing.
    compared = verdicts["agreed"] + verdicts["refused by both"]
    assert compared > count / 10, verdicts
