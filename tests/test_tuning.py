"""Which images keep their labels, and the protocols that train by a recipe through `evaluate`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.model_selection import StratifiedShuffleSplit

import tiny_run
from barlow.config import Config
from barlow.data import pack
from barlow.evaluate import classifier, evaluate, labelled, partition, recipes
from barlow.evaluate.protocols import PROTOCOLS
from barlow.evaluate.tuning import Tuning
from barlow.model import build_model, weights

PER_CLASS = {"amber": 30, "blue": 17, "cyan": 8}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    tiny_run.write_pictures(folder / "train", per_class=30, seed=1)
    for name, count in PER_CLASS.items():
        for path in sorted((folder / "train" / name).iterdir())[count:]:
            path.unlink()
    tiny_run.write_pictures(folder / "held-out", per_class=5, seed=2)
    return folder


@pytest.fixture(scope="module")
def parts(pictures: Path) -> partition.Partition:
    loaded = partition.load(pictures)
    assert isinstance(loaded, partition.Partition)
    return loaded


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


# Which images keep their labels


def names(part: partition.Partition) -> list[str]:
    return [part.train.name(i) for i in range(len(part.train))]


@pytest.mark.parametrize("share", [0.02, 0.1, 0.37, 0.5, 1.0])
@pytest.mark.parametrize("counts", [[30, 17, 8], [100, 1, 1000, 57], [1300, 1299, 732]])
def test_the_quotas_are_those_of_scikit_learn(counts: list[int], share: float) -> None:
    ours = labelled.quotas(torch.tensor(counts), share).tolist()
    if share == 1.0:
        assert ours == counts
        return
    y = np.repeat(np.arange(len(counts)), counts)
    if min(counts) < 2:
        # scikit-learn refuses a class of one image; ours keeps it, and shares the rest alike.
        assert ours[counts.index(1)] == 1
        return
    split = StratifiedShuffleSplit(1, train_size=share, random_state=0)
    try:
        chosen, _ = next(split.split(np.zeros(len(y)), y))
    except ValueError:  # fewer images than classes
        assert ours == [1] * len(counts)
        return
    theirs = np.bincount(y[chosen], minlength=len(counts))
    assert ours == np.maximum(theirs, 1).tolist()


def test_imagenet_would_have_as_many_labels_as_simclrs_lists() -> None:
    counts = torch.tensor([1300] * 895 + [1121] * 67 + [1120] * 38)  # ImageNet's sum in 1000 classes
    assert int(counts.sum()) == 1_281_167
    assert int(labelled.quotas(counts, 0.01).sum()) == 12_811
    assert int(labelled.quotas(counts, 0.1).sum()) == 128_116


def test_a_stratified_draw_is_a_function_of_names_and_seed(parts: partition.Partition) -> None:
    drawn = labelled.stratified(parts, 0.37, 0)
    assert torch.bincount(drawn.train_labels_N).tolist() == [11, 6, 3]
    assert names(drawn) == sorted(names(drawn)) != names(labelled.stratified(parts, 0.37, 1))
    order = np.random.default_rng(0).permutation(len(parts.train)).astype(np.uint32)
    shuffled = dataclasses.replace(
        parts,
        train=parts.train.subset(order),
        train_labels_N=parts.train_labels_N[torch.from_numpy(order).long()],
    )
    again = labelled.stratified(shuffled, 0.37, 0)
    assert sorted(names(again)) == names(drawn)
    labels = dict(zip(names(drawn), drawn.train_labels_N.tolist(), strict=True))
    assert all(name.startswith(parts.class_names[label]) for name, label in labels.items())
    assert again.test is parts.test
    assert "20 images, 0.37 of each class drawn by seed 0" in drawn.how
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\], not 0"):
        labelled.stratified(parts, 0, 0)


def test_a_list_names_files_as_simclrs_does(parts: partition.Partition, tmp_path: Path) -> None:
    path = tmp_path / "percent.txt"
    path.write_text("blue-003.jpg\n\namber/amber-011.jpg\r\ncyan-000.jpg\n")
    chosen = labelled.listed(parts, path)
    assert names(chosen) == ["blue/blue-003.jpg", "amber/amber-011.jpg", "cyan/cyan-000.jpg"]
    assert chosen.train_labels_N.tolist() == [1, 0, 2]
    for text, message in (
        ("blue-003.jpg\nblue-099.jpg\n", r"line 2: blue-099\.jpg is no image of .*train"),
        ("ue-003.jpg\n", r"line 1: ue-003\.jpg is no image"),
        ("cyan/blue-003.jpg\n", r"line 1: cyan/blue-003\.jpg is no image"),
        ("blue-003.jpg\nblue/blue-003.jpg\n", r"line 2: .* was named before, in line 1"),
        ("\n", r"percent\.txt names no image"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            labelled.listed(parts, path)


def test_a_list_finds_packed_and_recoded_images(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "twice" / "amber").mkdir(parents=True)
    for name in ("amber", "blue"):
        (tmp_path / "twice" / name).mkdir(exist_ok=True)
        for i in (1, 2):
            data = (pictures / "train" / name / f"{name}-00{i}.jpg").read_bytes()
            (tmp_path / "twice" / name / f"{name}-{i}.jpg").write_bytes(data)
            (tmp_path / "twice" / name / f"same-{i}.jpg").write_bytes(data)
    pack(tmp_path / "twice", tmp_path / "shards", recode=True)
    packed = partition.load(tmp_path / "shards")
    assert isinstance(packed, partition.Partition)
    assert len(packed.train.recoded())
    path = tmp_path / "list.txt"
    member = packed.train.name(0)
    path.write_text(member.removesuffix(".bjc").rpartition("/")[2] + "\n")
    whole = dataclasses.replace(
        packed, train=packed.train.subset([0]), train_labels_N=packed.train_labels_N[:1]
    )
    assert names(labelled.listed(whole, path)) == [member]
    from barlow.data import open_index

    path.write_text("same-1.jpg\n")
    with pytest.raises(ValueError, match=r"same-1\.jpg is the name of 2 images"):
        labelled.ids_of_list(open_index(tmp_path / "twice"), path)


# Through `evaluate`


@pytest.fixture(scope="module")
def result(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("weights")
    config = quick()
    backbone = build_model(config.model, 0).backbone
    (folder / "w.safetensors").write_bytes(weights.encode(backbone.state_dict(), config.model))
    names = ["knn", "linear", "semi-10", "finetune", "places205", "inat18"]
    return evaluate(
        folder / "w.safetensors", pictures, config=config, quiet=True, protocols=names, seeds=2, device="cpu"
    )


def quick() -> Config:
    config = tiny_run.tiny_config(width=4)
    return dataclasses.replace(
        config,
        evaluate=dataclasses.replace(
            config.evaluate, recipe_epochs=2, recipe_batch_size=16, recipe_lr_factor=0.5, recipe="paper"
        ),
    )


def test_protocols_that_train_are_measured_for_both_networks(result: dict) -> None:
    for row in (result, result["untrained"]):
        for name in ("semi-10", "finetune", "places205", "inat18"):
            seeds = row[name]["seeds"]
            assert len(seeds) == 2
            assert row[name]["top1"] == pytest.approx(sum(s["top1"] for s in seeds) / 2, abs=0.01)
            assert all(0 <= s["top1"] <= s["best_top1"] <= 100 for s in seeds)
            assert seeds[0]["train_loss"] != seeds[1]["train_loss"]
            assert seeds[0]["labelled_images"] == (5 if name == "semi-10" else 55)
    assert "semi-10" not in (result["raw_pixels"] or {})


def test_settings_and_deviations_are_told(result: dict) -> None:
    protocol = result["protocol"]
    assert protocol["finetune"]["recipe"]["lr_backbone"] == 0.001
    assert protocol["finetune"]["recipe"]["drops"] == [1, 2]
    assert protocol["places205"]["recipe"]["source"].startswith("the paper's appendix on transfer")
    assert protocol["semi-10"]["labels"] == "stratified: 10% of each class by the seed"
    told = "\n".join(protocol["deviations"])
    assert "semi-10: labelled images drawn from each class, not those of SimCLR's list" in told
    assert "finetune: epochs 2 instead of 20" in told
    assert "places205: on the features that the backbone ends in, not on VISSL's 6 x 6" in told
    assert "short batch" not in told  # 7 of 16
    assert "finetune: images per step 16 instead of 256" in told
    assert "finetune: learning rate of the backbone 0.001 instead of 0.002" in told
    assert "places205: learning rate of the classifier 0.005 instead of 0.01" in told


def test_a_short_last_batch_is_left_out_and_told() -> None:
    """Of SimCLR's lists of 12,811 and 128,116 images, and of iNaturalist-18."""
    assert [classifier.left_out(n, 256) for n in (12_811, 128_116, 437_513)] == [11, 0, 9]
    assert [classifier.left_out(n, 16) for n in (1, 16, 17, 18, 32, 33)] == [0, 0, 1, 0, 0, 1]


