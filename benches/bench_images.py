"""Here: which images the benchmarks take. Not here: what they do with them.

The first that exists of the environment variable BARLOW_IMAGES (anything that can be trained on) and
../shared/data beside the checkout; without either the benchmarks of images skip.
"""

from __future__ import annotations

import os
from pathlib import Path


def source() -> Path | None:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "imagenet-sample.tar"
    for path in (Path(os.environ.get("BARLOW_IMAGES") or "/nonexistent"), beside):
        if path.exists():
            return path
    return None
