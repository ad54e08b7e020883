"""Here: the data set of `make demo`: procedural pictures of 16 families of shapes and textures.

Not here: anything real, packing, training; nothing of the package needs these pictures.

What identifies a class survives the augmentations: it is a shape or a texture. Where it stands, its
size, rotation and slant, its colours, the light and the background are drawn from one distribution for
all classes, so that neither the mean colour nor the raw pixels tell classes apart.
Picture `index` of split `split` is a pure function of (seed, split, index); its class is
`index % 16`, so classes are equally likely.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Array = NDArray[np.floating]
Field = Callable[[Array, Array, np.random.Generator], Array]

NAME = "synthetic shapes"
SIZE_PX = 80
JPEG_QUALITY = 90
SPLITS = {"train": 6400, "held-out": 1280}
"""Pictures of each split: 400 and 80 of each class."""

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_ROWS, _COLUMNS = (np.mgrid[0:SIZE_PX, 0:SIZE_PX] + 0.5).astype(np.float32)


# Motifs. A motif is a continuous field over local coordinates (x, y), negative inside the figure. Objects
# fill about the unit disc; textures cover the plane with cells of about size 1.


def _star(x: Array, y: Array, g: np.random.Generator) -> Array:
    points, inner = int(g.integers(4, 8)), g.uniform(0.36, 0.5)
    radius, angle = _polar(x, y)
    half = math.pi / points
    folded = np.abs(angle - 2 * half * np.floor(angle / (2 * half) + 0.5))
    # Signed distance to the line from a tip (1, 0) to the notch beside it.
    ex, ey = inner * math.cos(half) - 1, inner * math.sin(half)
    return ((radius * np.cos(folded) - 1) * ey - radius * np.sin(folded) * ex) / math.hypot(ex, ey)


def _flower(x: Array, y: Array, g: np.random.Generator) -> Array:
    radius, angle = _polar(x, y)
    petals = radius - 0.54 - 0.34 * np.abs(np.cos(angle * int(g.integers(5, 9)) / 2))
    return np.maximum(petals, 0.2 - radius)


def _gear(x: Array, y: Array, g: np.random.Generator) -> Array:
    radius, angle = _polar(x, y)
    teeth = np.clip(2.5 * np.cos(int(g.integers(9, 14)) * angle), -1, 1)
    return np.maximum(radius - 0.84 - 0.16 * teeth, g.uniform(0.25, 0.4) - radius)


def _rings(x: Array, y: Array, g: np.random.Generator) -> Array:
    radius, _ = _polar(x, y)
    return np.maximum(np.cos(2 * math.pi * radius * (g.integers(2, 5) - 0.25)), (radius - 1) * 6)


def _spiral(x: Array, y: Array, g: np.random.Generator) -> Array:
    radius, angle = _polar(x, y)
    twist = math.pi * g.uniform(0.9, 1.5) * (1 if g.random() < 0.5 else -1)
    return np.maximum(np.cos(int(g.integers(2, 5)) * (angle + twist * radius)), (radius - 1) * 6)


def _cross(x: Array, y: Array, g: np.random.Generator) -> Array:
    half_width = g.uniform(0.2, 0.34)
    ax, ay = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(ax - 1, ay - half_width), np.maximum(ay - 1, ax - half_width))


def _crescent(x: Array, y: Array, g: np.random.Generator) -> Array:
    return np.maximum(np.hypot(x, y) - 1, 0.85 - np.hypot(x - g.uniform(0.35, 0.55), y))


def _tree(x: Array, y: Array, g: np.random.Generator) -> Array:
    segments: list[tuple[float, float, float, float, float]] = []
    tips = [(0.0, -1.0, math.pi / 2, g.uniform(0.5, 0.62), 0.085)]
    spread = g.uniform(0.4, 0.65)
    for _ in range(6):
        grown = []
        for px, py, heading, length, width in tips:
            qx, qy = px + length * math.cos(heading), py + length * math.sin(heading)
            segments.append((px, py, qx - px, qy - py, width))
            for side in (-1, 1):
                turn = side * spread * g.uniform(0.7, 1.3)
                grown.append((qx, qy, heading + turn, length * g.uniform(0.68, 0.86), width * 0.74))
        tips = grown
    field = np.full_like(x, np.inf)
    for px, py, dx, dy, width in segments:
        along = np.clip(((x - px) * dx + (y - py) * dy) / (dx * dx + dy * dy), 0, 1)
        field = np.minimum(field, np.hypot(x - px - along * dx, y - py - along * dy) - width)
    return field


def _checker(x: Array, y: Array, g: np.random.Generator) -> Array:
    return np.sin(math.pi * x) * np.sin(math.pi * y)


def _dots(x: Array, y: Array, g: np.random.Generator) -> Array:
    pitch = math.sqrt(0.75)  # of the rows of a hexagonal lattice with unit spacing
    nearest = np.full_like(x, np.inf)
    for step in (-1, 0, 1):
        row = np.floor(y / pitch + 0.5) + step
        shifted = x - 0.5 * (row % 2)
        nearest = np.minimum(nearest, np.hypot(shifted - np.floor(shifted + 0.5), y - row * pitch))
    return nearest - g.uniform(0.26, 0.36)


def _zigzag(x: Array, y: Array, g: np.random.Generator) -> Array:
    return np.cos(math.pi * (1.2 * y + g.uniform(1.0, 2.0) * _triangle_wave(x / 2)))


def _bricks(x: Array, y: Array, g: np.random.Generator) -> Array:
    mortar = g.uniform(0.1, 0.16)
    row = np.floor(y)
    across = x / 2 + 0.5 * (row % 2)
    in_row = np.abs(y - row - 0.5) - 0.5
    in_brick = 2 * np.abs(across - np.floor(across) - 0.5) - 1
    return np.maximum(in_row, in_brick) + mortar


def _cells(x: Array, y: Array, g: np.random.Generator) -> Array:
    jitter = g.uniform(0.08, 0.92, (2, 64, 64)).astype(np.float32)
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    first = np.full_like(x, np.inf)
    second = first
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            i, j = column + dx, row + dy
            distance = np.hypot(i + jitter[0, i % 64, j % 64] - x, j + jitter[1, i % 64, j % 64] - y)
            second = np.minimum(second, np.maximum(first, distance))
            first = np.minimum(first, distance)
    return g.uniform(0.09, 0.14) - (second - first)


def _contours(x: Array, y: Array, g: np.random.Generator) -> Array:
    height = np.zeros_like(x)
    for _ in range(7):
        heading, frequency = g.uniform(0, 2 * math.pi), g.uniform(0.15, 0.6)
        phase = frequency * (x * math.cos(heading) + y * math.sin(heading)) + g.random()
        height += np.sin(2 * math.pi * phase) * 0.3
    return np.cos(2 * math.pi * height)


def _arcs(x: Array, y: Array, g: np.random.Generator) -> Array:
    # Truchet tiles: two quarter circles in each cell, in one of two orientations.
    mirrored = g.integers(0, 2, (64, 64))
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    v = y - row
    u = np.where(mirrored[column % 64, row % 64] > 0, 1 - (x - column), x - column)
    first, second = np.abs(np.hypot(u, v) - 0.5), np.abs(np.hypot(1 - u, 1 - v) - 0.5)
    return np.minimum(first, second) - g.uniform(0.1, 0.15)


def _weave(x: Array, y: Array, g: np.random.Generator) -> Array:
    column, row = np.floor(x / 1.4), np.floor(y / 1.4)
    along = np.where((column + row) % 2 > 0, y / 1.4 - row, x / 1.4 - column)
    return 0.1 + 0.8 * np.cos(2 * math.pi * int(g.integers(2, 4)) * along)


OBJECTS: dict[str, Field] = {
    "star": _star,
    "flower": _flower,
    "gear": _gear,
    "rings": _rings,
    "spiral": _spiral,
    "cross": _cross,
    "crescent": _crescent,
    "tree": _tree,
}
TEXTURES: dict[str, Field] = {
    "checker": _checker,
    "dots": _dots,
    "zigzag": _zigzag,
    "bricks": _bricks,
    "cells": _cells,
    "contours": _contours,
    "arcs": _arcs,
    "weave": _weave,
}
CLASSES: tuple[str, ...] = (*OBJECTS, *TEXTURES)


def draw(seed: int, split: int, index: int) -> tuple[NDArray[np.uint8], str]:
    """One picture, uint8 [80, 80, 3], and the name of its class; a pure function of its arguments."""
    g = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, split, index))))
    name = CLASSES[index % len(CLASSES)]
    # Dark on light or light on dark, alike for all classes; the figure is always visible.
    dark = g.uniform(0.08, 0.4)
    light = min(0.95, dark + g.uniform(0.3, 0.55))
    ground, figure = (dark, light) if g.random() < 0.5 else (light, dark)
    picture = _background(ground, g)
    for coverage in _layers(name, g):
        shadow = np.roll(_blurred(coverage), (1, 2), (0, 1))
        picture *= 1 - 0.35 * shadow[..., None]
        paint = _two_tone(figure, np.clip(0.5 + 0.4 * _smooth_noise(3, g), 0, 1), g)
        picture += (paint - picture) * coverage[..., None]
    picture *= (_lighting(g) * g.uniform(0.8, 1.1))[..., None]
    picture += (g.uniform(0.005, 0.03) * g.standard_normal(picture.shape)).astype(np.float32)
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8), name


def write(
    out: Path,
    *,
    seed: int = 0,
    counts: Mapping[str, int] = SPLITS,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes `out`/{train,held-out}/CLASS/INDEX.jpg and a README; `out` is complete or not there.

    A folder that is there already is kept: its pictures could only be the same again. `counts` gives the
    number of pictures of each split; `progress` is called with (pictures written, of how many).
    """
    if out.exists():
        return out
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    try:
        for name in CLASSES:
            for split in counts:
                (partial / split / name).mkdir(parents=True)
        total, done = sum(counts.values()), 0
        for number, (split, count) in enumerate(counts.items()):
            for index in range(count):
                pixels, name = draw(seed, number, index)
                path = partial / split / name / f"{index:05d}.jpg"
                Image.fromarray(pixels).save(path, quality=JPEG_QUALITY)
                done += 1
                if progress is not None:
                    progress(done, total)
        (partial / "README.md").write_text(_README.format(seed=seed), encoding="utf-8")
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


