"""The integers behind every batch, in plain Python: the order of samples, and what is drawn for each view.

A twin of rust/data/src/{random,order}.rs and of the draws in augment.rs, written from their descriptions;
nothing of barlow is imported. Slow and obvious: loops, Python's own integers and floats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

WORD = 0xFFFFFFFF


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10, from the published description."""
    c, k = counter, key
    for _ in range(10):
        low, high = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [high >> 32 ^ c[1] ^ k[0], high & WORD, low >> 32 ^ c[3] ^ k[1], low & WORD]
        k = [k[0] + 0x9E3779B9 & WORD, k[1] + 0xBB67AE85 & WORD]
    return c


def permuted(seed: int, epoch: int, n: int, at: int) -> int:
    """The sample at place `at` of an epoch: a Feistel network of ten rounds on the bits of n - 1, repeated
    until the value is below n."""
    key = [seed & WORD, seed >> 32]
    bits = (n - 1).bit_length()
    if bits < 2:
        return at ^ (n == 2 and philox([0, 0xFFFF0000, n, epoch], key)[0] & 1)
    while True:
        left_bits, right_bits = bits - bits // 2, bits // 2
        left, right = at >> right_bits, at & (1 << right_bits) - 1
        for turn in range(10):
            noise = philox([right, 0xFFFF0000 | turn, n & WORD, epoch], key)[0]
            left, right = right, left ^ noise >> 32 - left_bits
            left_bits, right_bits = right_bits, left_bits
        at = left << right_bits | right
        if at < n:
            return at


class Draws:
    """The draws of one purpose: stream 0 is the crop of a view, stream 1 + k its k-th operation."""

    def __init__(self, seed: int, epoch: int, sample: int, view: int, stream: int) -> None:
        self.key = [seed & WORD, seed >> 32]
        self.place = [view << 16 | stream, sample, epoch]
        self.blocks = 0
        self.words: list[int] = []

    def bits(self) -> int:
        if not self.words:
            self.words = philox([self.blocks, *self.place], self.key)
            self.blocks += 1
        return self.words.pop(0)

    def unit(self) -> float:
        """In [0, 1): 27 bits of one word above 26 of the next."""
        high = self.bits() >> 5
        return (high << 26 | self.bits() >> 6) / 2**53

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.unit()

    def chance(self, p: float) -> bool:
        return self.unit() < p

    def below(self, n: int) -> int:
        """Lemire's: the high word of bits * n, drawn again where that would favour some numbers."""
        while True:
            product = self.bits() * n
            if product & WORD >= 2**32 % n:
                return product >> 32

    def shuffled(self, items: list[Any]) -> list[Any]:
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]
        return items


@dataclass(frozen=True)
class Recipe:
    """A view as numbers: crop, flip, jitter, grey, blur and solarize, in this order."""

    size: int
    jitter: tuple[float, float, float, float]
    """Strength of brightness, contrast, saturation and hue."""
    p_flip: float
    p_jitter: float
    p_grey: float
    p_blur: float
    p_solarize: float
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    sigma: tuple[float, float] = (0.1, 2.0)
    threshold: int = 128

    def draw(self, seed: int, epoch: int, sample: int, view: int, width: int, height: int) -> dict[str, Any]:
        """The parameters in the form of `barlow.data.draw`."""

        def draws(stream: int) -> Draws:
            return Draws(seed, epoch, sample, view, stream)

        steps: list[tuple[Any, ...]] = []
        if draws(1).chance(self.p_flip):
            steps.append(("flip",))
        jitter = draws(2)
        if jitter.chance(self.p_jitter):
            order = jitter.shuffled([0, 1, 2, 3])
            middles = (1.0, 1.0, 1.0, 0.0)
            factors = [jitter.uniform(m - s, m + s) for m, s in zip(middles, self.jitter, strict=True)]
            names = ("brightness", "contrast", "saturation", "hue")
            steps += [(names[i], factors[i]) for i in order]
        if draws(3).chance(self.p_grey):
            steps.append(("grayscale",))
        blur = draws(4)
        if blur.chance(self.p_blur):
            steps.append(("blur", blur.uniform(*self.sigma)))
        if draws(5).chance(self.p_solarize):
            steps.append(("solarize", self.threshold))
        return {
            "window": window(draws(0), self.scale, self.ratio, width, height),
            "resized": (self.size, self.size),
            "offset": (0, 0),
            "size": self.size,
            "interpolation": "bicubic",
            "operations": steps,
        }


def window(
    draws: Draws, scale: tuple[float, float], ratio: tuple[float, float], width: int, height: int
) -> tuple[int, int, int, int]:
    """torchvision's RandomResizedCrop on these draws: x, y, width, height."""
    for _ in range(10):
        area = width * height * draws.uniform(*scale)
        aspect = math.exp(draws.uniform(math.log(ratio[0]), math.log(ratio[1])))
        across, down = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < across <= width and 0 < down <= height:
            y = draws.below(height - down + 1)
            return draws.below(width - across + 1), y, across, down
    across, down = width, height
    if width / height < ratio[0]:
        down = min(round(width / ratio[0]), height)
    elif width / height > ratio[1]:
        across = min(round(height * ratio[1]), width)
    return (width - across) // 2, (height - down) // 2, across, down


def official(size: int) -> list[Recipe]:
    """Both views of facebookresearch/barlowtwins, main.py."""
    same = {"size": size, "jitter": (0.4, 0.4, 0.2, 0.1), "p_flip": 0.5, "p_jitter": 0.8, "p_grey": 0.2}
    return [Recipe(**same, p_blur=1.0, p_solarize=0.0), Recipe(**same, p_blur=0.1, p_solarize=0.2)]
