"""Here: the JPEG cases of the corpus: every structure, every way of being cut, damaged, padded or lying.
Not here: how a JPEG is written (jpeg_writer.py), what comes out of it (outcomes.txt).
"""

from __future__ import annotations

from base64 import b85decode
from collections.abc import Iterator

from corpus.jpeg_writer import (
    EOI,
    SOI,
    YUV420,
    YUV444,
    Piece,
    baseline,
    flat,
    frame,
    joined,
    lossless,
    numbers,
    progressive,
    scan_header,
    segment,
)

Case = tuple[str, str, bytes]
"""File name, reason, content."""

WIDTH, HEIGHT = 33, 25
GREY = ((1, 1),)


def put(pieces: list[Piece], before: str, *more: bytes) -> list[Piece]:
    """With other bytes in front of the first piece of that name."""
    at = next(i for i, (name, _) in enumerate(pieces) if name == before)
    return [*pieces[:at], *(("put", data) for data in more), *pieces[at:]]


def swap(pieces: list[Piece], name: str, data: bytes) -> list[Piece]:
    """With other bytes for the first piece of that name."""
    at = next(i for i, (found, _) in enumerate(pieces) if found == name)
    return [*pieces[:at], (name, data), *pieces[at + 1 :]]


def drop(pieces: list[Piece], *names: str) -> list[Piece]:
    return [piece for piece in pieces if piece[0] not in names]


def poke(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def part(pieces: list[Piece], name: str) -> bytes:
    return next(data for found, data in pieces if found == name)


def structures() -> Iterator[Case]:
    samplings = {
        "444": YUV444,
        "422": ((2, 1), (1, 1), (1, 1)),
        "420": YUV420,
        "440": ((1, 2), (1, 1), (1, 1)),
        "411": ((4, 1), (1, 1), (1, 1)),
        "410": ((4, 2), (1, 1), (1, 1)),
        "chroma-uneven": ((2, 2), (2, 1), (1, 2)),
        "luma-smaller": ((1, 1), (2, 2), (2, 2)),
        "3x1": ((3, 1), (1, 1), (1, 1)),
    }
    for name, sampling in samplings.items():
        reason = f"components sampled as {' '.join(f'{h}x{v}' for h, v in sampling)}"
        yield f"sampling-{name}.jpg", reason, joined(baseline(WIDTH, HEIGHT, sampling))
    yield (
        "fractional-sampling.jpg",
        "3x2 and 2x2: no whole factor",
        joined(baseline(WIDTH, HEIGHT, ((3, 2), (2, 2), (1, 1)))),
    )
    yield "grey.jpg", "one component", joined(baseline(WIDTH, HEIGHT, GREY))
    yield (
        "grey-sampling-22.jpg",
        "one component, sampled 2x2: to be ignored",
        joined(baseline(WIDTH, HEIGHT, ((2, 2),), interleaved=False)),
    )
    yield "progressive-420.jpg", "progressive, ten scans", joined(progressive(WIDTH, HEIGHT))
    yield "progressive-444.jpg", "progressive, chroma in full", joined(progressive(WIDTH, HEIGHT, YUV444))
    yield "progressive-grey.jpg", "progressive, one component", joined(progressive(WIDTH, HEIGHT, GREY))
    yield "progressive-cmyk.jpg", "progressive, four components", joined(progressive(WIDTH, HEIGHT, GREY * 4))
    yield "one-scan-each.jpg", "baseline, not interleaved", joined(baseline(WIDTH, HEIGHT, interleaved=False))
    yield "restart-1.jpg", "a restart marker after every MCU", joined(baseline(90, 60, restart=1))
    yield (
        "restart-7.jpg",
        "restart markers that fall in the middle of rows",
        joined(baseline(90, 60, restart=7)),
    )
    yield "extended.jpg", "SOF1 with 8 bits", joined(baseline(WIDTH, HEIGHT, marker=0xC1))
    yield "12-bit.jpg", "12 bits per sample", joined(baseline(WIDTH, HEIGHT, marker=0xC1, bits=12))
    yield "lossless-rgb.jpg", "lossless, three components", joined(lossless(9, 7, 3))
    yield "lossless-grey.jpg", "lossless, one component", joined(lossless(9, 7))
    yield "hierarchical.jpg", "SOF5: differential frames", joined(baseline(WIDTH, HEIGHT, marker=0xC5))
    for name, components, transform in (
        ("rgb", 3, 0),
        ("ycc", 3, 1),
        ("cmyk", 4, 0),
        ("ycck", 4, 2),
        ("odd", 3, 9),
    ):
        adobe = segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))
        pieces = swap(baseline(WIDTH, HEIGHT, GREY * components), "JFIF", adobe)
        yield f"adobe-{name}.jpg", f"{components} components, Adobe transform {transform}", joined(pieces)
    yield (
        "cmyk-no-marker.jpg",
        "four components and nothing that says which",
        joined(drop(baseline(WIDTH, HEIGHT, GREY * 4), "JFIF")),
    )