def test_notes_say_what_the_images_make_of_a_protocol(parts: partition.Partition) -> None:
    inat = dataclasses.replace(parts, benchmark="iNaturalist-18")
    tuning, recipe = Tuning("inat18"), recipes.recipe_of("inat18")
    (short, features) = tuning._notes(Config(), recipe, inat, 437_513)
    assert short == "inat18: the last 9 images of each epoch, a short batch, are left out"
    assert "6 x 6" in features
    (other, few, _) = tuning._notes(Config(), recipe, parts, 55)
    assert other == "inat18: on these images, not on those of iNaturalist-18"
    assert few == "inat18: 55 images a step, which is all, not 256"
    told = "\n".join(Tuning("semi-1")._notes(Config(), recipes.recipe_of("semi-1"), parts, 3))
    assert "semi-1: 3 labelled images, more than 1% of 55, as each class has one" in told
    assert "not on those of" not in told


def test_a_list_and_a_source_are_settings() -> None:
    listed = dataclasses.replace(Config().evaluate, semi_1_list="1percent.txt", recipe="vissl")
    config = dataclasses.replace(Config(), evaluate=listed)
    assert PROTOCOLS["semi-1"].deviations(config) == []
    assert PROTOCOLS["semi-1"].settings(config)["labels"] == "1percent.txt"
    assert PROTOCOLS["semi-1"].settings(config)["recipe"]["lr_backbone"] == 0.005
    assert PROTOCOLS["places205"].settings(config)["recipe"]["nesterov"] is True
