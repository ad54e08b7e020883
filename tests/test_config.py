"""Every number of a config has a range, and nothing outside of it gets past validation; JSON and back."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from typing import Any

import pytest

from barlow.config import PRESETS, Config, document, from_json, model_from_json, to_json
from barlow.config.document import FORMAT
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


def of_format(number: int | None, **without: str) -> str:
    """A config with momentum 0.8 as a file of this format (None: says none) that lacks some fields."""
    config = dataclasses.replace(Config(), optim=dataclasses.replace(Config().optim, momentum=0.8))
    raw = json.loads(to_json(config))
    assert raw.pop("format") == FORMAT
    for section, name in without.items():
        del raw[section][name]
    return json.dumps(raw if number is None else {"format": number, **raw})


def test_an_older_file_may_lack_fields_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "barlow")
    document._said.clear()
    text = of_format(None, train="fused_lars", checkpoint="keep")
    for _ in range(2):
        config = from_json(text)
        assert config == from_json(of_format(FORMAT))
        assert config.optim.momentum == 0.8
    lacking = "config.train.fused_lars (taken as False), config.checkpoint.keep (taken as 2)"
    assert caplog.messages == [f"written by an older version, without {lacking}"]
    from_json(of_format(None))  # nothing is missing, nothing is said
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (of_format(FORMAT, train="fused_lars"), "^config.train.fused_lars is missing$"),
        (of_format(FORMAT + 1), f"^config has format {FORMAT + 1}, of a newer barlow"),
        (of_format(0), "^config.format must be a whole number"),
        (of_format(True), "^config.format must be a whole number"),
        ("{}", "^config.data is missing$"),
        ('{"format": 1}', "^config.data is missing$"),
        (of_format(1).replace('"momentum"', '"impulse"'), "^config.optim.impulse is not a known field$"),
        (of_format(1).replace('"epochs": 1000', '"epochs": "all"'), "^config.optim.epochs must be int"),
    ],
)
def test_all_else_is_strict(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_json(text)


def test_a_network_is_read_as_strictly() -> None:
    text = to_json(Config().model)
    assert model_from_json(text) == Config().model
    with pytest.raises(ValueError, match=r"^model\.backbone is missing$"):
        model_from_json("{}")
