"""Benchmarks as their archives unpack, and any images by lists of names and classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import tiny_run
from barlow.data import pack
from barlow.evaluate import partition
from commands import barlow_here, the_error

CLASSES = {"amber": ("a/abbey", 0), "blue": ("f/field/wild", 10), "cyan": ("a/alley", 9)}
TORRALBA = Path("data", "vision", "torralba", "deeplearning", "images256")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Places-205: a folder for each first letter, classes of one or two folders, numbers in the lists."""
    root = tmp_path_factory.mktemp("places")
    tiny_run.write_pictures(root / "plain", per_class=6, seed=1)
    lines: dict[str, list[str]] = {"train": [], "val": []}
    for name, (folder, label) in CLASSES.items():
        shutil.copytree(root / "plain" / name, root / TORRALBA / folder)
        for i, path in enumerate(sorted((root / TORRALBA / folder).iterdir())):
            if i < 5:  # the last one is in no list, as the test images of Places-205 are in none
                lines["val" if i == 1 else "train"].append(f"{folder}/{path.name} {label}")
    shutil.rmtree(root / "plain")
    splits = root / "trainvalsplit_places205"
    splits.mkdir()
    for part, of_part in lines.items():
        (splits / f"{part}_places205.csv").write_text("\n".join(reversed(of_part)) + "\n")
    return root


