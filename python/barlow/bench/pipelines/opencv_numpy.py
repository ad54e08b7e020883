"""Here: the views by OpenCV and NumPy, the way a careful person writes them by hand, behind a DataLoader.

Not here: the recipe. Faithful to the result, not to Pillow's last bit: 8-bit HSV has hues 2 degrees apart,
and OpenCV has no antialiased cubic filter, so a crop that shrinks is resized by area.
"""

# The package is optional.
# pyright: reportMissingImports=false

from __future__ import annotations

import random

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from barlow.bench.pipelines import files
from barlow.bench.pipelines.job import MEAN, STD, Job, Pipeline
from barlow.bench.pipelines.windows import window
from barlow.data import View, views

# A core has one worker; this module is imported in each.
cv2.setNumThreads(0)

Image = NDArray[np.uint8]
_LEVELS = np.arange(256, dtype=np.float32)
_ENLARGE = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
_SCALE = (1 / (255 * np.asarray(STD))).astype(np.float32)
_SHIFT = (-np.asarray(MEAN) / np.asarray(STD)).astype(np.float32)


def build(job: Job) -> Pipeline:
    """One decoded array, every view cut from it."""
    return files.build(job, Views(job.views, job.output))


class Views:
    """From a file to its views, [3, size, size] each."""

    def __init__(self, recipe: list[View], output: str) -> None:
        self.recipe, self.output = recipe, output

    def __call__(self, path: str) -> list[Tensor]:
        """Decodes once."""
        encoded = np.fromfile(path, np.uint8)
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        return [self._finish(_view(image, view)) for view in self.recipe]

    def _finish(self, image: Image) -> Tensor:
        if self.output == "float32":
            return torch.from_numpy((image * _SCALE + _SHIFT).transpose(2, 0, 1))
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _view(image: Image, view: View) -> Image:
    crop = view.crop
    if isinstance(crop, views.RandomResizedCrop):
        x, y, width, height = window(image.shape[1], image.shape[0], crop)
        image = _resize(image[y : y + height, x : x + width], (crop.size, crop.size), crop.interpolation)
    else:
        height, width = image.shape[:2]
        scale = crop.resize / min(height, width)
        image = _resize(image, (round(width * scale), round(height * scale)), crop.interpolation)
        top, left = (round((side - crop.size) / 2) for side in image.shape[:2])
        image = image[top : top + crop.size, left : left + crop.size]
    for step in view.operations:
        if random.random() < step.p:
            image = _apply(image, step)
    return image


def _resize(image: Image, size: tuple[int, int], interpolation: str) -> Image:
    shrinks = image.shape[1] >= size[0] and image.shape[0] >= size[1]
    kind = cv2.INTER_AREA if shrinks else _ENLARGE[interpolation]
    return np.asarray(cv2.resize(image, size, interpolation=kind), np.uint8)


def _apply(image: Image, step: views.Operation) -> Image:
    match step:
        case views.Flip():
            changed = cv2.flip(image, 1)
        case views.ColorJitter():
            changed = _jitter(image, step)
        case views.Grayscale():
            changed = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        case views.GaussianBlur():
            changed = cv2.GaussianBlur(image, (0, 0), random.uniform(*step.sigma))
        case views.Solarize():
            changed = cv2.LUT(image, _table(np.where(step.threshold <= _LEVELS, 255 - _LEVELS, _LEVELS)))
        case _:
            raise ValueError(f"there is no {step} by hand")
    return np.asarray(changed, np.uint8)


def _jitter(image: Image, step: views.ColorJitter) -> Image:
    changes = [
        (_brightness, _range(step.brightness, 1.0)),
        (_contrast, _range(step.contrast, 1.0)),
        (_saturation, _range(step.saturation, 1.0)),
        (_hue, _range(step.hue, 0.0)),
    ]
    for change, bounds in random.sample(changes, len(changes)):
        image = np.asarray(change(image, random.uniform(*bounds)), np.uint8)
    return image


def _range(value: float | views.Range, middle: float) -> views.Range:
    if isinstance(value, tuple):
        return value
    return (max(0.0, middle - value), middle + value) if middle else (-value, value)


def _brightness(image: Image, factor: float) -> object:
    return cv2.LUT(image, _table(_LEVELS * factor))


def _contrast(image: Image, factor: float) -> object:
    mean = round(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0])
    return cv2.LUT(image, _table(_LEVELS * factor + mean * (1 - factor)))


def _saturation(image: Image, factor: float) -> object:
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, grey, 1 - factor, 0)


def _hue(image: Image, turns: float) -> object:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    turned = ((_LEVELS + round(turns * 180)) % 180).astype(np.uint8)
    hsv[..., 0] = cv2.LUT(np.ascontiguousarray(hsv[..., 0]), turned)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _table(values: NDArray[np.float32]) -> Image:
    return values.clip(0, 255).astype(np.uint8)
