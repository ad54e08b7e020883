"""Decoding against Pillow's `convert("RGB")`: bit for bit, unless a test says otherwise."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from barlow.data import DataError, decode, peek
from pictures import as_rgb, encode, read, real_jpegs, synthetic

# Decoding: JPEG


@pytest.mark.parametrize("size", [(64, 48), (33, 17), (1, 1), (1, 40), (40, 1), (250, 3)])
@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": 0},
        {"subsampling": 1},
        {"subsampling": 2, "quality": 30},
        {"progressive": True, "subsampling": 2},
        {"progressive": True, "subsampling": 0, "quality": 100},
        {"optimize": True, "restart_marker_blocks": 2},
        {"progressive": True, "restart_marker_rows": 1},
    ],
)
def test_jpeg(size: tuple[int, int], options: dict[str, Any]) -> None:
    data = encode(synthetic(*size, seed=1), "JPEG", **{"quality": 85, **options})
    assert peek(data) == ("jpeg", size[1], size[0])
    np.testing.assert_array_equal(decode(data), as_rgb(data))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_of_other_colours(mode: str, progressive: bool) -> None:
    image = synthetic(45, 31, seed=2).convert(mode)
    if mode == "CMYK":  # Pillow's conversion leaves K empty
        planes = [*image.split()[:3], synthetic(45, 31, seed=3).convert("L")]
        image = Image.merge("CMYK", planes)
    data = encode(image, "JPEG", quality=90, progressive=progressive)
    np.testing.assert_array_equal(decode(data), as_rgb(data))


def adobe(data: bytes, transform: int) -> bytes:
    """The JPEG with an Adobe marker that states the colour transform, in place of any other APP marker."""
    marker = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
    at = 2
    while data[at + 1] in (0xE0, 0xEE):
        at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    return b"\xff\xd8" + marker + data[at:]


@pytest.mark.parametrize(("mode", "transform"), [("RGB", 0), ("RGB", 1), ("CMYK", 0), ("CMYK", 2)])
def test_jpeg_colour_transforms_of_adobe(mode: str, transform: int) -> None:
    data = adobe(encode(synthetic(40, 30, seed=4).convert(mode), "JPEG", subsampling=0), transform)
    np.testing.assert_array_equal(decode(data), as_rgb(data))


def test_exif_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = synthetic(40, 30, seed=5)
    data = encode(image, "JPEG", exif=exif)
    assert decode(data).shape == (30, 40, 3)
    np.testing.assert_array_equal(decode(data), decode(encode(image, "JPEG")))


def test_real_jpegs(shared_data: Path) -> None:
    for number, data in enumerate(real_jpegs(shared_data)):
        if number % 5 == 0:
            np.testing.assert_array_equal(decode(data), as_rgb(data))
        assert peek(data) == ("jpeg", *read(data).size[::-1])


# Decoding: PNG and WebP

ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def png(
    samples: NDArray[np.uint16], bits: int, colour: int, extra: bytes = b"", interlaced: bool = False
) -> bytes:
    """A PNG of samples [H, W, C] of any kind; Pillow writes only some."""
    height, width, _ = samples.shape

    def rows(part: NDArray[np.uint16]) -> bytes:
        if part.size == 0:
            return b""
        flat = part.reshape(part.shape[0], -1)
        if bits == 16:
            packed = [row.astype(">u2").tobytes() for row in flat]
        else:
            shifts = np.arange(bits - 1, -1, -1)
            packed = [np.packbits((row[:, None] >> shifts) & 1).tobytes() for row in flat]
        return b"".join(b"\0" + row for row in packed)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    passes = [samples[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlaced else [samples]
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, int(interlaced))
    data = zlib.compress(b"".join(map(rows, passes)))
    chunks = [chunk(b"IHDR", header), extra, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def palette(transparency: bool) -> bytes:
    colours = np.random.default_rng(6).integers(0, 256, 768, dtype=np.uint8).tobytes()
    chunks = [(b"PLTE", colours)] + ([(b"tRNS", bytes(range(0, 256, 3)))] if transparency else [])
    return b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("bits", "colour"),
    [
        (1, 0),
        (2, 0),
        (4, 0),
        (8, 0),
        (8, 2),
        (16, 2),
        (8, 3),
        (4, 3),
        (1, 3),
        (8, 4),
        (16, 4),
        (8, 6),
        (16, 6),
    ],
)
def test_png(bits: int, colour: int, interlaced: bool) -> None:
    shape = (19, 27, CHANNELS[colour])
    samples = np.random.default_rng(bits).integers(0, 1 << bits, shape).astype(np.uint16)
    for transparency in (False, True) if colour == 3 and bits == 8 else (False,):
        data = png(samples, bits, colour, palette(transparency) if colour == 3 else b"", interlaced)
        assert peek(data) == ("png", 19, 27)
        np.testing.assert_array_equal(decode(data), as_rgb(data))


def test_png_of_16_bit_grey_keeps_the_high_byte() -> None:
    # Pillow clips here (every value above 255 turns white); no picture is meant that way.
    samples = np.arange(0, 65536, 331, dtype=np.uint16).reshape(1, -1, 1)
    np.testing.assert_array_equal(decode(png(samples, 16, 0))[..., 0], samples[..., 0] >> 8)


def test_transparent_colours_are_kept() -> None:
    image = synthetic(30, 20, seed=7)
    data = encode(image, "PNG", transparency=image.getpixel((0, 0)))
    np.testing.assert_array_equal(decode(data), np.asarray(image))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("options", [{"lossless": True, "exact": True}, {"quality": 80}, {"quality": 10}])
def test_webp(mode: str, options: dict[str, Any]) -> None:
    image = synthetic(61, 43, seed=8).convert(mode)
    if mode == "RGBA":
        image.putalpha(synthetic(61, 43, seed=9).convert("L"))
    data = encode(image, "WEBP", **options)
    assert peek(data) == ("webp", 43, 61)
    np.testing.assert_array_equal(decode(data), as_rgb(data))


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_an_animation_is_its_first_frame(form: str) -> None:
    first, second = synthetic(32, 24, seed=10), synthetic(32, 24, seed=11)
    options = {"lossless": True} if form == "WEBP" else {}
    data = encode(first, form, save_all=True, append_images=[second], **options)
    np.testing.assert_array_equal(decode(data), np.asarray(first))


# Decoding: what is refused


def test_damage_is_an_error_with_a_kind() -> None:
    data = encode(synthetic(40, 30, seed=12), "JPEG")
    for damaged in (data[: len(data) // 2], data[:-2], data[:20], b"\xff\xd8\xff"):
        with pytest.raises(DataError) as caught:
            decode(damaged)
        assert (caught.value.kind, caught.value.shard) == ("image", None)
    for stranger in (b"", b"GIF89a", b"<html>", b"BM" + bytes(100)):
        with pytest.raises(DataError, match="not a JPEG, PNG or WebP"):
            peek(stranger)


def test_a_header_that_claims_too_much_is_refused() -> None:
    huge = png(np.zeros((1, 1, 1), np.uint16), 8, 0)
    huge = huge[:16] + struct.pack(">II", 60_000, 60_000) + huge[24:]
    with pytest.raises(DataError, match="number of pixels is 3600000000") as caught:
        decode(huge)
    assert caught.value.kind == "limit"
