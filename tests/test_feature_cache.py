"""Features on disk: found again by what they are a function of, computed again when damaged, bounded."""

from __future__ import annotations

import dataclasses
import errno
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


def keep(cache: FeatureCache, key: dict[str, Any], features_NF: torch.Tensor) -> bool:
    """Puts a matrix into the cache, in two parts and from behind; whether it was taken."""
    draft = cache.begin(key, (features_NF.shape[0], features_NF.shape[1]))
    if draft is None:
        return False
    draft.put(2, features_NF[2:])
    draft.put(0, features_NF[:2])
    found = draft.finish()
    assert found is None or torch.equal(found, features_NF)
    return found is not None


def test_a_matrix_is_found_by_its_key_alone(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, GIB)
    assert cache.find(KEY) is None
    keep(cache, KEY, matrix())
    found = FeatureCache(tmp_path, GIB).find(KEY)
    assert found is not None
    assert torch.equal(found, matrix())
    for other in ({**KEY, "pass": 1}, {**KEY, "weights": "abd"}, {**KEY, "mean": (0.5, 0.25)}):
        assert cache.find(other) is None


@pytest.mark.parametrize("damage", ["bit", "short", "missing", "key"])
def test_a_damaged_entry_is_told_and_not_taken(tmp_path: Path, damage: str) -> None:
    cache = FeatureCache(tmp_path, GIB)
    keep(cache, KEY, matrix())
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
    keep(cache, KEY, matrix(1))
    found = cache.find(KEY)
    assert found is not None
    assert torch.equal(found, matrix(1))


def test_an_entry_under_anothers_name_is_not_taken(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, GIB)
    keep(cache, KEY, matrix())
    (entry,) = tmp_path.iterdir()
    keep(cache, {**KEY, "pass": 1}, matrix(1))
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
        keep(cache, {"n": number}, matrix(number, rows))
    for entry in tmp_path.iterdir():
        number = durable.read_json(entry / "key.json")["key"]["n"]
        os.utime(entry, (number, number))
    assert cache.find({"n": 0}) is not None  # now 1 is the one that was used longest ago
    keep(cache, {"n": 3}, matrix(3, rows))
    assert [cache.find({"n": n}) is not None for n in range(4)] == [True, False, True, True]
    keep(cache, {"n": 4}, matrix(4, 10 * rows))  # larger than everything
    assert [cache.find({"n": n}) is not None for n in range(5)] == [True, False, True, True, False]


def test_without_a_bound_nothing_is_written(tmp_path: Path) -> None:
    for cache in (FeatureCache(tmp_path / "x", 0), FeatureCache(None, GIB)):
        keep(cache, KEY, matrix())
        assert cache.find(KEY) is None
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_nothing_costs_nothing_but_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = FeatureCache(tmp_path / "file" / "features", GIB)
    with pytest.warns(UserWarning, match="features are not kept"):
        keep(cache, KEY, matrix())
    assert cache.find(KEY) is None


def test_what_the_disk_refuses_halfway_is_no_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache(tmp_path, GIB)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.warns(UserWarning, match="features are not kept: .*No space left"):
            assert not keep(cache, KEY, matrix())
        patch.setattr(os, "posix_fallocate", full)
        with pytest.warns(UserWarning, match="features are not kept: .*No space left"):
            assert cache.begin(KEY, (5, 3)) is None
    draft = cache.begin(KEY, (5, 3))
    assert draft is not None
    draft.put(0, matrix()[:4])
    with pytest.raises(RuntimeError, match="4 rows of features for 5 images"):
        draft.finish()
    assert list(tmp_path.iterdir()) == []


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_two_that_compute_the_same_both_have_it(tmp_path: Path) -> None:
    """One process and so one name for both: the second draft takes the first one's place, as that of another
    machine might, which knows nothing of this one's processes. The first one's rows stay readable."""
    cache = FeatureCache(tmp_path, GIB)
    first, second = cache.begin(KEY, (5, 3)), cache.begin(KEY, (5, 3))
    assert first is not None
    assert second is not None
    for draft in (first, second):
        draft.put(0, matrix())
    found = [second.finish()]
    with pytest.warns(UserWarning, match="features are not kept"):
        found.append(first.finish())
    kept = cache.find(KEY)
    assert kept is not None
    for each in (*found, kept):
        assert torch.equal(each, matrix())  # pyright: ignore[reportArgumentType]
    durable.remove_folder(next(tmp_path.iterdir()))
    assert torch.equal(kept, matrix())


def pages_of(name: str, kind: str) -> int:
    """Bytes of mappings of files of that name that are in memory (Rss), or this process's own (Anonymous)."""
    found, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0]:
            ours = words[-1].endswith(name)
        elif ours and words[0] == f"{kind}:":
            found += 1024 * int(words[1])
    return found


def test_a_kept_matrix_takes_no_memory_of_its_own(tmp_path: Path) -> None:
    rows = 5000
    draft = FeatureCache(tmp_path, GIB).begin(KEY, (rows, 128))
    assert draft is not None
    for first in range(0, rows, 1000):
        draft.put(first, torch.ones(1000, 128))
    first_NF, again_NF = draft.finish(), FeatureCache(tmp_path, GIB).find(KEY)
    assert first_NF is not None
    assert again_NF is not None
    assert first_NF.sum() == again_NF.sum() == rows * 128
    assert pages_of("features.f32", "Rss") >= 2 * first_NF.nbytes
    assert pages_of("features.f32", "Anonymous") == 0
    first_NF[0, 0] = 2  # one page becomes this process's own, and the file stays as it is
    assert 0 < pages_of("features.f32", "Anonymous") < first_NF.nbytes / 4
    kept = FeatureCache(tmp_path, GIB).find(KEY)
    assert kept is not None
    assert kept[0, 0] == 1


# Through `evaluate`


def test_a_full_disk_changes_no_number(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = run(place, cache_gib=0.0)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.warns(UserWarning, match="features are not kept"):
        assert run(place, cache=tmp_path / "features") == without
    assert list((tmp_path / "features").iterdir()) == []


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
