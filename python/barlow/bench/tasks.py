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
    return views.dino(size=size, local_size=round(size * LOCAL_SHARE))


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
