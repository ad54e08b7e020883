"""Every number of a config has a range, and nothing outside of it gets past validation."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from barlow.config import PRESETS, Config
from barlow.validation import RANGES, validate

NAMES = ("without",)
"""Fields that hold several names, none by default."""
NUMBERS = [
    f"{section.name}.{name}"
    for section in dataclasses.fields(Config)
    for name, value in dataclasses.asdict(getattr(Config(), section.name)).items()
    if not isinstance(value, str | bool) and name not in NAMES
]


def changed(name: str, value: Any) -> Config:
    section, field = name.split(".")
    part = dataclasses.replace(getattr(Config(), section), **{field: value})
    return dataclasses.replace(Config(), **{section: part})


def like(name: str, number: float) -> Any:
    """`number` as a value of this field: tuples get it in their last place."""
    section, field = name.split(".")
    value = getattr(getattr(Config(), section), field)
    return (*value[:-1], number) if isinstance(value, tuple) else number


def refused(name: str, number: float) -> None:
    flag = "--" + name.replace("_", "-")
    with pytest.raises(ValueError, match=rf"^{flag} must (lie|be)"):
        validate(changed(name, like(name, number)), num_samples=10**6, world_size=1)


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_outside_of_their_range_are_refused(name: str) -> None:
    interval = RANGES[name]
    low, high = (float(end) for end in interval[1:-1].split(","))
    for number in (math.nan, math.inf, -math.inf, -1, -1e-300):
        refused(name, number)
    refused(name, low if interval.startswith("(") else low - 1)
    if math.isfinite(high):
        refused(name, high if interval.endswith(")") else high * (1 + 1e-12))


def test_the_ends_of_a_range_belong_to_it() -> None:
    for name, value in (
        ("optim.warmup_epochs", 0),
        ("optim.momentum", 0),
        ("data.crop_scale", (1.0, 1.0)),
        ("train.seed", 2**63 - 1),
    ):
        validate(changed(name, value), num_samples=10**6, world_size=1)


def test_an_empty_projector_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^--model\.projector needs at least one"):
        validate(changed("model.projector", ()), num_samples=10**6, world_size=1)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_valid(preset: str) -> None:
    validate(PRESETS[preset](), num_samples=50_000, world_size=2)
