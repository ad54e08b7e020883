"""Here: what the pipelines are asked to make: for each task its views and their size.

Not here: how anyone makes them. Every pipeline translates the same descriptions, so all do the same work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from barlow.data import View, views

LOCAL_SHARE = 96 / 224
"""Side of DINO's local views, as a share of the global ones."""


@dataclass(frozen=True)
class Task:
    """One kind of work."""

    title: str
    """With {size} where the side of the views goes."""
    views: Callable[[int], list[View]]
    """From the side of the views in pixels."""
    output: str = "float32"
    """What the pipelines hand over: normalised float32, or uint8."""
    size: int = 224
    images: int = 512


def _crops(size: int) -> list[View]:
    return [View(view.crop) for view in views.barlow_twins(size)]


def _dino(size: int) -> list[View]:
    """Caron et al. 2021 with the crop scales of their code's defaults and bicubic crops."""

    def view(size: int, scale: tuple[float, float], blur_p: float, solarize_p: float) -> View:
        operations = (
            views.Flip(),
            views.ColorJitter(0.4, 0.4, 0.2, 0.1, p=0.8),
            views.Grayscale(p=0.2),
            views.GaussianBlur(p=blur_p),
            views.Solarize(p=solarize_p),
        )
        return View(views.RandomResizedCrop(size, scale), operations)

    local = view(round(size * LOCAL_SHARE), (0.05, 0.4), 0.5, 0.0)
    return [view(size, (0.4, 1.0), 1.0, 0.0), view(size, (0.4, 1.0), 0.1, 0.2), *[local] * 8]


def _evaluation(size: int) -> list[View]:
    return views.evaluation(size, resize=round(size * 256 / 224))


TASKS = {
    "views": Task("both official views at {size} px", views.barlow_twins),
    "crops": Task("decode and two random crops at {size} px, nothing else", _crops, output="uint8"),
    "evaluation": Task("evaluation: resize, centre crop of {size} px", _evaluation),
    "dino": Task("DINO: 2 global views at {size} px, 8 local ones", _dino),
    "small": Task(
        "both official views at {size} px, no blur", lambda size: views.barlow_twins(size, blur=False),
        size=32, images=8192,
    ),
}  # fmt: skip
