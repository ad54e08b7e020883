"""Here: a view spelled with torchvision's classes, of either of its two generations, which share most names.

Not here: decoding, the operations that the generations have under other names or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchvision.transforms import InterpolationMode

from barlow.data import View, views

INTERPOLATION = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


def steps(T: Any, view: View, own: Callable[[views.Operation], Any]) -> list[Any]:
    """Crop and operations; `T` is torchvision.transforms or its v2, `own` makes what they do not share."""
    crop = view.crop
    interpolation = INTERPOLATION[crop.interpolation]
    if isinstance(crop, views.RandomResizedCrop):
        cut = [T.RandomResizedCrop(crop.size, crop.scale, crop.ratio, interpolation)]
    else:
        cut = [T.Resize(crop.resize, interpolation), T.CenterCrop(crop.size)]
    return cut + [_shared(T, step) or own(step) for step in view.operations]


def _shared(T: Any, step: views.Operation) -> Any:
    match step:
        case views.Flip():
            return T.RandomHorizontalFlip(step.p)
        case views.ColorJitter():
            jitter = T.ColorJitter(step.brightness, step.contrast, step.saturation, step.hue)
            return T.RandomApply([jitter], step.p)
        case views.Grayscale():
            return T.RandomGrayscale(step.p)
        case _:
            return None
