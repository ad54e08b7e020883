"""Recoded images: the original bytes and the plain path's pixels, for every kind of JPEG that there is."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from barlow.data import DataError, decode, peek, recode, restore
from corpus import make
from pictures import encode, synthetic
from sources import refused

KEPT = {
    *("adobe-cmyk", "adobe-ycck", "cmyk-no-marker", "progressive-cmyk"),  # four components
    *("arithmetic-sequential", "arithmetic-progressive", "lossless-rgb"),  # no Huffman codes, no coefficients
    *("progressive-last-scan-missing", "scans-100"),  # fewer scans than coefficients need, or more
    *("size-65500x1", "no-dht"),  # an encoder's zeros behind the last block; tables that every decoder knows
}
"""JPEGs of the corpus that decode and are stored as they are."""


def agrees(data: bytes) -> bool:
    """Whether a file is recoded; then it comes back and has its pixels, at every scale."""
    member = recode(data)
    if member is None:
        return False
    assert restore(member) == data
    form, height, width = peek(data)
    assert (form, *peek(member)) == ("jpeg", "recoded", height, width)
    for shrink in (1, 2, 4, 8):
        assert np.array_equal(decode(member, shrink), decode(data, shrink))
    return True


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2, "keep"])
def test_files_of_pillow(subsampling: int | str, progressive: bool) -> None:
    for width, height in ((1, 1), (16, 8), (97, 61)):
        image = synthetic(width, height, 5)
        options = {} if subsampling == "keep" else {"subsampling": subsampling}
        image = image.convert("L") if subsampling == "keep" else image
        for restart in ({}, {"restart_marker_blocks": 3}, {"restart_marker_rows": 1}):
            for quality in (5, 80, 100):
                data = encode(image, "JPEG", quality=quality, progressive=progressive, **options, **restart)
                assert agrees(data), (width, height, quality, restart)


def test_the_corpus_is_recoded_or_left_to_the_plain_path() -> None:
    """What is recoded decodes on the plain path, too."""
    left = set()
    for path, (_, data) in make.files().items():
        if not path.startswith("images/") or not data.startswith(b"\xff\xd8\xff") or agrees(data):
            continue
        try:
            decode(data)
        except DataError:
            continue
        left.add(path.removeprefix("images/").removesuffix(".jpg"))
    assert left == KEPT


BASE = encode(synthetic(70, 50, 1), "JPEG", quality=85)
SCAN = BASE.index(b"\xff\xda")


@pytest.mark.parametrize(
    "data",
    [
        BASE + b"trailing \xff\xd8\xff\xda bytes",
        BASE[:2] + b"\xff\xe1\x40\x02" + bytes(0x4000) + BASE[2:],
        BASE[:SCAN] + b"\xff\xff\xff" + BASE[SCAN:],
        BASE[:SCAN] + b"junk" + BASE[SCAN:],
        BASE[:-2] + b"\0\0\xff\0junk" + BASE[-2:],
        BASE[:-2] + b"\xff\xff" + BASE[-2:],
        BASE[:-2] + b"\xff\xd0" + BASE[-2:],
        BASE[:SCAN] + b"\xff\xfe\x00\x05abc" + BASE[SCAN:],
    ],
    ids=["trailing", "exif", "fill", "junk", "junk-at-end", "fill-at-end", "restart-at-end", "comment"],
)
def test_everything_around_the_image_comes_back(data: bytes) -> None:
    assert agrees(data)


def padded(data: bytes, bits: int) -> bytes:
    """With other padding in the last byte of the scan, if it has so many bits of it."""
    last = data[-3]
    return data[:-3] + bytes([last & ~((1 << bits) - 1) & 0xFF]) + data[-2:]


def test_any_padding_comes_back() -> None:
    zeros = 0
    for seed in range(12):
        data = encode(synthetic(40, 30, seed), "JPEG", quality=70)
        member = recode(data)
        assert member is not None
        for bits in (1, 2, 3):
            other = padded(data, bits)
            again = recode(other)
            # Bits that were no padding change a coefficient, or break the file.
            if other == data or again is None or np.any(decode(again) != decode(member)):
                continue
            assert restore(again) == other
            zeros += 1
    assert zeros > 5


def test_a_member_is_refused_before_it_costs_anything() -> None:
    member = recode(BASE)
    assert member is not None
    for length in range(len(member)):
        with pytest.raises(DataError):
            restore(member[:length])
    newer = member[:8] + (9).to_bytes(4, "little") + member[12:]
    for call in (decode, restore, peek):
        assert "version 9" in str(refused("version", call, newer))
    with pytest.raises(DataError, match="ends early"):
        restore(BASE)


def real(path: Path, step: int) -> Iterator[bytes]:
    with tarfile.open(path) as archive:
        for number, member in enumerate(archive):
            if member.isfile() and number % step == 0 and (file := archive.extractfile(member)):
                yield file.read()


@pytest.mark.parametrize(("name", "step"), [("imagenet-sample", 25), ("cifar10-test", 40)])
def test_real_files(shared_data: Path, name: str, step: int) -> None:
    before = after = 0
    for data in real(shared_data / f"{name}.tar", step):
        assert agrees(data)
        member = recode(data)
        assert member is not None
        before, after = before + len(data), after + len(member)
    assert 0 < after < 1.45 * before


def test_pillow_is_the_oracle_of_pixels() -> None:
    data = encode(synthetic(90, 70, 3), "JPEG", quality=92, progressive=True)
    member = recode(data)
    assert member is not None
    assert np.array_equal(decode(member), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
