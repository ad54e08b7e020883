"""The tar reader on whole archives of every dialect, as CPython's tarfile writes and lists them; the address
of a fault. Hostile archives are in tests/corpus, mutated ones in test_tar_mutants.py."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from barlow import _native as native
from corpus.tar_parts import header, member
from tar_oracle import verdict


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
            part = tarfile.TarInfo(name)
            part.size = [0, 1, 511, 512, 513, 1500][number % 6]
            tar.addfile(part, io.BytesIO(bytes([65 + number]) * part.size))
            other = tarfile.TarInfo(
                f"other-{number}" + "k" * (40 * number if format != tarfile.USTAR_FORMAT else 0)
            )
            kinds = [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
            other.type = kinds[number % len(kinds)]
            other.linkname = "l" * (30 * number) if format != tarfile.USTAR_FORMAT else "target"
            tar.addfile(other)
        nested = tarfile.TarInfo("nested.tar")
        inner = header(b"evil.jpg", 4) * 2
        nested.size = len(inner)
        tar.addfile(nested, io.BytesIO(inner))
    return buffer.getvalue()


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


def test_a_fault_has_an_address(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(member(b"a", b"x") + member(b"b\n.jpg", b"y" * 600)[:-300])
    with pytest.raises(native.DataError, match="archive ends early") as caught:
        native.members(path)
    error = caught.value
    assert (error.kind, error.shard, error.member, error.offset) == ("archive", str(path), "b\\n.jpg", 1024)
