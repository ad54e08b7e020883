"""The pipelines that are compared, one file each, and what is known of them without importing any.

A pipeline's file has `build(job) -> Pipeline` and is imported in the process that runs it, so that neither a
missing package nor a crash of one reaches the others.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Literal

DECODE, OFFICIAL, OURS, RECODED = "decode", "official", "barlow", "recoded"


@dataclass(frozen=True)
class Entry:
    """One line of the table, as far as it is known before it runs."""

    title: str
    module: str
    """File of this package that builds it."""
    needs: tuple[str, ...] = ()
    """Modules that must be installed."""
    install: str = ""
    """What gets them."""
    tasks: tuple[str, ...] = ("views", "crops", "evaluation", "dino", "small")
    makes: Literal["views", "one view", "pixels"] = "views"
    outputs: tuple[str, ...] = ("float32", "uint8")
    note: str = ""
    """How its work differs from the official pipeline's, if it does."""
    recoded: bool = False
    """Whether it reads the images recoded, which it does only if that is asked for."""
    colour_note: str = ""
    """The same of the operations after the crop, for tasks that have any."""

    @property
    def installed(self) -> bool:
        """Whether all it needs can be found; importing may still fail."""
        return all(_findable(name) for name in self.needs)


ENTRIES = {
    OURS: Entry("barlow", "ours"),
    RECODED: Entry("barlow on recoded shards", "ours", recoded=True),
    OFFICIAL: Entry("official: Pillow + torchvision", "official"),
    "torchvision-v2": Entry(
        "torchvision v2 on uint8 tensors", "tensors", colour_note="blur by a 13 x 13 kernel"
    ),
    "lightly": Entry(
        "lightly's transforms", "lightly_views", ("lightly",), "pip install lightly",
        tasks=("views", "dino", "small"), outputs=("float32",),
        note="its own recipe: BYOLTransform crops bilinearly",
    ),
    "dali": Entry(
        "DALI on the CPU, decode once", "dali_cpu", ("nvidia.dali",), "pip install nvidia-dali-cuda130",
        colour_note="hue by rotation in YIQ, jitter in a fixed order",
    ),
    "opencv": Entry(
        "OpenCV + NumPy by hand", "opencv_numpy", ("cv2",), "pip install opencv-python-headless",
        note="resize by area or cubic", colour_note="hue in steps of 2 degrees",
    ),
    "spdl": Entry(
        "SPDL, decode + resize only", "spdl_ffmpeg", ("spdl.io", "spdl.pipeline"),
        "pip install spdl-io spdl-core, and FFmpeg's shared libraries",
        makes="one view", outputs=("uint8",), tasks=("views", "crops", "evaluation", "small"),
        note="one view, crop and resize only",
    ),
    DECODE: Entry(
        "bare decoding: libjpeg-turbo alone", "decode_only", makes="pixels", outputs=("uint8",),
        note="the limit: whole images from memory, nothing made of them",
    ),
    "recoded-decode": Entry(
        "bare decoding of recoded images", "decode_only", makes="pixels", outputs=("uint8",), recoded=True
    ),
}  # fmt: skip
"""By name, in the order of the table."""


def _findable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of the parent package
        return False