def coco(names: dict[str, int]) -> dict[str, Any]:
    """Names and categories as in train2018.json, where ids of images and annotations differ."""
    return {
        "images": [{"id": 100 + i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [
            {"id": i, "image_id": 100 + i, "category_id": c} for i, c in enumerate(names.values())
        ],
        "categories": [{"id": c, "name": "not shown"} for c in set(names.values())],
    }  # fmt: skip


@pytest.fixture(scope="module")
def inat(places: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """iNaturalist 2018: train and val images side by side under their supercategory, told apart by JSON."""
    root = tmp_path_factory.mktemp("inat")
    parts: dict[str, dict[str, int]] = {"train": {}, "val": {}}
    for (folder, label), above in zip(CLASSES.values(), ("Plantae", "Insecta", "Plantae"), strict=True):
        for i, path in enumerate(sorted((places / TORRALBA / folder).iterdir())):
            name = f"train_val2018/{above}/{label}/{label}{i}.jpg"
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / name)
            parts["val" if i == 2 else "train"][name] = label
    for part, names in parts.items():
        (root / f"{part}2018.json").write_text(json.dumps(coco(names)))
    return root


def loaded(*arguments: Any) -> partition.Partition:
    parts = partition.load(*arguments)
    assert isinstance(parts, partition.Partition)
    return parts


def labels(parts: partition.Partition) -> tuple[dict[str, str], dict[str, str]]:
    """Class of each image by its name, of the two parts."""
    found = []
    for index, numbers in ((parts.train, parts.train_labels_N), (parts.test, parts.test_labels_M)):
        found.append({index.name(i): parts.class_names[c] for i, c in enumerate(numbers.tolist())})
    return found[0], found[1]


def test_places_is_read_as_it_is_unpacked(places: Path, tmp_path: Path) -> None:
    parts = loaded(places)
    assert parts.class_names == ["0", "9", "10"]
    assert parts.benchmark == "Places-205"
    train, test = labels(parts)
    assert test == {
        "a/abbey/amber-001.jpg": "0", "f/field/wild/blue-001.jpg": "10", "a/alley/cyan-001.jpg": "9",
    }  # fmt: skip
    assert len(train) == 12
    assert all(label == str(CLASSES[name.rpartition("/")[2][:-8]][1]) for name, label in train.items())
    assert parts.train.read(0)  # of the image that the list names first
    assert parts.train.name(0) == "a/alley/cyan-004.jpg"
    shutil.copytree(places / TORRALBA, tmp_path / "images256")
    shutil.copytree(places / "trainvalsplit_places205", tmp_path / "trainvalsplit_places205")
    assert labels(loaded(tmp_path)) == (train, test)
    with pytest.raises(ValueError, match="has a list of its own test images: leave --held-out out"):
        partition.load(places, places / TORRALBA)


def test_inaturalist_is_read_as_it_is_unpacked(inat: Path) -> None:
    parts = loaded(inat)
    assert parts.class_names == ["0", "9", "10"]
    assert parts.benchmark == "iNaturalist-18"
    train, test = labels(parts)
    assert test == {"Plantae/0/02.jpg": "0", "Insecta/10/102.jpg": "10", "Plantae/9/92.jpg": "9"}
    assert len(train) == 15
    assert all(name.split("/")[1] == label for name, label in train.items())


def test_packed_and_recoded_images_are_found_by_the_same_lists(
    places: Path, inat: Path, tmp_path: Path
) -> None:
    for root, images, lists in (
        (places, TORRALBA, [f"trainvalsplit_places205/{part}_places205.csv" for part in ("train", "val")]),
        (inat, "train_val2018", ["train2018.json", "val2018.json"]),
    ):
        pack(root / images, tmp_path / root.name, recode=True)
        packed = loaded(tmp_path / root.name, None, (root / lists[0], root / lists[1]))
        assert len(packed.train.recoded())
        whole = loaded(root)
        assert packed.benchmark == whole.benchmark
        assert [{n.removesuffix(".bjc"): c for n, c in part.items()} for part in labels(packed)] == list(
            labels(whole)
        )


def test_lists_that_do_not_fit_are_refused_by_place(places: Path, inat: Path, tmp_path: Path) -> None:
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    good = "a/abbey/amber-000.jpg,x\nf/field/wild/blue-000.jpg\ty\n"
    for ours, theirs, message in (
        (good, "cyan-000.jpg z\n", r"test\.csv has classes that .*train\.csv has not: z"),
        (good, "cyan-099.jpg y\n", r"test\.csv, line 1: cyan-099\.jpg is no image of"),
        (good, "blue-000.jpg y\n", r"both name 1 images, such as f/field/wild/blue-000\.jpg"),
        (good + "blue-000.jpg y\n", "cyan-000.jpg y\n", r"line 3: blue-000\.jpg was named before, in line 2"),
        ("amber-000.jpg\n", "cyan-000.jpg y\n", r"train\.csv, line 1 is no name and class: amber-000\.jpg"),
        ("\n", "cyan-000.jpg y\n", r"train\.csv names no image"),
        ("amber-000.jpg y\n", "cyan-000.jpg y\n", r"has 1 class with images"),
    ):
        train.write_text(ours)
        test.write_text(theirs)
        with pytest.raises(ValueError, match=message):
            partition.load(places / TORRALBA, None, (train, test))
    whole = coco({"a/0.jpg": 0, "b/1.jpg": 1})
    for change, message in (
        ({"images": [{"id": 100}]}, r"has no images with id and file_name.*'file_name'"),
        ({"annotations": [{"image_id": 7, "category_id": 1}]}, r"has no images with id.*7"),
        ({"annotations": whole["annotations"][:1]}, r"1 images have no class"),
        ({"annotations": whole["annotations"][:1] * 2}, r"1 images have no class"),
    ):
        path = tmp_path / "bad.json"
        path.write_text(json.dumps({**whole, **change}))
        with pytest.raises(ValueError, match=message):
            partition.load(inat, None, (path, inat / "val2018.json"))


def test_the_command_takes_lists(places: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from barlow.model import build_model, weights

    config = tiny_run.tiny_config(width=4)
    target = tmp_path / "w.safetensors"
    target.write_bytes(
        weights.encode(build_model(config.model, 0).backbone.state_dict(), config.model, config)
    )
    tests = tmp_path / "val.txt"
    tests.write_text((places / "trainvalsplit_places205" / "val_places205.csv").read_text())
    quick = (
        "--no-baselines",
        "--cache-gib",
        0,
        "--evaluate.recipe-epochs",
        1,
        "--out",
        tmp_path / "out.json",
    )
    done = barlow_here(
        capfd, "eval", target, places / TORRALBA, *quick, "--protocols", "knn", "places205", "inat18",
        "--train-list", places / "trainvalsplit_places205" / "train_places205.csv", "--held-out-list", tests,
    )  # fmt: skip
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "out.json").read_text())
    assert (result["data"]["train_images"], result["data"]["test_images"]) == (12, 3)
    told = result["protocol"]["deviations"]
    assert "inat18: on these images, not on those of iNaturalist-18" in told
    assert not any("Places-205" in note for note in told)
    alone = barlow_here(capfd, "eval", target, places, "--train-list", tests)
    assert alone.code == 2
    assert the_error(alone.err) == "--train-list and --held-out-list are only of use together"
