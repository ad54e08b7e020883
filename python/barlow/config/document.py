"""Here: a config as JSON and back, strictly: every field is there, none is unknown, each has its type.

Not here: the fields, the command line, which settings can work.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any, Literal

from barlow.config.fields import Config, ModelConfig


def to_json(config: Config | ModelConfig) -> str:
    """The resolved config, or the network's part of it, as indented JSON, every field written out."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """Reads `to_json`'s output; an unknown, missing or ill-typed field is a `ValueError` naming it."""
    return _build(Config, _parsed(text), "config")


def load(path: Path) -> Config:
    """Reads a file of `to_json`; `OSError`, or a `ValueError` that names the file and what is wrong in it."""
    try:
        return from_json(path.read_bytes().decode())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def flat(config: Config) -> list[tuple[str, str]]:
    """Every field as (dotted name, value as text), in the order of the fields."""
    rows = []
    for section in dataclasses.fields(config):
        for name, value in dataclasses.asdict(getattr(config, section.name)).items():
            text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            rows.append((f"{section.name}.{name}", text))
    return rows


def model_from_json(text: str) -> ModelConfig:
    """Reads `to_json`'s output of a ModelConfig, as strictly."""
    return _build(ModelConfig, _parsed(text), "model")


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error


def _build(cls: type[Any], raw: Any, where: str) -> Any:
    if not isinstance(raw, dict):
        raise ValueError(f"{where} must be an object, not {raw!r}")
    hints = typing.get_type_hints(cls)
    names = {f.name for f in dataclasses.fields(cls)}
    for unknown in sorted(raw.keys() - names):
        raise ValueError(f"{where}.{unknown} is not a known field")
    for missing in sorted(names - raw.keys()):
        raise ValueError(f"{where}.{missing} is missing")
    return cls(**{name: _value(hints[name], raw[name], f"{where}.{name}") for name in names})


def _value(hint: Any, raw: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), raw, where)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if raw not in args:
            raise ValueError(f"{where} must be one of {', '.join(map(str, args))}, not {raw!r}")
        return raw
    if origin is tuple:
        if not isinstance(raw, list) or (args[-1] is not Ellipsis and len(raw) != len(args)):
            raise ValueError(f"{where} must be a list of {len(args)} values, not {raw!r}")
        kinds = [args[0]] * len(raw)
        return tuple(_value(kind, item, where) for kind, item in zip(kinds, raw, strict=True))
    if hint is float and isinstance(raw, int) and not isinstance(raw, bool):
        return float(raw)
    if (
        isinstance(hint, types.UnionType)
        or not isinstance(raw, hint)
        or (hint is int and isinstance(raw, bool))
    ):
        raise ValueError(f"{where} must be {getattr(hint, '__name__', hint)}, not {raw!r}")
    return raw
