"""Here: a config as JSON and back, strictly: every field is there, none is unknown, each has its type.

Not here: the fields, the command line, which settings can work.

The one exception lets runs of older versions go on: a file says its `format`, and one of an older format may
lack fields, which were not known when it was written. Each then has its default, and that is said once. So
whoever adds a field gives it a default that does what was done before there was the field, and raises FORMAT
if files of the present one are out in the world. Fields are neither renamed nor given another meaning.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import types
import typing
from pathlib import Path
from typing import Any, Literal

from barlow.config.fields import Config, ModelConfig

FORMAT = 3
"""Of the files that `to_json` writes. Format 1 did not say so; 2 has `format` and the fields since then; 3
has those of backbones from timm and of AdamW."""
_FORMAT_KEY = "format"
_FROM_THE_FIRST = {
    Config: {"data", "model", "objective", "optim", "train", "checkpoint", "evaluate"},
    ModelConfig: {"backbone", "stem", "width", "projector", "projector_norm"},
}
"""What files of every format have: without it an object is no config at all."""
_log = logging.getLogger("barlow.config")
_said: set[str] = set()


def to_json(config: Config | ModelConfig) -> str:
    """The resolved config, or the network's part of it, as indented JSON, every field written out."""
    return json.dumps({_FORMAT_KEY: FORMAT, **dataclasses.asdict(config)}, indent=2) + "\n"


def from_json(text: str) -> Config:
    """Reads `to_json`'s output; an unknown, missing or ill-typed field is a `ValueError` naming it.

    A field that a file of an older format lacks has its default, and a note says so once.
    """
    return _read(Config, text, "config")


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
    return _read(ModelConfig, text, "model")


def _read(cls: type[Any], text: str, where: str) -> Any:
    raw = _parsed(text)
    if not isinstance(raw, dict):
        raise ValueError(f"{where} must be an object, not {raw!r}")
    written = raw.pop(_FORMAT_KEY, 1)
    if type(written) is not int or written < 1:
        raise ValueError(f"{where}.{_FORMAT_KEY} must be a whole number from 1, not {written!r}")
    if written > FORMAT:
        raise ValueError(f"{where} has format {written}, of a newer barlow; this one reads up to {FORMAT}")
    absent: list[str] | None = [] if written < FORMAT else None
    config = _build(cls, raw, where, absent)
    if absent and (said := ", ".join(absent)) not in _said:
        _said.add(said)
        _log.info("written by an older version, without %s", said)
    return config


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error


def _build(cls: type[Any], raw: Any, where: str, absent: list[str] | None) -> Any:
    """An instance. `absent` gathers the fields that take their default; None: none may."""
    if not isinstance(raw, dict):
        raise ValueError(f"{where} must be an object, not {raw!r}")
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    for unknown in sorted(raw.keys() - set(names)):
        raise ValueError(f"{where}.{unknown} is not a known field")
    default, values = cls(), {}
    for name in names:
        if name in raw:
            values[name] = _value(hints[name], raw[name], f"{where}.{name}", absent)
        elif absent is None or name in _FROM_THE_FIRST.get(cls, ()):
            raise ValueError(f"{where}.{name} is missing")
        else:
            absent.append(f"{where}.{name} (taken as {getattr(default, name)!r})")
    return cls(**values)


def _value(hint: Any, raw: Any, where: str, absent: list[str] | None) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), raw, where, absent)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if raw not in args:
            raise ValueError(f"{where} must be one of {', '.join(map(str, args))}, not {raw!r}")
        return raw
    if origin is tuple:
        if not isinstance(raw, list) or (args[-1] is not Ellipsis and len(raw) != len(args)):
            raise ValueError(f"{where} must be a list of {len(args)} values, not {raw!r}")
        kinds = [args[0]] * len(raw)
        return tuple(_value(kind, item, where, absent) for kind, item in zip(kinds, raw, strict=True))
    if hint is float and isinstance(raw, int) and not isinstance(raw, bool):
        return float(raw)
    if (
        isinstance(hint, types.UnionType)
        or not isinstance(raw, hint)
        or (hint is int and isinstance(raw, bool))
    ):
        raise ValueError(f"{where} must be {getattr(hint, '__name__', hint)}, not {raw!r}")
    return raw
