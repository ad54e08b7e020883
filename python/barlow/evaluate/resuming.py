"""Here: whether what was begun is to be gone on with: it must have been begun by the same settings.

Not here: what was begun (embed/, detection/).
"""

from __future__ import annotations

from typing import Any

_DIGESTS = {
    "weights_sha256": "weights",
    "data_sha256": "images",
    "images_sha256": "images",
    "train_sha256": "training images",
    "test_sha256": "test images",
}
"""Settings that are digests, as what they are digests of."""
_SHOWN = 8
"""Hexadecimal digits of a digest: enough to tell two of them apart."""


def differences(found: object, wanted: dict[str, Any]) -> str:
    """In which settings `found` is another than `wanted`, in words; empty if in none."""
    if not isinstance(found, dict):
        return "its settings can't be read"
    names = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
    return ", ".join(_difference(name, found.get(name), wanted.get(name)) for name in names)


def _difference(name: str, there: object, here: object) -> str:
    if name in _DIGESTS:
        digests = f"{str(there)[:_SHOWN]}... there and {str(here)[:_SHOWN]}... here"
        return f"other {_DIGESTS[name]} (SHA-256 {digests})"
    return f"{name} is {there} there and {here} here"
