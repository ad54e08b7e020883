"""Here: how settings differ from the published ones, which are the defaults of EvaluateConfig, in words.

Not here: what the settings are of.
"""

from __future__ import annotations

from collections.abc import Iterable

from barlow.config import Config, EvaluateConfig

_PUBLISHED = EvaluateConfig()


def differences(config: Config, what: str, fields: Iterable[tuple[str, str]]) -> list[str]:
    """A line for each of the (field of EvaluateConfig, its name in words) that isn't the default."""
    told = []
    for field, words in fields:
        ours, theirs = getattr(config.evaluate, field), getattr(_PUBLISHED, field)
        if ours != theirs:
            told.append(f"{what}: {words} {_text(ours)} instead of {_text(theirs)}")
    return told


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
