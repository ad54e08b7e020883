"""Here: the PNG and WebP cases of the corpus, and other formats under the name of a JPEG.
Not here: what comes out of them (outcomes.txt).

PNG data are compressed by hand, in stored blocks or in the one pattern of a bomb: compressors differ from
machine to machine, these bytes do not.
"""

from __future__ import annotations

import struct
import zlib
from base64 import b85decode
from collections.abc import Iterator

from corpus.jpeg_writer import numbers
from corpus.jpegs import Case, poke

SIGNATURE = b"\x89PNG\r\n\x1a\n"
WIDTH, HEIGHT = 13, 9
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def stored(data: bytes) -> bytes:
    """A zlib stream that compresses nothing."""
    blocks = [data[at : at + 65535] for at in range(0, len(data), 65535)] or [b""]
    body = b"".join(
        struct.pack("<BHH", i == len(blocks) - 1, len(block), len(block) ^ 0xFFFF) + block
        for i, block in enumerate(blocks)
    )
    return b"\x78\x01" + body + struct.pack(">I", zlib.adler32(data))


def zeros(count: int) -> bytes:
    """A zlib stream of 1 + 258 n zeros, 13 bits for each 258: the most that deflate can do."""
    repeats = count // 258
    # A fixed block, the literal 0, then "258 bytes from one byte ago" over and over, then its end.
    bits = "110" + "00110000" + ("11000101" + "00000") * repeats + "0000000"
    bits += "0" * (-len(bits) % 8)
    # Deflate fills bytes from the lowest bit.
    body = int(bits[::-1], 2).to_bytes(len(bits) // 8, "little")
    return b"\x78\x01" + body + struct.pack(">I", zlib.adler32(bytes(1 + 258 * repeats)))


def header(width: int, height: int, bits: int, colour: int, *, methods: tuple[int, int, int] = (0, 0, 0)):
    return chunk(b"IHDR", struct.pack(">IIBB3B", width, height, bits, colour, *methods))


def rows(width: int, height: int, bits: int, colour: int, seed: int, kind: int = 0) -> bytes:
    draw = numbers(seed)
    length = -(-width * CHANNELS[colour] * bits // 8)
    return b"".join(bytes([kind]) + bytes(next(draw) % 256 for _ in range(length)) for _ in range(height))


def pixels(bits: int, colour: int, interlaced: bool = False, kind: int = 0) -> bytes:
    if not interlaced:
        return rows(WIDTH, HEIGHT, bits, colour, 1, kind)
    data = b""
    for number, (x, y, dx, dy) in enumerate(ADAM7):
        width, height = -(-(WIDTH - x) // dx), -(-(HEIGHT - y) // dy)
        data += rows(width, height, bits, colour, number, kind) if width > 0 and height > 0 else b""
    return data


def png(bits: int, colour: int, *extra: bytes, interlaced: bool = False, data: bytes | None = None) -> bytes:
    """`extra` are chunks before the image data; `data` replaces the zlib stream."""
    stream = stored(pixels(bits, colour, interlaced)) if data is None else data
    head = header(WIDTH, HEIGHT, bits, colour, methods=(0, 0, int(interlaced)))
    return SIGNATURE + head + b"".join(extra) + chunk(b"IDAT", stream) + chunk(b"IEND", b"")


def palette(colours: int) -> bytes:
    draw = numbers(5)
    return chunk(b"PLTE", bytes(next(draw) % 256 for _ in range(3 * colours)))


def kinds() -> Iterator[Case]:
    names = {0: "grey", 2: "rgb", 3: "palette", 4: "grey-alpha", 6: "rgba"}
    depths = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
    for colour, name in names.items():
        for bits in depths[colour]:
            extra = [palette(1 << bits)] if colour == 3 else []
            yield f"{name}-{bits}.png", f"{name}, {bits} bits", png(bits, colour, *extra)
    for bits, colour in ((1, 0), (8, 2), (4, 3), (16, 6)):
        extra = [palette(1 << bits)] if colour == 3 else []
        yield (
            f"interlaced-{names[colour]}-{bits}.png",
            "interlaced",
            png(bits, colour, *extra, interlaced=True),
        )
    yield (
        "transparent-grey.png",
        "tRNS: one shade is transparent, its pixels stay",
        png(8, 0, chunk(b"tRNS", b"\0\x55")),
    )
    yield "transparent-rgb.png", "tRNS: one colour is transparent", png(8, 2, chunk(b"tRNS", bytes(6)))
    yield (
        "transparent-palette.png",
        "tRNS: an alpha for every colour",
        png(8, 3, palette(256), chunk(b"tRNS", bytes(range(256)))),
    )
    for kind in range(1, 5):
        yield (
            f"filter-{kind}.png",
            f"every row with filter {kind}",
            png(8, 2, data=stored(pixels(8, 2, kind=kind))),
        )
    control = chunk(b"acTL", struct.pack(">II", 2, 0))
    first = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, WIDTH, HEIGHT, 0, 0, 1, 10, 0, 0))
    second = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 1, WIDTH, HEIGHT, 0, 0, 1, 10, 0, 0))
    frame = chunk(b"fdAT", struct.pack(">I", 2) + stored(rows(WIDTH, HEIGHT, 8, 2, 8)))
    still = png(8, 2, control, first)
    yield "animated.png", "an APNG: the first frame", still[:-12] + second + frame + still[-12:]


