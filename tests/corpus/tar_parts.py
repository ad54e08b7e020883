"""Here: the parts of tar archives, block by block: headers, checksums, PAX records.
Not here: which archives are made of them (archives.py, and the mutants of test_tar_mutants.py).
"""

from __future__ import annotations

BLOCK = 512
END = bytes(2 * BLOCK)
USTAR, GNU, V7 = b"ustar\x0000", b"ustar  \0", b""


def with_checksum(block: bytes) -> bytes:
    total = sum(block[:148]) + 8 * 32 + sum(block[156:])
    return block[:148] + b"%06o\0 " % total + block[156:]


def header(
    name: bytes, size: int | bytes, kind: bytes = b"0", magic: bytes = V7, prefix: bytes = b""
) -> bytes:
    """One block; `size` is a number or the twelve bytes of the field."""
    field = b"%011o\0" % size if isinstance(size, int) else size
    fields = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + field + b"0" * 11 + b"\0"
    block = (fields.ljust(156, b" ") + kind).ljust(257, b"\0") + magic
    return with_checksum((block.ljust(345, b"\0") + prefix).ljust(BLOCK, b"\0"))


def member(name: bytes, data: bytes, kind: bytes = b"0", magic: bytes = V7, prefix: bytes = b"") -> bytes:
    return header(name, len(data), kind, magic, prefix) + padded(data)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def pax_record(text: bytes) -> bytes:
    length = len(text) + 3
    while len(b"%d %s\n" % (length, text)) != length:
        length += 1
    return b"%d %s\n" % (length, text)


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    return member(b"PaxHeaders/x", b"".join(map(pax_record, records)), kind, USTAR)


def long_name(name: bytes, kind: bytes = b"L") -> bytes:
    return member(b"././@LongLink", name + b"\0", kind, GNU)