def sizes() -> Iterator[Case]:
    for width, height in ((1, 1), (1, 40), (40, 1), (8, 8), (17, 16)):
        yield f"size-{width}x{height}.jpg", f"{width} x {height} pixels", joined(baseline(width, height))
    yield "size-65500x1.jpg", "the longest side there is", joined(flat(65_500, 1))
    for side, name in ((65_500, "65500"), (65_535, "65535")):
        claim = frame(side, side, YUV420, 0xC0)[1]
        yield (
            f"claims-{name}.jpg",
            f"a header that claims {side} pixels squared",
            joined(swap(baseline(WIDTH, HEIGHT), "SOF", claim)),
        )
    claim = frame(13_000, 13_000, YUV420, 0xC0)[1]
    yield (
        "claims-within-limits.jpg",
        "a header that claims 169 megapixels for some hundred bytes",
        joined(swap(baseline(WIDTH, HEIGHT), "SOF", claim)),
    )
    # The file has room for these pixels, a bit for each of its large units.
    claim = frame(9_600, 9_600, ((4, 4),) * 3, 0xC2)[1]
    yield (
        "claims-coefficients.jpg",
        "progressive: 553 MB of coefficients would be held",
        (joined(swap(progressive(WIDTH, HEIGHT, YUV444), "SOF", claim)) + bytes(12_000)),
    )
    yield (
        "height-0.jpg",
        "no height: a DNL segment would give it later",
        joined(swap(baseline(WIDTH, HEIGHT), "SOF", frame(WIDTH, 0, YUV420, 0xC0)[1])),
    )
    yield (
        "width-0.jpg",
        "no width",
        joined(swap(baseline(WIDTH, HEIGHT), "SOF", frame(0, HEIGHT, YUV420, 0xC0)[1])),
    )
    dnl = segment(0xDC, HEIGHT.to_bytes(2, "big"))
    yield (
        "dnl.jpg",
        "height 0, and the DNL segment after the scan",
        joined(put(swap(baseline(WIDTH, HEIGHT), "SOF", frame(WIDTH, 0, YUV420, 0xC0)[1]), "EOI", dnl)),
    )
    yield (
        "height-too-large.jpg",
        "claims eight rows more than are there",
        joined(swap(baseline(WIDTH, HEIGHT), "SOF", frame(WIDTH, HEIGHT + 8, YUV420, 0xC0)[1])),
    )
    yield (
        "height-too-small.jpg",
        "claims sixteen rows less than are there",
        joined(swap(baseline(WIDTH, HEIGHT), "SOF", frame(WIDTH, HEIGHT - 16, YUV420, 0xC0)[1])),
    )


def exif(orientation: int) -> bytes:
    entry = b"\x12\x01\x03\0\x01\0\0\0" + bytes([orientation, 0, 0, 0])
    return segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\x01\0" + entry + bytes(4))