def odd() -> Iterator[Case]:
    gamma = chunk(b"gAMA", struct.pack(">I", 1))
    yield "gamma.png", "an absurd gamma: ignored", png(8, 2, gamma, chunk(b"sRGB", b"\3"))
    yield (
        "profile-bomb.png",
        "an iCCP chunk that inflates to 5 MB",
        png(8, 2, chunk(b"iCCP", b"x\0\0" + zeros(5_000_000))),
    )
    yield (
        "text-bomb.png",
        "a zTXt chunk that inflates to 5 MB",
        png(8, 2, chunk(b"zTXt", b"Comment\0\0" + zeros(5_000_000))),
    )
    yield "text-20k.png", "a text chunk of 20 kB", png(8, 2, chunk(b"tEXt", b"k\0" + b"x" * 20_000))
    stream = stored(pixels(8, 2))
    split = b"".join(chunk(b"IDAT", stream[i : i + 1]) for i in range(len(stream)))
    yield (
        "idat-split.png",
        "image data in chunks of one byte",
        (SIGNATURE + header(WIDTH, HEIGHT, 8, 2) + split + chunk(b"IEND", b"")),
    )
    yield "idat-empty.png", "an empty image data chunk first", png(8, 2, chunk(b"IDAT", b""))
    yield "data-bomb.png", "image data of 5 MB for 351 bytes of pixels", png(8, 2, data=zeros(5_000_000))
    yield "data-more.png", "one row too many", png(8, 2, data=stored(pixels(8, 2) + bytes(40)))
    yield "trailing.png", "text behind the end", png(8, 2) + b"garbage"
    whole = png(8, 2)
    yield (
        "text-crc.png",
        "a wrong CRC in a chunk that does not matter",
        whole.replace(chunk(b"IDAT", stream), chunk(b"tEXt", b"a\0b")[:-1] + b"?" + chunk(b"IDAT", stream)),
    )
    yield "no-end.png", "no IEND chunk", whole[:-12]


