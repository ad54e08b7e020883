"""Here: a random window of an image, for peers that bring no random resized crop of their own.

Not here: pixels.
"""

from __future__ import annotations

import math
import random

from barlow.data import views


def window(width: int, height: int, crop: views.RandomResizedCrop) -> tuple[int, int, int, int]:
    """A random window x, y, width, height, drawn as torchvision does."""
    for _ in range(10):
        area = width * height * random.uniform(*crop.scale)
        ratio = math.exp(random.uniform(math.log(crop.ratio[0]), math.log(crop.ratio[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, width - w), random.randint(0, height - h), w, h
    ratio = min(max(width / height, crop.ratio[0]), crop.ratio[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    return (width - w) // 2, (height - h) // 2, w, h
