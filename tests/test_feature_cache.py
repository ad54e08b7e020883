"""Features on disk: found again by what they are a function of, computed again when damaged, bounded."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_run
from barlow import durable
from barlow.config import Config
from barlow.evaluate import evaluate, features
from barlow.evaluate.cache import FeatureCache
from barlow.model import build_model, weights

KEY = {"weights": "abc", "pass": 0, "mean": (0.5, 0.5)}
GIB = 2**30


def matrix(seed: int = 0, rows: int = 5) -> torch.Tensor:
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed))


def test_a_matrix_is_found_by_its_key_alone(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, GIB)
    assert cache.find(KEY) is None
    cache.keep(KEY, matrix())
    found = FeatureCache(tmp_path, GIB).find(KEY)
    assert found is not None
    assert torch.equal(found, matrix())
    for other in ({**KEY, "pass": 1}, {**KEY, "weights": "abd"}, {**KEY, "mean": (0.5, 0.25)}):
        assert cache.find(other) is None


@pytest.mark.parametrize("damage", ["bit", "short", "missing", "key"])
def test_a_damaged_entry_is_told_and_not_taken(tmp_path: Path, damage: str) -> None:
    cache = FeatureCache(tmp_path, GIB)
    cache.keep(KEY, matrix())
    (entry,) = tmp_path.iterdir()
    rows = entry / "features.f32"
    content = bytearray(rows.read_bytes())
    content[7] ^= 1
    if damage == "bit":
        rows.write_bytes(content)
    elif damage == "short":
        rows.write_bytes(content[:-4])
    elif damage == "missing":
        rows.unlink()
    else:
        (entry / "key.json").write_text("{}")
    with pytest.warns(UserWarning, match="computed again"):
        assert cache.find(KEY) is None
    cache.keep(KEY, matrix(1))
    found = cache.find(KEY)
    assert found is not None
    assert torch.equal(found, matrix(1))


def test_an_entry_under_anothers_name_is_not_taken(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, GIB)
    cache.keep(KEY, matrix())
    (entry,) = tmp_path.iterdir()
    cache.keep({**KEY, "pass": 1}, matrix(1))
    (other,) = (path for path in tmp_path.iterdir() if path != entry)
    name = other.name
    for file in other.iterdir():
        file.unlink()
    other.rmdir()
    entry.rename(tmp_path / name)
    with pytest.warns(UserWarning, match="holds other features"):
        assert cache.find({**KEY, "pass": 1}) is None


def test_the_last_used_stay_within_the_bound(tmp_path: Path) -> None:
    rows = 1000
    cache = FeatureCache(tmp_path, 3 * rows * 12 + 3000)
    for number in range(3):
        cache.keep({"n": number}, matrix(number, rows))
    for entry in tmp_path.iterdir():
        number = durable.read_json(entry / "key.json")["key"]["n"]
        os.utime(entry, (number, number))
    assert cache.find({"n": 0}) is not None  # now 1 is the one that was used longest ago
    cache.keep({"n": 3}, matrix(3, rows))
    assert [cache.find({"n": n}) is not None for n in range(4)] == [True, False, True, True]
    cache.keep({"n": 4}, matrix(4, 10 * rows))  # larger than everything
    assert [cache.find({"n": n}) is not None for n in range(5)] == [True, False, True, True, False]


def test_without_a_bound_nothing_is_written(tmp_path: Path) -> None:
    for cache in (FeatureCache(tmp_path / "x", 0), FeatureCache(None, GIB)):
        cache.keep(KEY, matrix())
        assert cache.find(KEY) is None
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_nothing_costs_nothing_but_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = FeatureCache(tmp_path / "file" / "features", GIB)
    with pytest.warns(UserWarning, match="features are not kept"):
        cache.keep(KEY, matrix())
    assert cache.find(KEY) is None


# Through `evaluate`


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    tiny_run.write_pictures(folder / "train", per_class=12, seed=1)
    tiny_run.write_pictures(folder / "held-out", per_class=6, seed=2)
    for name, seed in (("w", 0), ("v", 1)):
        backbone = build_model(quick().model, seed).backbone
        content = weights.encode(backbone.state_dict(), quick().model, quick())
        (folder / f"{name}.safetensors").write_bytes(content)
    return folder


def quick(**changes: object) -> Config:
    config = tiny_run.tiny_config(width=4)
    settings = dataclasses.replace(config.evaluate, linear_epochs=3, linear_crops=2)
    train = dataclasses.replace(config.train, **changes)  # pyright: ignore[reportArgumentType]
    return dataclasses.replace(config, evaluate=settings, train=train)


def run(place: Path, name: str = "w", **settings: Any) -> dict:
    arguments: dict[str, Any] = {
        "quiet": True,
        "device": "cpu",
        "cache_gib": 1.0,
        "baselines": False,
        **settings,
    }
    result = evaluate(place / f"{name}.safetensors", place, **arguments)
    return {key: result[key] for key in ("knn", "linear", "label_free")}


def test_a_second_evaluation_computes_no_feature(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = run(place, cache_gib=0.0)
    assert not (place / "w.features").exists()
    first = run(place)
    assert first == without
    assert len(list((place / "w.features").iterdir())) == 6  # both parts, two crops, two views of the twins

    def not_again(*_: object) -> torch.Tensor:
        raise AssertionError("features were computed")

    with monkeypatch.context() as patch:
        patch.setattr(features.Passes, "_compute", not_again)
        assert run(place) == first
        # Other weights, another precision, other pixels: nothing of that is what was kept.
        changed = dataclasses.replace(quick().data, std=(0.3, 0.3, 0.3))
        others: tuple[dict[str, Any], ...] = (
            {"name": "v"},
            {"config": quick(precision="bf16")},
            {"config": dataclasses.replace(quick(), data=changed)},
        )
        for other in others:
            with pytest.raises(AssertionError, match="features were computed"):
                run(place, cache=place / "w.features", **other)


def test_bf16_is_near_float32_and_told(place: Path) -> None:
    result = evaluate(
        place / "w.safetensors", place, config=quick(precision="bf16"), quiet=True, device="cpu",
        baselines=False, out=place / "bf16.json",
    )  # fmt: skip
    exact = run(place, cache_gib=0.0)
    assert result["protocol"]["precision"] == "bfloat16"
    assert any("bfloat16, not float32" in note for note in result["protocol"]["deviations"])
    assert result["label_free"]["effective_rank"] != exact["label_free"]["effective_rank"]
    assert result["label_free"]["effective_rank"] == pytest.approx(
        exact["label_free"]["effective_rank"], rel=0.05
    )
    assert abs(result["knn"]["top1"] - exact["knn"]["top1"]) <= 100 * 2 / 18


@pytest.mark.parametrize("change", ["missing", "unused"])
def test_weights_that_lack_a_tensor_or_have_one_too_many_are_refused(
    place: Path, tmp_path: Path, change: str
) -> None:
    tensors = dict(build_model(quick().model, 0).backbone.state_dict())
    if change == "missing":
        del tensors["layer3.0.bn1.running_var"]
    else:
        tensors["layer9.weight"] = torch.zeros(1)
    name = "layer3.0.bn1.running_var" if change == "missing" else "layer9.weight"
    (tmp_path / "w.safetensors").write_bytes(weights.encode(tensors, quick().model))
    with pytest.raises(ValueError, match=f"don't fit the network: {change}: {name}"):
        evaluate(tmp_path / "w.safetensors", place, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]