def damage() -> Iterator[Case]:
    whole = png(8, 2)
    data_at = whole.index(b"IDAT")
    yield "header-crc.png", "a wrong CRC in the header", poke(whole, 29, b"\0\0\0\0")
    yield "data-crc.png", "a wrong CRC in the image data", poke(whole, len(whole) - 16, b"\0\0\0\0")
    yield (
        "data-bit.png",
        "a flipped bit in the image data",
        poke(whole, data_at + 60, bytes([whole[data_at + 60] ^ 4])),
    )
    stream = stored(pixels(8, 2))
    yield "adler.png", "a wrong checksum of the zlib stream", png(8, 2, data=stream[:-4] + bytes(4))
    yield "data-short.png", "half of the rows", png(8, 2, data=stored(pixels(8, 2)[: 5 * 40]))
    yield "data-cut.png", "half of the zlib stream", png(8, 2, data=stream[: len(stream) // 2])
    yield "data-noise.png", "no zlib stream", png(8, 2, data=b"\x78\x01" + b"\xff" * 300)
    yield "data-none.png", "no image data", SIGNATURE + header(WIDTH, HEIGHT, 8, 2) + chunk(b"IEND", b"")
    yield "filter-5.png", "a filter that does not exist", png(8, 2, data=stored(pixels(8, 2, kind=5)))
    for percent in (10, 50, 90):
        yield f"cut-{percent}.png", f"the first {percent} % of a file", whole[: len(whole) * percent // 100]
    yield "signature-only.png", "the signature", SIGNATURE
    for name, bits, colour, methods in (
        ("depth-3", 3, 0, (0, 0, 0)),
        ("rgb-depth-4", 4, 2, (0, 0, 0)),
        ("colour-5", 8, 5, (0, 0, 0)),
        ("compression-1", 8, 2, (1, 0, 0)),
        ("filter-method-1", 8, 2, (0, 1, 0)),
        ("interlace-2", 8, 2, (0, 0, 2)),
    ):
        head = header(WIDTH, HEIGHT, bits, colour, methods=methods)
        yield (
            f"header-{name}.png",
            "a header of something that does not exist",
            (SIGNATURE + head + chunk(b"IDAT", stream) + chunk(b"IEND", b"")),
        )
    for width, height in ((0, 9), (0x7FFFFFFF, 0x7FFFFFFF), (60_000, 60_000), (13_000, 13_000)):
        yield (
            f"claims-{width}x{height}.png",
            f"a header that claims {width} x {height}",
            (SIGNATURE + header(width, height, 8, 2) + chunk(b"IDAT", stream) + chunk(b"IEND", b"")),
        )
    yield "palette-none.png", "palette colours without a palette", png(8, 3)
    yield "palette-short.png", "colour numbers beyond the palette", png(8, 3, palette(16))
    yield (
        "palette-uneven.png",
        "a palette that ends inside a colour: the png library panics (fuzzing)",
        png(4, 3, chunk(b"PLTE", bytes(range(47)))),
    )
    yield "palette-257.png", "a palette of 257 colours", png(8, 3, palette(257))
    yield (
        "chunk-length.png",
        "a chunk that reaches behind the file",
        poke(whole, data_at - 4, b"\x7f\xff\xff\xff"),
    )
    yield "chunk-unknown.png", "an unknown chunk that must not be ignored", png(8, 2, chunk(b"WXYZ", b"?"))


def webp() -> Iterator[Case]:
    for name, reason, text in WEBP:
        yield f"{name}.webp", reason, b85decode(text)
    lossy, lossless = (b85decode(text) for _, _, text in WEBP[:2])
    for name, data in (("lossy", lossy), ("lossless", lossless)):
        yield f"{name}-cut.webp", "half of it", data[: len(data) // 2]
        yield f"{name}-noise.webp", "noise where the data were", data[:30] + b"\xa5" * (len(data) - 30)
        yield (
            f"{name}-claims.webp",
            "a header that claims 16383 x 16383 pixels",
            (poke(data, 26, b"\xff\x3f\xff\x3f") if name == "lossy" else poke(data, 21, b"\xff\xff\xff\x0f")),
        )
    # 13,000 x 13,000 pixels are within the limits, and would be half a gigabyte.
    yield (
        "lossy-claims-within-limits.webp",
        "a header that claims 169 megapixels for a hundred bytes",
        poke(lossy, 26, b"\xc8\x32\xc8\x32"),
    )
    yield (
        "lossless-claims-within-limits.webp",
        "a header that claims 169 megapixels for a hundred bytes",
        poke(lossless, 21, struct.pack("<I", 12_999 | 12_999 << 14)),
    )
    extended = struct.pack("<4sIIHBHB", b"VP8X", 10, 0, 12_999, 0, 12_999, 0)
    yield (
        "extended-claims-within-limits.webp",
        "a canvas of 169 megapixels around an image of a hundred bytes",
        b"RIFF" + struct.pack("<I", 4 + len(extended) + len(lossy) - 12) + b"WEBP" + extended + lossy[12:],
    )
    yield "riff-only.webp", "no chunk", b"RIFF\x04\0\0\0WEBP"


def others() -> Iterator[Case]:
    yield "png.jpg", "a PNG under the name of a JPEG, as ImageNet has one", png(8, 2)
    yield "webp.jpg", "a WebP under the name of a JPEG", b85decode(WEBP[0][2])
    gif = b"GIF89a\x01\0\x01\0\x80\0\0\xff\0\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"
    yield "gif.jpg", "a GIF", gif
    yield "bmp.jpg", "a BMP", b"BM" + struct.pack("<IIIIIIHHIIIIII", 58, 0, 54, 40, 1, 1, 1, 24, *[0] * 6)
    yield "tiff.jpg", "a TIFF", b"II*\0\x08\0\0\0\0\0\0\0\0\0"
    yield "svg.jpg", "an SVG", b'<svg xmlns="http://www.w3.org/2000/svg"/>'


# From libwebp's encoder, 12 x 10 pixels.
WEBP = [
    (
        "lossy",
        "lossy",
        "Qb|TeegFUfS4BclR!}$~asU7T5CQ<50V)gt3IGFuS|zXobTCIjXkWDB008|{iCR$=Y9jqV?c{nPNH~!T1E!Em+xqGM"
        "2I|{}XSfQ?`M!CC%rtbB>XY_(|6lq0&bzPP|ATmvPxQI`U;Gc`rwY22SvQgY@oMX+oR{Kv?r-@3000",
    ),
    (
        "lossless",
        "lossless",
        "Qb|Ted;kCdS4BclR!}%hZ~y=RFAG2d06(CpZ5ue*c6$%bjbvmR5T=0sErd`&884*)2r%8~n*V?EgZU5q1Lld8l<NuC"
        "*bUf3wyjpxsgjx$eC)|Vz(C%w!wM*(|Iv$5su_z{s?on!p*!k1#+cV3#rVholrjMSB0%*DaAyGk",
    ),
    (
        "lossy-alpha",
        "lossy with alpha: dropped",
        "Qb|Te^Z)<=S4BclR!}%t3IG5A5C8xG3jhEK002QuP)J??000SaT5a31{O<C;>Gut60dxu?-6D}hV*|Iw4A5u}jrLat"
        "AUp345itP`?$oQx|J_G*fTZ4rKK#c+mwO^vh=UFRd1j{o`R%&fZle3jL1g|u*WQ#`Mz0!GYWpV&R!}$~Z~y=R&;bCQ"
        "0V)gt3IGFuS|zXobO7`4i>g2X{ZolrQ59+;{XgyGdLc+SkqZN+kW1V8>Hh}m+lFVj3e5Swd4$X~bd~I>$w8m>|DW@B"
        "|0l}-M)4${>2vtM_#aUt6Up%IR>6PjQ!a%n{}aDcf5-p;",
    ),
    (
        "lossless-alpha",
        "lossless with alpha",
        "Qb|TeasU7TS4BclR!}%hWdHyGFAG2d5I;a5K+yvRIP0GWj*)3Vm|CJspo`l}ZQC}C)5rY(YA4fxh+ujtB$!G9_<X@%"
        "X~M33U*$fAiwR;vRc+hQG5>lZ5J81kK?N1`Ut@)c{!c(gyA#k>1bp4*N}PVj4*&",
    ),
    (
        "animated",
        "an animation: the first frame",
        "Qb|TeY5@QMS4BclR!}%t3IG5A0ssI23jhEK002QwNlgX-0000000000K~7CZmH+?%00000000XB00{s900002R!}$~"
        "egFUfPyqm)0V)gt3IGHEXeF=!1atrZ{?d6S{rr?aq943h^Sjhby<Lv;pLI7+-r-sQ{pW91gj<+OVz1XzjPRdyD*na4"
        "ds4eucv=3%yS@y2S$R|?IFJ5+=ltEsOTPa@XU(t7@9uBZkMkPaT|cH{Z~M>7pXy%U{-*x|002QwO-7&q0000000000"
        "3jhEK000000034{I3S1s002}00G$CU3;+rM003wuumA*f0092g2LCVn_)q;m*~ZRGQcXnkTybwBBM%yN(@9|Vr*`$9"
        ")RK9kPW<oE&+xy4b??H~OZBq*-kDyj{4Hd^TP@!fSMDapdq3yu)NcuPs2$;S|1Ph|-@&^do%R3!9ad^*RWN#wF^ofR"
        "@B3di7vKMZEC2",
    ),
]


def cases() -> Iterator[Case]:
    for group in (kinds, odd, damage, webp, others):
        yield from group()
