"""Here: the archives of the corpus: every dialect, and every way in which two readers could disagree.
Not here: what is found in them (outcomes.txt), how a header is laid out (tar_parts.py).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from corpus.jpegs import Case, poke
from corpus.tar_parts import (
    BLOCK,
    END,
    GNU,
    USTAR,
    header,
    long_name,
    member,
    padded,
    pax,
    pax_record,
    with_checksum,
)

A, B = member(b"a.jpg", b"first"), member(b"b.jpg", b"second")
HIDDEN = header(b"EVIL.bin", 0)
"""A header inside data: who loses count of the bytes takes it for a member."""


def base_256(number: int) -> bytes:
    return bytes([0x80 | (number < 0) * 0x7F]) + (number % (1 << 88)).to_bytes(11, "big")


def dialects() -> Iterator[Case]:
    yield "v7.tar", "no magic: before POSIX", member(b"d/", b"", b"\0") + member(b"d/x", b"1", b"\0") + END
    yield "ustar.tar", "POSIX", member(b"a", b"1", magic=USTAR) + member(b"b", b"2" * 600, magic=USTAR) + END
    yield "gnu.tar", "GNU", member(b"a", b"1", magic=GNU) + END
    times = poke(header(b"a", 0, magic=GNU), 345, b"14700000000\0")
    yield "gnu-times.tar", "GNU's access time where POSIX has a prefix", with_checksum(times) + A + END
    yield (
        "pax.tar",
        "a PAX path, and a time of no interest",
        (pax(b"path=d/e.jpg", b"mtime=1.5") + member(b"short", b"1") + END),
    )
    yield "prefix.tar", "the prefix field", member(b"name", b"1", magic=USTAR, prefix=b"some/folder") + END
    yield (
        "prefix-full.tar",
        "name and prefix that fill their fields",
        (member(b"n" * 100, b"1", magic=USTAR, prefix=b"p" * 155) + END),
    )
    yield (
        "prefix-without-magic.tar",
        "bytes in the prefix field of no known dialect",
        (member(b"name", b"1", prefix=b"folder") + END),
    )
    yield "long-name-gnu.tar", "a GNU long name", long_name(b"g/" * 100 + b"x") + A + END
    yield "long-name-pax.tar", "a PAX path of 300 bytes", pax(b"path=" + b"p/" * 150 + b"x") + A + END
    yield (
        "long-link.tar",
        "a GNU long link target and a long name",
        (long_name(b"target", b"K") + long_name(b"n" * 120) + header(b"link", 0, b"2") + A + END),
    )
    yield "name-utf8.tar", "a name in UTF-8", member("ä/日.jpg".encode(), b"1") + END
    yield "name-not-utf8.tar", "a name of no encoding", member(b"\xff\xfe.jpg", b"1") + END
    yield (
        "pax-not-utf8.tar",
        "a PAX path of no encoding, as told",
        (pax(b"hdrcharset=BINARY", b"path=\xff.jpg") + A + END),
    )
    yield "contiguous.tar", "type 7", member(b"a", b"1", b"7") + END
    yield "checksum-signed.tar", "a checksum of signed bytes, as some writers made it", signed() + END


def signed() -> bytes:
    block = header(b"\xe4\xf6.jpg", 0)
    total = sum(byte - 256 * (byte > 127) for byte in block[:148] + b" " * 8 + block[156:])
    return block[:148] + b"%06o\0 " % total + block[156:]


def sizes() -> Iterator[Case]:
    for length in (0, 1, 511, 512, 513):
        data = b"x" * length
        yield f"size-{length}.tar", f"a member of {length} bytes", member(b"a", data) + B + END
    field = header(b"a", b" 3 \0\0\0\0\0\0\0\0\0") + padded(b"abc")
    yield "size-spaces.tar", "a size with spaces around it", field + B + END
    yield (
        "size-unended.tar",
        "a size that fills its field",
        header(b"a", b"000000000003") + padded(b"abc") + END,
    )
    yield "size-empty.tar", "an empty size field: zero", header(b"a", bytes(12)) + B + END
    yield "size-base-256.tar", "a size in base 256", header(b"a", base_256(BLOCK)) + HIDDEN + B + END
    yield "size-negative.tar", "a negative size", header(b"a", base_256(-BLOCK)) + B + END
    yield "size-minus.tar", "a minus sign", header(b"a", b"-0000000001\0") + B + END
    yield "size-decimal.tar", "digits that are not octal", header(b"a", b"00000000009\0") + B + END
    yield "size-letters.tar", "letters in a size", header(b"a", b"0000000001x\0") + B + END
    yield (
        "size-underscore.tar",
        "an underscore, which int() would read over",
        (header(b"a", b"0000000_001\0") + padded(b"x") + B + END),
    )
    yield "size-8-gib.tar", "claims 8 GiB", header(b"a", 8**11 - 1) + B + END
    yield "size-2-63.tar", "claims 2^63 bytes", header(b"a", base_256(1 << 63)) + B + END
    yield (
        "size-2-64-less-1.tar",
        "claims so much that padding overflows",
        (header(b"a", base_256((1 << 64) - 1)) + B + END),
    )
    yield "size-2-80.tar", "claims what no 64 bits hold", header(b"a", base_256(1 << 80)) + B + END


def extensions() -> Iterator[Case]:
    override = header(b"a", 0) + HIDDEN
    yield "pax-size.tar", "a PAX size over a header that says 0", pax(b"size=512") + override + B + END
    yield (
        "pax-size-then-long-name.tar",
        "a GNU long name between a PAX size and its member",
        (pax(b"size=512") + long_name(b"long.jpg") + override + B + END),
    )
    yield (
        "long-name-then-pax-size.tar",
        "the other way round",
        (long_name(b"long.jpg") + pax(b"size=512") + override + B + END),
    )
    yield (
        "pax-size-smaller.tar",
        "a PAX size below the header's",
        (pax(b"size=0") + header(b"a", BLOCK) + HIDDEN + B + END),
    )
    yield "pax-size-negative.tar", "a negative PAX size", pax(b"size=-512") + override + END
    yield "pax-size-plus.tar", "a PAX size with a sign", pax(b"size=+512") + override + END
    yield "pax-size-huge.tar", "a PAX size of 2^64", pax(b"size=18446744073709551616") + override + END
    yield (
        "pax-size-twice.tar",
        "two sizes in one PAX header: the last counts",
        (pax(b"size=0", b"size=512") + override + B + END),
    )
    yield "pax-global-size.tar", "a global size", pax(b"size=512", kind=b"g") + override + B + END
    yield (
        "pax-global-comment.tar",
        "a global comment, as git writes it",
        (pax(b"comment=0123abcd", kind=b"g") + A + END),
    )
    yield "pax-twice.tar", "two PAX headers for one member", pax(b"path=x") + pax(b"path=y") + A + END
    yield "pax-orphan.tar", "a PAX header without a member", A + pax(b"path=x") + END
    yield "long-name-orphan.tar", "a long name without a member", A + long_name(b"x") + END
    yield "long-name-twice.tar", "two long names for one member", long_name(b"x") + long_name(b"y") + A + END
    yield (
        "names-differ.tar",
        "a long name and a PAX path that differ",
        (long_name(b"x") + pax(b"path=y") + A + END),
    )
    yield (
        "names-agree.tar",
        "a long name and a PAX path that agree",
        (long_name(b"x") + pax(b"path=x") + A + END),
    )
    for name, data in (
        ("short", b"11 path=abcde\n"),
        ("long", b"99 path=a\n"),
        ("zero", b"0 path=a\n"),
        ("words", b"ten path=a\n"),
        ("no-equals", b"9 path a\n"),
        ("empty-key", b"5 =a\n"),
        ("2-64", b"18446744073709551616 path=a\n"),
    ):
        yield (
            f"pax-length-{name}.tar",
            "a PAX record that lies about itself",
            (member(b"pax", data, b"x") + A + END),
        )
    tail = pax_record(b"path=x.jpg") + pax_record(b"size=512")
    cut = len(pax_record(b"path=x.jpg"))
    yield (
        "pax-behind-its-end.tar",
        "PAX records behind the stated size",
        (header(b"pax", cut, b"x") + padded(tail) + override + B + END),
    )
    yield "pax-path-empty.tar", "an empty PAX path", pax(b"path=") + A + END
    yield "pax-path-nul.tar", "a PAX path with NUL", pax(b"path=a\0b") + A + END
    yield (
        "pax-64-kib.tar",
        "an extension header larger than allowed",
        (header(b"pax", 64 * 1024 + 1, b"x") + A + END),
    )
    yield "long-name-5000.tar", "a name longer than allowed", long_name(b"n" * 5000) + A + END
    yield "pax-only.tar", "a PAX header at the end of the file", A + pax(b"path=x")


def ends() -> Iterator[Case]:
    yield "end-none.tar", "no end mark", A + B
    yield "end-one-block.tar", "one block of zeros", A + B + bytes(BLOCK)
    yield "end-long.tar", "zeros up to the record of 10 kB", A + B + bytes(10_240 - 2048)
    yield "end-odd.tar", "an end mark cut short", A + B + bytes(700)
    yield "end-garbage.tar", "text behind the end mark", A + B + END + b"garbage"
    yield "end-then-member.tar", "a member behind the end mark", A + END + B + END
    yield "end-one-block-then-member.tar", "a member behind half an end mark", A + bytes(BLOCK) + B + END
    yield "concatenated.tar", "two archives", A + END + bytes(1024) + B + END
    yield "cut-in-header.tar", "cut inside a header", A + B[:300]
    yield "cut-in-data.tar", "cut inside data", A + member(b"b", b"y" * 900)[:-600]
    yield "cut-in-padding.tar", "cut inside padding", A + B[:-100]
    yield "cut-after-header.tar", "cut right behind a header", A + B[:BLOCK]
    yield "cut-after-long-name.tar", "cut right behind a long name", A + long_name(b"x")
    yield "no-member.tar", "nothing but an end mark", END
    yield "empty.tar", "no byte", b""
    yield "zeros-100.tar", "fewer zeros than an end mark has", bytes(100)


def damage() -> Iterator[Case]:
    yield "flipped-first-header.tar", "a flipped bit in the first header", poke(A, 0, b"b") + B + END
    yield "flipped-second-header.tar", "a flipped bit in the second header", A + poke(B, 0, b"c") + A + END
    yield "flipped-checksum.tar", "a flipped bit in a checksum", A + poke(B, 150, b"0") + END
    yield "flipped-data.tar", "a flipped bit in data: the index's business", A + poke(B, BLOCK, b"S") + END
    yield "checksum-letters.tar", "a checksum that is no number", A + poke(B, 148, b"xxxxxx\0 ") + END
    yield "block-lost.tar", "a block of data is gone", A + header(b"b", 1024) + b"x" * BLOCK + A + END
    yield (
        "block-twice.tar",
        "a block of data is there twice",
        member(b"b", b"x" * BLOCK) + b"x" * BLOCK + A + END,
    )
    yield "header-twice.tar", "a header is there twice", A + header(b"b", 0) * 2 + END
    yield "noise.tar", "bytes of no format", bytes(i * i % 251 for i in range(2000))


def kinds() -> Iterator[Case]:
    for kind, name in ((b"2", "symlink"), (b"3", "character-device"), (b"4", "block-device"), (b"6", "fifo")):
        yield (
            f"{name}.tar",
            f"a {name} that claims a size, as some writers do",
            (header(name.encode(), BLOCK, kind) + A + END),
        )
    yield "folder.tar", "a folder", header(b"folder/", 0, b"5") + A + END
    yield "hard-link.tar", "a hard link", A + header(b"h", 0, b"1") + B + END
    yield (
        "hard-link-with-data.tar",
        "a hard link with data: readers differ",
        A + member(b"h", b"x", b"1") + END,
    )
    yield "sparse-gnu.tar", "a sparse file of GNU tar", A + member(b"s", b"x" * 10, b"S", GNU) + END
    for version, records in (
        ("0.0", (b"GNU.sparse.size=1024", b"GNU.sparse.numblocks=1", b"GNU.sparse.offset=0")),
        ("0.1", (b"GNU.sparse.size=1024", b"GNU.sparse.map=0,1", b"GNU.sparse.name=real.jpg")),
        ("1.0", (b"GNU.sparse.major=1", b"GNU.sparse.minor=0", b"GNU.sparse.name=real.jpg")),
    ):
        yield (
            f"sparse-pax-{version}.tar",
            f"a sparse file of PAX {version}",
            (A + pax(*records) + member(b"s", b"1\n0\n1\n") + END),
        )
    yield "multi-volume.tar", "a part of another volume", A + member(b"m", b"x", b"M", GNU) + END
    yield "volume-label.tar", "a volume label", header(b"label", 0, b"V", GNU) + A + END
    yield "solaris.tar", "an extension of Solaris", member(b"X", b"9 path=x\n", b"X") + A + END
    yield "kind-unknown.tar", "an unknown type", A + member(b"z", b"x", b"Z") + END


def names() -> Iterator[Case]:
    yield "name-twice.tar", "two members of one name", A + member(b"a.jpg", b"other") + END
    yield "name-parent.tar", "a name that leads to a parent folder", member(b"../../etc/e.jpg", b"1") + END
    yield "name-absolute.tar", "an absolute name", member(b"/etc/passwd", b"1") + END
    yield "name-empty.tar", "no name", member(b"", b"1") + END
    yield "name-slash.tar", "a file whose name ends in a slash", member(b"file/", b"1") + END
    yield "name-escape.tar", "escape codes and a line break in a name", member(b"\x1b[2J\n.jpg", b"1") + END
    yield (
        "name-hidden.tar",
        "bytes behind the NUL of a name",
        with_checksum(poke(header(b"a.jpg", 0), 6, b"/../b")) + END,
    )
    inner = A + B + END
    yield "tar-in-tar.tar", "an archive inside an archive", member(b"inner.tar", inner) + B + END
    yield "data-like-header.tar", "data that look like headers", member(b"a", HIDDEN * 2) + B + END
    for label, content in (
        ("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + zlib.crc32(b"").to_bytes(4, "little") + bytes(600)),
        ("zstd", b"\x28\xb5\x2f\xfd" + bytes(600)),
        ("xz", b"\xfd7zXZ\0" + bytes(600)),
        ("bzip2", b"BZh9" + bytes(600)),
        ("zip", b"PK\3\4" + bytes(600)),
        ("jpeg", b"\xff\xd8\xff\xe0" + bytes(600)),
    ):
        yield f"not-{label}.tar", f"a {label} file named .tar", content


def cases() -> Iterator[Case]:
    for group in (dialects, sizes, extensions, ends, damage, kinds, names):
        yield from group()
