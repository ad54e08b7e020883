"""Here: JPEGs of every structure, from coefficients to bytes; no encoder of any library is involved.
Not here: what is done to them (jpegs.py), any decoding.

A picture is made of coefficients that a small generator draws, so there is no transform and no rounding, and
the same bytes come out on every machine. A JPEG is a list of named pieces that can be edited before joining.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Piece = tuple[str, bytes]
Block = list[int]
Plane = list[list[Block]]
Sampling = tuple[tuple[int, int], ...]

SOI: Piece = ("SOI", b"\xff\xd8")
EOI: Piece = ("EOI", b"\xff\xd9")
YUV420: Sampling = ((2, 2), (1, 1), (1, 1))
YUV444: Sampling = ((1, 1), (1, 1), (1, 1))


def segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(payload) + 2).to_bytes(2, "big") + payload


def jfif() -> Piece:
    return ("JFIF", segment(0xE0, b"JFIF\0\x01\x02\0\0\x01\0\x01\0\0"))


def quantisation(step: int = 8) -> Piece:
    return ("DQT", segment(0xDB, b"\0" + bytes([step]) * 64))


def frame(width: int, height: int, sampling: Sampling, marker: int, bits: int = 8) -> Piece:
    components = b"".join(bytes([i + 1, h << 4 | v, 0]) for i, (h, v) in enumerate(sampling))
    sides = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return ("SOF", segment(marker, bytes([bits]) + sides + bytes([len(sampling)]) + components))


def scan_header(components: list[int], first: int = 0, last: int = 63, high: int = 0, low: int = 0) -> Piece:
    named = b"".join(bytes([i + 1, 0]) for i in components)
    return ("SOS", segment(0xDA, bytes([len(components)]) + named + bytes([first, last, high << 4 | low])))


@dataclass
class Entropy:
    """The entropy-coded data of a scan. Symbols get codes of one length once all of them are known: the
    simplest Huffman tables that are valid (no code may consist of ones only)."""

    parts: list[tuple[str, int, int]] = field(default_factory=list)

    def symbol(self, table: str, symbol: int) -> None:
        self.parts.append((table, symbol, 0))

    def bits(self, value: int, count: int) -> None:
        if count:
            self.parts.append(("bits", value, count))

    def number(self, value: int, count: int) -> None:
        """A signed number of `count` bits in JPEG's manner."""
        self.bits(value if value >= 0 else value + (1 << count) - 1, count)

    def restart(self, number: int) -> None:
        self.parts.append(("restart", number % 8, 0))

    def pieces(self) -> list[Piece]:
        codes: dict[tuple[str, int], str] = {}
        found: list[Piece] = []
        for place, table in enumerate(("dc", "ac")):
            symbols = sorted({symbol for name, symbol, _ in self.parts if name == table})
            if symbols:
                length = max(1, len(symbols).bit_length())
                codes |= {(table, symbol): f"{i:0{length}b}" for i, symbol in enumerate(symbols)}
                counts = bytes(len(symbols) if i == length else 0 for i in range(1, 17))
                found.append(("DHT", segment(0xC4, bytes([place << 4]) + counts + bytes(symbols))))
        data, text = b"", []
        for name, value, count in self.parts:
            if name == "restart":
                data, text = data + stuffed("".join(text)) + bytes([0xFF, 0xD0 + value]), []
            else:
                text.append(f"{value:0{count}b}" if name == "bits" else codes[name, value])
        return [*found, ("data", data + stuffed("".join(text)))]