_README = f"""# {NAME[0].upper() + NAME[1:]}

Not photographs: pictures drawn by `python -m barlow.synthetic --seed {{seed}}`, so that the demonstration
needs no download. {len(CLASSES)} families of shapes and textures, {SIZE_PX} x {SIZE_PX} pixels, JPEG.
The folders name the families; training never looks at them, evaluation does.
"""


def _layers(name: str, g: np.random.Generator) -> list[Array]:
    """Coverage in [0, 1], [80, 80] each: one texture over the picture, or one to four objects in it."""
    if name in TEXTURES:
        cell_px = SIZE_PX * math.exp(g.uniform(math.log(0.11), math.log(0.24)))
        return [_coverage(TEXTURES[name](*_pose(g.uniform(0, SIZE_PX, 2), cell_px, g), g))]
    num = int(g.integers(1, 5))
    radius_px = SIZE_PX * 0.46 / math.sqrt(num) * g.uniform(0.8, 1.08)
    margin = min(0.8 * radius_px, SIZE_PX / 2 - 1)
    centres: list[NDArray[np.float64]] = []
    for _ in range(60):  # dart throwing; what does not fit is left out
        dart = g.uniform(margin, SIZE_PX - margin, 2)
        if len(centres) < num and all(math.dist(dart, c) > 1.75 * radius_px for c in centres):
            centres.append(dart)
    sizes = radius_px * g.uniform(0.85, 1.1, len(centres))
    return [_coverage(OBJECTS[name](*_pose(c, r, g), g)) for c, r in zip(centres, sizes, strict=True)]