def metadata() -> Iterator[Case]:
    plain = baseline(WIDTH, HEIGHT)
    for orientation in range(1, 9):
        yield (
            f"exif-{orientation}.jpg",
            f"EXIF orientation {orientation}: to be ignored",
            joined(put(plain, "DQT", exif(orientation))),
        )
    broken = segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\x7f\xff\xff")
    yield "exif-broken.jpg", "EXIF whose offsets lead nowhere", joined(put(plain, "DQT", broken))
    profile = [segment(0xE2, b"ICC_PROFILE\0" + bytes([i, 3]) + bytes([i]) * 700) for i in (3, 1, 2)]
    yield (
        "icc-split.jpg",
        "an ICC profile in three segments, out of order",
        joined(put(plain, "DQT", *profile)),
    )
    yield (
        "icc-65533.jpg",
        "the largest segment there is",
        joined(put(plain, "DQT", segment(0xE2, b"ICC_PROFILE\0\x01\x01" + bytes(65_519)))),
    )
    inner = joined(baseline(8, 8))
    yield (
        "thumbnail.jpg",
        "a whole JPEG inside an APP segment",
        joined(put(plain, "DQT", segment(0xE1, b"Exif\0\0" + inner))),
    )
    yield (
        "app-100.jpg",
        "a hundred APP segments",
        joined(put(plain, "DQT", *[segment(0xE0 + i % 16, b"x" * i) for i in range(100)])),
    )
    yield (
        "comment.jpg",
        "a comment with escape codes",
        joined(put(plain, "DQT", segment(0xFE, b"\x1b[2J\0\xff\xd8"))),
    )
    yield "fill-bytes.jpg", "fill bytes before markers", joined(put(plain, "DQT", b"\xff" * 50))
    revision = part(plain, "JFIF")
    yield (
        "jfif-revision-9.jpg",
        "an odd JFIF revision: tolerated",
        joined(swap(plain, "JFIF", poke(revision, 9, b"\x09"))),
    )
    yield (
        "jfif-and-adobe-rgb.jpg",
        "JFIF says YCbCr, Adobe says RGB",
        joined(put(baseline(WIDTH, HEIGHT, YUV444), "DQT", segment(0xEE, b"Adobe\0\x64\0\0\0\0\0"))),
    )