def stuffed(bits: str) -> bytes:
    bits += "1" * (-len(bits) % 8)
    return int(bits or "0", 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")


def numbers(seed: int) -> Iterator[int]:
    """A linear congruential generator: the same numbers in every version of every library."""
    state = seed * 2654435761 % (1 << 32)
    while True:
        state = (state * 1664525 + 1013904223) % (1 << 32)
        yield state >> 16


def planes(width: int, height: int, sampling: Sampling, seed: int) -> list[Plane]:
    """Coefficients in zigzag order of every component, padded to whole MCUs."""
    draw = numbers(seed)
    widest, highest = max(h for h, _ in sampling), max(v for _, v in sampling)
    across, down = -(-width // (8 * widest)), -(-height // (8 * highest))

    def block() -> Block:
        # Many small coefficients and a few that reach far; zero behind the twentieth.
        low = [next(draw) % 41 - 20 if next(draw) % 3 else 0 for _ in range(19)]
        return [next(draw) % 121 - 60, *low, *([0] * 44)]

    return [[[block() for _ in range(across * h)] for _ in range(down * v)] for h, v in sampling]


def category(value: int) -> int:
    return abs(value).bit_length()


def units(
    width: int, height: int, sampling: Sampling, coefficients: list[Plane], components: list[int]
) -> Iterator[list[tuple[int, Block]]]:
    """The blocks of a scan, MCU by MCU; a scan of one component leaves out the padding of whole MCUs."""
    widest, highest = max(h for h, _ in sampling), max(v for _, v in sampling)
    if len(components) == 1:
        (i,) = components
        h, v = sampling[i]
        samples_across, samples_down = -(-width * h // widest), -(-height * v // highest)
        across, down = -(-samples_across // 8), -(-samples_down // 8)
        for y in range(down):
            for x in range(across):
                yield [(i, coefficients[i][y][x])]
        return
    for y in range(-(-height // (8 * highest))):
        for x in range(-(-width // (8 * widest))):
            unit = []
            for i in components:
                h, v = sampling[i]
                unit += [(i, coefficients[i][y * v + dy][x * h + dx]) for dy in range(v) for dx in range(h)]
            yield unit


def sequential(entropy: Entropy, block: Block, before: int) -> int:
    """A whole block; `before` is the last one's first coefficient, and this one's comes back."""
    write_first(entropy, block[0] - before)
    write_band(entropy, block, 1, 63, 0)
    return block[0]


def write_first(entropy: Entropy, difference: int) -> None:
    entropy.symbol("dc", category(difference))
    entropy.number(difference, category(difference))


def write_band(entropy: Entropy, block: Block, first: int, last: int, low: int) -> None:
    run = 0
    for k in range(first, last + 1):
        value = abs(block[k]) >> low
        if value == 0:
            run += 1
            continue
        while run > 15:
            entropy.symbol("ac", 0xF0)
            run -= 16
        entropy.symbol("ac", run << 4 | category(value))
        entropy.number(value if block[k] > 0 else -value, category(value))
        run = 0
    if run:
        entropy.symbol("ac", 0)


def refine_band(entropy: Entropy, block: Block, first: int, last: int, low: int) -> None:
    """One more bit of every coefficient: of old ones as corrections, of new ones as a sign."""
    sizes = {k: abs(block[k]) >> low for k in range(first, last + 1)}
    new = [k for k, size in sizes.items() if size == 1]
    run, corrections = 0, []
    for k, size in sizes.items():
        if size == 0:
            run += 1
            continue
        while run > 15 and new and k <= new[-1]:
            entropy.symbol("ac", 0xF0)
            flush(entropy, corrections)
            run -= 16
        if size > 1:
            corrections.append(size & 1)
            continue
        entropy.symbol("ac", run << 4 | 1)
        entropy.bits(int(block[k] > 0), 1)
        flush(entropy, corrections)
        run = 0
    if run or corrections:
        entropy.symbol("ac", 0)
        flush(entropy, corrections)


def flush(entropy: Entropy, corrections: list[int]) -> None:
    for bit in corrections:
        entropy.bits(bit, 1)
    corrections.clear()


def baseline(
    width: int,
    height: int,
    sampling: Sampling = YUV420,
    *,
    seed: int = 1,
    restart: int = 0,
    interleaved: bool = True,
    marker: int = 0xC0,
    bits: int = 8,
) -> list[Piece]:
    """A sequential JPEG; `restart` is an interval in MCUs."""
    coefficients = planes(width, height, sampling, seed)
    pieces = [SOI, jfif(), quantisation(), frame(width, height, sampling, marker, bits)]
    if restart:
        pieces.append(("DRI", segment(0xDD, restart.to_bytes(2, "big"))))
    everything = list(range(len(sampling)))
    for components in [everything] if interleaved else [[i] for i in everything]:
        entropy, before = Entropy(), dict.fromkeys(components, 0)
        for number, unit in enumerate(units(width, height, sampling, coefficients, components)):
            if restart and number and number % restart == 0:
                entropy.restart(number // restart - 1)
                before = dict.fromkeys(components, 0)
            for i, block in unit:
                before[i] = sequential(entropy, block, before[i])
        *tables, data = entropy.pieces()
        pieces += [*tables, scan_header(components), data]
    return [*pieces, EOI]


def progressive(width: int, height: int, sampling: Sampling = YUV420, *, seed: int = 1) -> list[Piece]:
    """First coefficients, two bands of the others, then the last bit of each: every kind of scan."""
    coefficients = planes(width, height, sampling, seed)
    pieces = [SOI, jfif(), quantisation(), frame(width, height, sampling, 0xC2)]
    everything = list(range(len(sampling)))

    def scan(components: list[int], bands: tuple[int, int], bits: tuple[int, int], write: Writer) -> None:
        entropy, before = Entropy(), dict.fromkeys(components, 0)
        for unit in units(width, height, sampling, coefficients, components):
            for i, block in unit:
                before[i] = write(entropy, block, before[i])
        *tables, data = entropy.pieces()
        pieces.extend([*tables, scan_header(components, *bands, *bits), data])

    def first(entropy: Entropy, block: Block, before: int) -> int:
        write_first(entropy, (block[0] >> 1) - before)
        return block[0] >> 1

    def first_again(entropy: Entropy, block: Block, before: int) -> int:
        entropy.bits(block[0] & 1, 1)
        return before

    scan(everything, (0, 0), (0, 1), first)
    for i in everything:
        scan([i], (1, 5), (0, 1), band(write_band, 1, 5, 1))
        scan([i], (6, 63), (0, 1), band(write_band, 6, 63, 1))
    scan(everything, (0, 0), (1, 0), first_again)
    for i in everything:
        scan([i], (1, 63), (1, 0), band(refine_band, 1, 63, 0))
    return [*pieces, EOI]


Writer = Callable[[Entropy, Block, int], int]


def band(write: Callable[[Entropy, Block, int, int, int], None], first: int, last: int, low: int) -> Writer:
    def writer(entropy: Entropy, block: Block, before: int) -> int:
        write(entropy, block, first, last, low)
        return before

    return writer


def lossless(width: int, height: int, components: int = 1, *, seed: int = 1) -> list[Piece]:
    """Every sample as its difference from its left neighbour (from the upper one in the first column)."""
    draw = numbers(seed)
    samples = [[[next(draw) % 256 for _ in range(components)] for _ in range(width)] for _ in range(height)]
    entropy = Entropy()
    for y in range(height):
        for x in range(width):
            for i in range(components):
                neighbour = samples[y][x - 1][i] if x else samples[y - 1][x][i] if y else 128
                write_first(entropy, samples[y][x][i] - neighbour)
    *tables, data = entropy.pieces()
    sampling = ((1, 1),) * components
    head = [SOI, frame(width, height, sampling, 0xC3), *tables]
    return [*head, scan_header(list(range(components)), 1, 0), data, EOI]


def flat(width: int, height: int, scans: int = 1) -> list[Piece]:
    """A valid grey progressive file of one shade that sends one coefficient after the other bit by bit: each
    scan is a few bytes (all blocks end at once) and costs the decoder a pass over the whole picture."""
    blocks = -(-width // 8) * -(-height // 8)
    nothing = Entropy()
    nothing.parts = [("dc", 0, 0)] * blocks
    pieces = [SOI, quantisation(), frame(width, height, ((1, 1),), 0xC2)]
    *tables, data = nothing.pieces()
    pieces += [*tables, scan_header([0], 0, 0), data]
    ends = Entropy()
    for _ in range(blocks // 32767):
        ends.symbol("ac", 14 << 4)
        ends.bits(32767 - (1 << 14), 14)
    rest = blocks % 32767
    if rest:
        ends.symbol("ac", (rest.bit_length() - 1) << 4)
        ends.bits(rest - (1 << rest.bit_length() - 1), rest.bit_length() - 1)
    *tables, data = ends.pieces()
    pieces += tables
    for number in range(scans - 1):
        k, low = 1 + number // 14, 13 - number % 14
        pieces += [scan_header([0], k, k, 0 if low == 13 else low + 1, low), data]
    return [*pieces, EOI]


def joined(pieces: list[Piece]) -> bytes:
    return b"".join(data for _, data in pieces)