def _pose(centre: NDArray[np.float64], unit_px: float, g: np.random.Generator) -> tuple[Array, Array]:
    """Local coordinates of every pixel: any rotation, a mild stretch and shear."""
    turn = g.uniform(0, 2 * math.pi)
    dx, dy = (_COLUMNS - centre[0]) / unit_px, (_ROWS - centre[1]) / unit_px
    x = math.cos(turn) * dx + math.sin(turn) * dy
    y = math.cos(turn) * dy - math.sin(turn) * dx
    stretch = math.exp(g.uniform(-0.22, 0.22))
    return (x * stretch + g.uniform(-0.2, 0.2) * y).astype(np.float32), (y / stretch).astype(np.float32)


def _coverage(field: Array) -> Array:
    """How much of each pixel is inside: first-order distance to the zero line, in pixels, as a ramp."""
    down, right = np.gradient(field)
    return np.clip(0.5 - field / (np.hypot(down, right) + 1e-6), 0, 1).astype(np.float32)


def _background(luminance: float, g: np.random.Generator) -> Array:
    """A ramp between two colours with soft noise, and a few translucent discs, boxes and bars."""
    picture = _two_tone(
        luminance, np.clip(_ramp(g) + 0.35 * _smooth_noise(int(g.integers(3, 8)), g), 0, 1), g
    )
    for _ in range(int(g.integers(2, 7))):
        x, y = _pose(g.uniform(0, SIZE_PX, 2), SIZE_PX * g.uniform(0.08, 0.3), g)
        kind = int(g.integers(0, 3))
        if kind == 0:
            field = np.hypot(x, y) - 1
        else:
            field = np.maximum(np.abs(x) - 1, np.abs(y) - 0.7) if kind == 1 else np.abs(y) - 0.12
        opacity = _coverage(field) * g.uniform(0.25, 0.7)
        picture += (_colour(luminance + 0.12 * g.standard_normal(), g) - picture) * opacity[..., None]
    return picture


