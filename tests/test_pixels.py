"""Decoding and every pixel operation against Pillow and torchvision: bit for bit, unless a test says else."""

from __future__ import annotations

import io
import random
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import functional as F

from barlow.data import DataError, apply, decode, peek

Pixels = NDArray[np.uint8]

# Pillow 13 runs the column pass of a resize first where that is cheaper, as barlow does; before, rows always
# came first, and what a bicubic filter overshoots was clipped in another order.
SAME_PASS_ORDER = int(PIL.__version__.split(".")[0]) >= 13


def synthetic(width: int, height: int, seed: int) -> Image.Image:
    """Noise, ramps, flat and saturated areas side by side."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x + y) % 256], -1)
    pixels[:, : width // 3] = rng.integers(0, 256, (height, width // 3, 3))
    pixels[height // 2 :, width // 2 :] = rng.integers(0, 2, 3) * 255
    return Image.fromarray(pixels.astype(np.uint8))


def read(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def as_rgb(data: bytes) -> Pixels:
    return np.asarray(read(data).convert("RGB"))


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


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


def real_jpegs(folder: Path) -> Iterator[bytes]:
    with tarfile.open(folder / "imagenet-sample.tar") as archive:
        for member in archive:
            if member.isfile() and (file := archive.extractfile(member)) is not None:
                yield file.read()


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


# Operations

SIZE = 56


def view(image: Image.Image, *operations: tuple[Any, ...], size: int = SIZE) -> Pixels:
    """Operations alone: the window is as large as the view, so that nothing is resampled."""
    parameters: Any = {
        "window": (0, 0, size, size),
        "resized": (size, size),
        "offset": (0, 0),
        "size": size,
        "interpolation": "bicubic",
        "operations": list(operations),
    }
    return apply(np.asarray(image), parameters).transpose(1, 2, 0)


def torchvision_view(image: Image.Image, parameters: Any) -> Image.Image:
    """The same parameters, carried out by Pillow and torchvision."""
    x, y, width, height = parameters["window"]
    resample = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    image = image.crop((x, y, x + width, y + height))
    image = image.resize(parameters["resized"], resample[parameters["interpolation"]])
    x, y = parameters["offset"]
    image = image.crop((x, y, x + parameters["size"], y + parameters["size"]))
    for name, *value in parameters["operations"]:
        image = REFERENCE[name](image, *value)
    return image


REFERENCE: dict[str, Any] = {
    "flip": F.hflip,
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
    "hue": F.adjust_hue,
    "grayscale": lambda image: F.rgb_to_grayscale(image, 3),
    "blur": lambda image, sigma: image.filter(ImageFilter.GaussianBlur(sigma)),
    "solarize": lambda image, threshold: ImageOps.solarize(image, int(threshold)),
}

VALUES: dict[str, Any] = {
    "flip": lambda rng: (),
    "brightness": lambda rng: (rng.choice([0.0, 1.0, rng.uniform(0, 3)]),),
    "contrast": lambda rng: (rng.choice([0.0, 1.0, rng.uniform(0, 3)]),),
    "saturation": lambda rng: (rng.choice([0.0, 1.0, rng.uniform(0, 3)]),),
    "hue": lambda rng: (rng.uniform(-0.5, 0.5),),
    "grayscale": lambda rng: (),
    "blur": lambda rng: (rng.choice([0.0, rng.uniform(0.1, 2.0), rng.uniform(2.0, 40.0)]),),
    "solarize": lambda rng: (rng.randint(0, 255),),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_each_operation(name: str) -> None:
    rng = random.Random(name)
    for trial in range(40):
        image = synthetic(SIZE, SIZE, seed=trial)
        value = VALUES[name](rng)
        expected = np.asarray(REFERENCE[name](image, *value))
        np.testing.assert_array_equal(view(image, (name, *value)), expected, err_msg=f"{name} {value}")


def test_hue_of_every_colour() -> None:
    side = 4096
    levels = np.arange(side * side, dtype=np.uint32).reshape(side, side)
    image = Image.fromarray(np.stack([levels >> 16, levels >> 8, levels], -1).astype(np.uint8))
    for shift in (0.1, -0.37):
        expected = np.asarray(REFERENCE["hue"](image, shift))
        np.testing.assert_array_equal(view(image, ("hue", shift), size=side), expected)


def check_view_of(image: Image.Image, parameters: Any) -> None:
    found = apply(np.asarray(image), parameters).transpose(1, 2, 0).astype(int)
    difference = np.abs(found - np.asarray(torchvision_view(image, parameters)))
    if SAME_PASS_ORDER:
        assert difference.max() == 0, parameters
    else:
        assert difference.mean() < 1, parameters


def random_parameters(rng: random.Random, width: int, height: int, size: int) -> dict[str, Any]:
    across, down = rng.randint(1, width), rng.randint(1, height)
    names = rng.sample(list(REFERENCE), k=rng.randint(0, len(REFERENCE)))
    return {
        "window": (rng.randint(0, width - across), rng.randint(0, height - down), across, down),
        "resized": (size, size),
        "offset": (0, 0),
        "size": size,
        "interpolation": rng.choice(["bilinear", "bicubic"]),
        "operations": [(name, *VALUES[name](rng)) for name in names],
    }


def test_whole_views_of_random_windows() -> None:
    """Windows of any shape, smaller and larger than the view, down to one pixel."""
    rng = random.Random(13)
    for trial in range(150):
        width, height = rng.randint(1, 200), rng.randint(1, 200)
        image = synthetic(width, height, seed=trial)
        parameters = random_parameters(rng, width, height, size=rng.choice([1, 7, 32, 57, 96]))
        if trial % 3:
            parameters["operations"] = []
        check_view_of(image, parameters)


def test_whole_views_of_real_images(shared_data: Path) -> None:
    rng = random.Random(14)
    for number, data in enumerate(real_jpegs(shared_data)):
        if number % 25 == 0:
            image = read(data).convert("RGB")
            check_view_of(image, random_parameters(rng, *image.size, size=224))


def test_pixels_outside_the_window_have_no_influence() -> None:
    rng = random.Random(15)
    parameters = random_parameters(rng, 60, 50, size=32) | {"window": (10, 12, 30, 25), "operations": []}
    pixels = np.asarray(synthetic(60, 50, seed=16))
    altered = 255 - pixels
    altered[12:37, 10:40] = pixels[12:37, 10:40]
    np.testing.assert_array_equal(apply(pixels, parameters), apply(altered, parameters))


def test_part_of_a_resized_image_is_that_part() -> None:
    image = synthetic(90, 130, seed=17)
    parameters: Any = {"window": (0, 0, 90, 130), "resized": (48, 69), "size": 32, "operations": []}
    for interpolation in ("bilinear", "bicubic"):
        for offset in ((0, 0), (8, 18), (16, 37)):
            check_view_of(image, parameters | {"offset": offset, "interpolation": interpolation})


@pytest.mark.parametrize(
    "change",
    [
        {"window": (0, 0, 61, 50)},
        {"window": (60, 0, 1, 1)},
        {"window": (0, 0, 0, 50)},
        {"window": (4294967295, 0, 2, 2)},
        {"offset": (1, 0)},
        {"resized": (31, 32)},
        {"interpolation": "nearest"},
        {"operations": [("sharpen", 1.0)]},
        {"operations": [("flip", 1.0)]},
        {"operations": [("hue", 0.6)]},
        {"operations": [("blur", float("nan"))]},
    ],
)
def test_parameters_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    parameters = random_parameters(random.Random(18), 60, 50, size=32) | {"operations": []}
    image = np.asarray(synthetic(60, 50, seed=19))
    apply(image, parameters)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"fit|interpolation|step"):
        apply(image, parameters | change)  # type: ignore[operator]
