"""Here: whether what was begun is to be gone on with: it must have been begun by the same settings.

Not here: what was begun (embed/, detection/).
"""

from __future__ import annotations

from typing import Any


def differences(found: object, wanted: dict[str, Any]) -> str:
    """In which settings `found` is another than `wanted`, in words; empty if in none."""
    if not isinstance(found, dict):
        return "its settings can't be read"
    names = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
    return ", ".join(f"{name} is {found.get(name)} there and {wanted.get(name)} here" for name in names)