def _lighting(g: np.random.Generator) -> Array:
    return 1 + g.uniform(0, 0.7) * (_ramp(g) - 0.5)


def _ramp(g: np.random.Generator) -> Array:
    """A plane rising by 1 over the side of the picture in a random direction; 0.5 at its centre."""
    heading = g.uniform(0, 2 * math.pi)
    across = (_COLUMNS / SIZE_PX - 0.5) * math.cos(heading) + (_ROWS / SIZE_PX - 0.5) * math.sin(heading)
    return (0.5 + across).astype(np.float32)


def _two_tone(luminance: float, blend: Array, g: np.random.Generator) -> Array:
    """[80, 80, 3]: two random colours of about this luminance, mixed by `blend` in [0, 1]."""
    first, second = _colour(luminance, g), _colour(luminance + 0.08 * g.standard_normal(), g)
    return first + (second - first) * blend[..., None]


def _colour(luminance: float, g: np.random.Generator) -> Array:
    """A random hue and saturation, float32 [3], at this luminance (clipped to 0.05 ... 0.95)."""
    luminance = min(max(luminance, 0.05), 0.95)
    hue, saturation = 6 * g.random(), g.uniform(0.05, 0.35)
    sector = (np.array([5, 3, 1], np.float32) + hue) % 6
    rgb = 1 - saturation * np.clip(np.minimum(sector, 4 - sector), 0, 1)
    rgb = rgb * (luminance / (rgb @ _LUMA))
    if rgb.max() > 1:  # too bright for so much saturation: towards grey, luminance kept
        rgb = luminance + (rgb - luminance) * ((1 - luminance) / (rgb.max() - luminance))
    return rgb.astype(np.float32)


def _smooth_noise(knots: int, g: np.random.Generator) -> Array:
    """Normal noise on knots x knots points, interpolated to [80, 80]."""
    coarse = Image.fromarray(g.standard_normal((knots, knots)).astype(np.float32))
    return np.asarray(coarse.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC))


def _blurred(coverage: Array) -> Array:
    mask = Image.fromarray((coverage * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.6))
    return np.asarray(mask, dtype=np.float32) / 255


def _polar(x: Array, y: Array) -> tuple[Array, Array]:
    return np.hypot(x, y), np.arctan2(y, x)


def _triangle_wave(t: Array) -> Array:
    """Period 1, 0 at the integers, 1 half-way."""
    return np.abs(2 * (t - np.floor(t + 0.5)))


def _say(done: int, total: int) -> None:
    if done % 64 == 0 or done == total:
        print(f"\rdrawing {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def main() -> None:
    """`python -m barlow.synthetic OUT`: writes the pictures and says so."""
    parser = argparse.ArgumentParser(description=f"Draws the data set '{NAME}' into a folder.")
    parser.add_argument("out", type=Path, help="the folder to make; kept as it is if it is there")
    parser.add_argument("--seed", type=int, default=0, help="every seed is another data set (default 0)")
    arguments = parser.parse_args()
    write(arguments.out, seed=arguments.seed, progress=_say if sys.stderr.isatty() else None)
    print(
        f"{arguments.out}: {SPLITS['train']} training and {SPLITS['held-out']} held-out pictures, synthetic"
    )


if __name__ == "__main__":
    main()