def ends() -> Iterator[Case]:
    whole = joined(baseline(WIDTH, HEIGHT))
    for percent in (10, 50, 90, 99):
        yield f"cut-{percent}.jpg", f"the first {percent} % of a file", whole[: len(whole) * percent // 100]
    for length in (0, 1, 2, 3):
        yield f"cut-at-{length}.jpg", f"{length} bytes of a file", whole[:length]
    yield "cut-2-off.jpg", "no EOI", whole[:-2]
    yield "cut-1-off.jpg", "half an EOI", whole[:-1]
    scans = joined(progressive(WIDTH, HEIGHT))
    yield "progressive-cut-50.jpg", "half of the scans", scans[: len(scans) // 2]
    last = scans.rindex(b"\xff\xda")
    yield (
        "progressive-last-scan-missing.jpg",
        "every scan but the last, then EOI: a coarser picture, whole",
        (scans[:last] + EOI[1]),
    )
    yield "soi-only.jpg", "SOI and EOI", SOI[1] + EOI[1]
    yield "soi-twice.jpg", "two SOIs", SOI[1] + whole
    yield "trailing-garbage.jpg", "text behind the EOI", whole + b"garbage" * 20
    yield "trailing-jpeg.jpg", "another JPEG behind the EOI", whole + joined(baseline(8, 8))
    yield "leading-garbage.jpg", "text before the SOI", b"garbage" + whole
    yield "padding-before-eoi.jpg", "zeros before the EOI: tolerated", whole[:-2] + bytes(60) + EOI[1]
    yield "html.jpg", "a page that says 404", b"<!DOCTYPE html><html><title>404</title></html>"
    yield "eoi-early.jpg", "an EOI in the middle of the data", whole[: len(whole) * 3 // 4] + EOI[1]


def damage() -> Iterator[Case]:
    plain = baseline(WIDTH, HEIGHT)
    whole = joined(plain)
    yield "no-dht.jpg", "no Huffman tables, as MJPEG has it", joined(drop(plain, "DHT"))
    yield "no-dqt.jpg", "no quantisation table", joined(drop(plain, "DQT"))
    yield "no-sof.jpg", "no frame header", joined(drop(plain, "SOF"))
    yield "no-sos.jpg", "no scan header", joined(drop(plain, "SOS", "data"))
    table = part(plain, "DHT")
    yield (
        "dht-overfull.jpg",
        "more codes of one bit than there are",
        joined(swap(plain, "DHT", poke(table, 5, b"\xff"))),
    )
    yield (
        "dht-number-9.jpg",
        "a Huffman table of a number that does not exist",
        joined(swap(plain, "DHT", poke(table, 4, b"\x09"))),
    )
    yield (
        "dqt-short.jpg",
        "a quantisation table cut short",
        joined(swap(plain, "DQT", segment(0xDB, b"\0" + bytes(range(1, 31))))),
    )
    yield (
        "dqt-zero.jpg",
        "a quantisation table of zeros: grey all over",
        joined(swap(plain, "DQT", segment(0xDB, bytes(65)))),
    )
    header = part(plain, "SOF")
    for count in (0, 2, 5, 200):
        lie = segment(0xC0, header[4:9] + bytes([count]) + b"\x01\x11\0" * min(count, 5))
        yield f"components-{count}.jpg", f"{count} components", joined(swap(plain, "SOF", lie))
    for factors in (0x00, 0x05, 0xFF):
        yield (
            f"sampling-factor-{factors:02x}.jpg",
            "a sampling factor outside of 1 to 4",
            joined(swap(plain, "SOF", poke(header, 11, bytes([factors])))),
        )
    yield (
        "sof-short.jpg",
        "a frame header of four bytes",
        joined(swap(plain, "SOF", segment(0xC0, header[4:8]))),
    )
    yield "sof-twice.jpg", "two frame headers", joined(put(plain, "SOF", header))
    yield (
        "sof-twice-late.jpg",
        "another frame header behind the scan",
        joined(put(plain, "EOI", frame(4000, 4000, YUV420, 0xC0)[1])),
    )
    yield (
        "component-twice.jpg",
        "two components of one number",
        joined(swap(plain, "SOF", poke(header, 13, header[10:11]))),
    )
    scan = part(plain, "SOS")
    yield (
        "sos-unknown-component.jpg",
        "a scan of a component that does not exist",
        joined(swap(plain, "SOS", poke(scan, 5, b"\x07"))),
    )
    yield (
        "sos-components-0.jpg",
        "a scan of nothing",
        joined(swap(plain, "SOS", segment(0xDA, b"\0\0\x3f\0"))),
    )
    yield (
        "sos-spectral.jpg",
        "a baseline scan with progressive parameters: tolerated",
        joined(swap(plain, "SOS", poke(scan, len(scan) - 3, b"\x01\x05\x11"))),
    )
    yield (
        "segment-length-0.jpg",
        "a segment that claims to be shorter than its length",
        joined(put(plain, "DQT", b"\xff\xe5\0\0")),
    )
    yield (
        "segment-length-too-large.jpg",
        "a segment that reaches behind the file",
        joined(put(plain, "DQT", b"\xff\xe5\xff\xff")),
    )
    start = whole.index(b"\xff\xda") + 14
    draw = numbers(9)
    noise = bytes(next(draw) % 255 for _ in range(40))
    yield "entropy-noise.jpg", "forty damaged bytes of entropy-coded data", poke(whole, start + 90, noise)
    yield "entropy-marker.jpg", "a marker in the middle of the data", poke(whole, start + 90, b"\xff\xc4")
    yield (
        "entropy-bit.jpg",
        "one flipped bit: damage that no decoder can tell from data",
        poke(whole, start + 90, bytes([whole[start + 90] ^ 0x10])),
    )
    restarts = joined(baseline(90, 60, restart=1))
    yield "restart-missing.jpg", "a restart marker is gone", restarts.replace(b"\xff\xd2", b"", 1)
    yield "restart-wrong.jpg", "restart markers out of turn", restarts.replace(b"\xff\xd2", b"\xff\xd5", 1)
    scans = progressive(WIDTH, HEIGHT)
    at = [i for i, (name, _) in enumerate(scans) if name == "SOS"]
    yield (
        "progressive-order.jpg",
        "a refining scan before the first",
        joined([*scans[: at[0] - 1], *scans[at[-1] - 1 : at[-1] + 2], *scans[at[0] - 1 :]]),
    )
    band = scan_header([0], 40, 70)[1]
    yield (
        "progressive-band.jpg",
        "a band that ends behind 63",
        joined([*scans[: at[1]], ("SOS", band), *scans[at[1] + 1 :]]),
    )
    yield "scan-bomb.jpg", "800 scans of 4096 x 4096 pixels in 61 kB", joined(flat(4096, 4096, 800))
    yield "scan-bomb-large.jpg", "60 scans of 6000 x 6000 pixels", joined(flat(6000, 6000, 60))
    yield "scans-100.jpg", "as many scans as are allowed", joined(flat(64, 64, 100))
    yield "scans-101.jpg", "one scan more", joined(flat(64, 64, 101))


def arithmetic() -> Iterator[Case]:
    # From libjpeg-turbo's own encoder: an arithmetic coder would be longer than what it is to test.
    for name, text in (("sequential", SEQUENTIAL), ("progressive", PROGRESSIVE)):
        data = b85decode(text)
        yield f"arithmetic-{name}.jpg", f"{name}, arithmetic coding", data
        yield f"arithmetic-{name}-cut.jpg", "the same, cut in the middle of the data", data[:-40]


SEQUENTIAL = (
    "|JeWF01!$>Nk#wx0RR9200961|JwjV01XKW3knDg3knMk4h;_zAQcl55)&sJ9v2`kDKRiEDJ?8BI!Zn>HbyrrEkIX6ModmpQ"
    "&KWMT47pHU`kO^PygEhLjevB4iga*CKVMXPc<zyPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPf"
    "t%zPf!2J01*fP4FC}X0U`hb5di}c0sqVZ3IGrg1pyEd1^?Or3<CiG0ucid06zf#04L6$BxN3<4s7nbhm>7Lc4FQs?E%BW0Bw"
    "zK!a<py2Z=>-0df4Vxf%#b-ZY-R0x`6==aY)y19C~wN*$k_A0D4Hh&JMJ&)t$~gC<mGvIcp`tsB+-&?g9%0||^gUA@*Ds+P<"
    "9eHsY^ROs>l*#"
)
PROGRESSIVE = (
    "|JeWF01!$>Nk#wx0RR9200961|JwjV01XKW3knDg3knMk4h;_zAQcl55)&sJ9v2`kDKRiEDJ?8BI!Zn>HbyrrEkIX6ModmpQ"
    "&KWMT47pHU`kO^PygEhLjevB4iga*CKVMXPc<zyPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPf"
    "t%zPf!2K01*fP4FC}X0U`hb5di}c0sqVZ1^^HN5dYc$3<CiG0uTcb00060PILD{J;L_kY104900a;P|Jncu0RaF31p*V1M&X"
    "Z{Ky@SN;1&PO00a>Q|Jncu0RsU6KLHv_*$e|2&msTJ00a>Q|Jncu0RjO5KLI#k_gqy__o;yY%m4%s1^?Or2mt{A20sGip#K1"
    "Z1yujc00a;P|Jncu0RaF3KOxn>lJx5%4$vete-{G-NE1eH|Jncy0|5X600RI301()~|I7dc5e5I+00;pC0RcY{2b9B=g(gD("
    "%m4%t1^?Or2mt~C0Y4D<vyR20kDp(l|I7dc5C#9*00;pA00BP`+lB(}Ko5Kv2yLSO02@av(kn56mkW-m5E||PfdAP"
)


def cases() -> Iterator[Case]:
    for group in (structures, sizes, metadata, ends, damage, arithmetic):
        yield from group()
