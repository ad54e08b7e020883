"""Drawn rectangles to find: as examples with boxes and masks, and as a VOCdevkit folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

NAMES = ("red", "blue")
COLOURS = ((200, 60, 60), (60, 60, 200))


class Rectangles:
    """Noisy images of `size` pixels with one or two filled rectangles; label 1 is red, 2 blue."""

    def __init__(self, count: int, *, size: int = 64, seed: int = 0) -> None:
        self._size = size
        rng = np.random.default_rng(seed)
        self.pixels, self.boxes, self.labels = [], [], []
        for _ in range(count):
            pixels = rng.normal(110, 20, (size, size, 3))
            boxes, labels = [], []
            for half in range(rng.integers(1, 3)):  # one in each half, so that none hides another
                x0, width = (
                    half * size // 2 + rng.integers(0, size // 8),
                    rng.integers(size // 4, size * 3 // 8),
                )
                y0, height = rng.integers(0, size // 2), rng.integers(size // 4, size // 2)
                label = int(rng.integers(0, 2))
                pixels[y0 : y0 + height, x0 : x0 + width] = COLOURS[label]
                boxes.append([x0, y0, x0 + width, y0 + height])
                labels.append(label + 1)
            self.pixels.append(pixels.clip(0, 255).astype(np.uint8))
            self.boxes.append(boxes)
            self.labels.append(labels)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> tuple[Tensor, dict[str, Tensor]]:
        masks = torch.zeros(len(self.boxes[i]), self._size, self._size, dtype=torch.uint8)
        for mask, (x0, y0, x1, y1) in zip(masks, self.boxes[i], strict=True):
            mask[y0:y1, x0:x1] = 1
        target = {
            "boxes": torch.tensor(self.boxes[i], dtype=torch.float32),
            "labels": torch.tensor(self.labels[i]),
            "masks": masks,
        }
        return torch.from_numpy(self.pixels[i]).permute(2, 0, 1).float() / 255, target

    def write_voc(self, root: Path, year: int, name: str, classes: tuple[str, ...] = NAMES) -> None:
        """As VOCdevkit/VOC{year} with the image set `name`."""
        folder = root / f"VOC{year}"
        for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        stems = [f"{name}_{i:06d}" for i in range(len(self))]
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{stem}\n" for stem in stems))
        for stem, pixels, boxes, labels in zip(stems, self.pixels, self.boxes, self.labels, strict=True):
            Image.fromarray(pixels).save(folder / "JPEGImages" / f"{stem}.jpg", quality=95)
            objects = "".join(
                f"<object><name>{classes[label - 1]}</name><difficult>0</difficult><bndbox>"
                f"<xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
                "</bndbox></object>"
                for (x0, y0, x1, y1), label in zip(boxes, labels, strict=True)
            )
            (folder / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{objects}</annotation>")
