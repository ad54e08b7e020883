"""Here: whether NVIDIA DALI is there, and which version.

Not here: importing it, which takes a second.
"""

from __future__ import annotations

import re
from importlib import metadata

LEAST = (2, 4)
"""The first DALI that has been tested: conditionals, `fn.filter` and DLPack outputs without a copy."""
_PACKAGES = ("nvidia-dali-cuda130", "nvidia-dali-cuda120", "nvidia-dali")


def version() -> str | None:
    """Of the DALI that is installed; None: there is none."""
    for package in _PACKAGES:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return None


def missing() -> str:
    """One line: what must be installed before DALI can be used; empty if it can be."""
    found = version()
    least = ".".join(map(str, LEAST))
    if found is None:
        return f"NVIDIA DALI {least} or newer is not installed: pip install nvidia-dali-cuda130"
    if tuple(map(int, re.findall(r"\d+", found)[:2])) < LEAST:
        return f"NVIDIA DALI {found} is too old, {least} is the least: pip install -U nvidia-dali-cuda130"
    return ""
