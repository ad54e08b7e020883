"""Which images train and test, features against Pillow's pixels, and the whole evaluation of a run."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_run
from barlow.config import CIFAR10_MEAN, CIFAR10_STD, Config, DataConfig
from barlow.data import open_index, pack, views
from barlow.evaluate import (
    console,
    deviations,
    evaluate,
    features,
    partition,
    scores,
    tables,
)
from barlow.model import build_model, weights
from barlow.report import results
from test_probes import brute_force

CPU = torch.device("cpu")


# Which images train and which test


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    tiny_run.write_pictures(folder / "train", per_class=15, seed=1)
    tiny_run.write_pictures(folder / "held-out", per_class=7, seed=2)
    tiny_run.write_pictures(folder / "plain", per_class=6, seed=3, flat=True)
    return folder


def test_the_parts_are_found(pictures: Path, tmp_path: Path) -> None:
    train, held_out = pictures / "train", pictures / "held-out"
    assert partition.find(pictures) == (train, held_out)
    assert partition.find(train) == (train, held_out)
    assert partition.find(train, pictures / "plain") == (train, pictures / "plain")
    assert partition.find(pictures / "plain") == (pictures / "plain", None)
    # A class that happens to be called "train" makes no partition.
    (tmp_path / "train").mkdir()
    (tmp_path / "bus").mkdir()
    assert partition.find(tmp_path) == (tmp_path, None)


def test_without_test_images_a_fifth_of_every_class_is_held_out(pictures: Path, tmp_path: Path) -> None:
    folder = tiny_run.write_pictures(tmp_path / "only", per_class=15, seed=1)
    parts = partition.load(folder)
    assert isinstance(parts, partition.Partition)
    assert torch.bincount(parts.train_labels_N).tolist() == [12, 12, 12]
    assert torch.bincount(parts.test_labels_M).tolist() == [3, 3, 3]
    train_names = {parts.train.name(i) for i in range(len(parts.train))}
    test_names = {parts.test.name(i) for i in range(len(parts.test))}
    assert not train_names & test_names
    assert len(train_names | test_names) == 45
    # Packed and recoded, which changes the members' names, they are divided alike.
    pack(folder, tmp_path / "shards", recode=True)
    recoded = partition.load(tmp_path / "shards")
    assert isinstance(recoded, partition.Partition)
    assert len(recoded.test.recoded()) == 9
    assert {recoded.test.name(i).removesuffix(".bjc") for i in range(9)} == test_names
    # Taking images of one class away leaves the other classes' parts as they are.
    for path in list((folder / "amber").iterdir())[3:]:
        path.unlink()
    fewer = partition.load(folder)
    assert isinstance(fewer, partition.Partition)
    left = {fewer.test.name(i) for i in range(len(fewer.test))}
    assert {name for name in left if "amber" not in name} == {
        name for name in test_names if "amber" not in name
    }
    assert "20% of each class" in parts.how


def test_classes_are_matched_by_name(pictures: Path, tmp_path: Path) -> None:
    held_out = tiny_run.write_pictures(tmp_path / "held", per_class=4, seed=5)
    for path in (held_out / "amber").iterdir():
        path.unlink()
    (held_out / "amber").rmdir()
    parts = partition.load(pictures / "train", held_out)
    assert isinstance(parts, partition.Partition)
    # There, blue is class 0 and cyan 1; here they are 1 and 2.
    assert parts.test_labels_M.tolist() == [1] * 4 + [2] * 4
    (held_out / "cyan").rename(held_out / "mauve")
    with pytest.raises(ValueError, match=r"has classes that .*train has not: mauve"):
        partition.load(pictures / "train", held_out)


def test_data_that_cannot_be_evaluated_say_why(pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures / "train" / "amber", tmp_path / "one" / "amber")
    with pytest.raises(ValueError, match="at least 2"):
        partition.load(tmp_path / "one")
    with pytest.raises(ValueError, match="no labelled image"):
        partition.load(pictures / "train", pictures / "plain")
    with pytest.raises(ValueError, match="nothing to learn"):
        partition.load(pictures / "plain", pictures / "train")
    lonely = tiny_run.write_pictures(tmp_path / "lonely", per_class=1)
    with pytest.raises(ValueError, match="single image"):
        partition.load(lonely)


# Features


def test_pixel_features_are_pillows_pixels(pictures: Path) -> None:
    index = open_index(pictures / "held-out")
    data = DataConfig(image_size=24, eval_resize=24, mean=CIFAR10_MEAN, std=CIFAR10_STD, threads=1)
    (view,) = views.evaluation(size=24, resize=24)
    with features.Passes(index, view, features.pixels, data=data, batch_size=4, device=CPU) as passes:
        found = passes(0)
    for i in range(len(index)):
        with Image.open(pictures / "held-out" / index.name(i)) as image:
            expected = (np.asarray(image.convert("RGB"), dtype=np.float64) / 255 - CIFAR10_MEAN) / CIFAR10_STD
        np.testing.assert_allclose(found[i].view(3, 24, 24).permute(1, 2, 0), expected, atol=1e-5)


def collect_passes(index_of: Path, num_cached: int, num_epochs: int, batch_size: int) -> list[torch.Tensor]:
    (view,) = views.linear_probe(size=8)
    with features.Passes(
        open_index(index_of),
        view,
        features.pixels,
        data=DataConfig(threads=1),
        batch_size=batch_size,
        device=CPU,
        seed=3,
        num_epochs=num_epochs,
        num_cached=num_cached,
    ) as passes:
        return [passes(epoch).clone() for epoch in range(num_epochs)]


def test_augmented_passes_are_cached_and_cycled(pictures: Path) -> None:
    fresh = collect_passes(pictures / "held-out", 0, 5, 4)
    cached = collect_passes(pictures / "held-out", 2, 5, 9)
    assert all(not torch.equal(fresh[i], fresh[j]) for i in range(5) for j in range(i))
    assert [torch.equal(cached[e], fresh[e % 2]) for e in range(5)] == [True] * 5


def test_the_digest_sees_one_changed_bit() -> None:
    model = build_model(tiny_run.tiny_config().model, 0).backbone
    before = features.digest(model)
    assert features.digest(model) == before
    statistics = model.state_dict()["layer4.0.bn2.running_mean"]
    statistics[0] = -0.0
    assert statistics[0] == 0
    assert features.digest(model) != before


# The whole evaluation


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    from barlow.train import launch

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    launch(pictures / "train", tiny_run.tiny_config(epochs=4), folder, nproc=1, preset="tiny")
    return folder


@pytest.fixture(scope="module")
def evaluation(run: Path, pictures: Path) -> dict:
    return evaluate(run, pictures, quiet=True)


def test_the_evaluation_is_what_it_wrote(run: Path, evaluation: dict) -> None:
    assert json.loads((run / "eval.json").read_text()) == evaluation
    assert evaluation["reason"] is None
    assert evaluation["data"]["train_images"] == 45
    assert evaluation["data"]["test_images"] == 21
    assert evaluation["data"]["majority_class_percent"] == 33.33
    for row in (evaluation, evaluation["untrained"], evaluation["raw_pixels"]):
        for probe in ("knn", "linear"):
            assert 0 <= row[probe]["top1"] <= 100
            assert row[probe]["top1"] == round(row[probe]["top1"], 2)
            assert row[probe]["top5"] is None


def test_the_evaluation_repeats_itself(run: Path, pictures: Path, evaluation: dict, tmp_path: Path) -> None:
    again = evaluate(
        run, pictures / "train", held_out=pictures / "held-out", out=tmp_path / "e.json", quiet=True
    )
    assert again | {"seconds": 0} == evaluation | {"seconds": 0}


def test_knn_of_the_evaluation_is_the_brute_force_one(run: Path, pictures: Path, evaluation: dict) -> None:
    """Both the network's features and the raw pixels, computed here without the evaluation's code."""
    backbone, _, config = weights.load_backbone(run)
    assert config is not None
    parts = {}
    for part in ("train", "held-out"):
        index = open_index(pictures / part)
        pixels = []
        for i in range(len(index)):
            with Image.open(pictures / part / index.name(i)) as image:
                small = image.convert("RGB").resize((16, 16), Image.Resampling.BILINEAR)
            pixels.append((np.asarray(small, dtype=np.float64) / 255 - config.data.mean) / config.data.std)
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float()
        with torch.no_grad():
            parts[part] = np.asarray(backbone(images)), np.stack(pixels).reshape(len(index), -1), index.labels
    for which, name in enumerate((None, "raw_pixels")):
        row = evaluation if name is None else evaluation[name]
        scores = brute_force(
            parts["train"][which],
            parts["train"][2],
            parts["held-out"][which],
            3,
            5,
            config.evaluate.knn_temperature,
        )[1]
        expected = 100 * (scores.argmax(1) == parts["held-out"][2]).mean()
        # One of 21 images may stand on the edge: Pillow's resize and the loader's differ by a level.
        assert row["knn"]["top1"] == pytest.approx(expected, abs=100 / 21 + 0.01)


def test_the_untrained_network_is_the_one_training_began_with(
    run: Path, pictures: Path, evaluation: dict, tmp_path: Path
) -> None:
    config = tiny_run.tiny_config(epochs=4)
    file = tmp_path / "start.safetensors"
    file.write_bytes(
        weights.encode(build_model(config.model, config.train.seed).backbone.state_dict(), config.model)
    )
    start = evaluate(file, pictures, config=config, baselines=False, quiet=True)
    assert start["knn"] == evaluation["untrained"]["knn"]
    assert start["label_free"] == evaluation["untrained"]["label_free"]
    assert "untrained" not in start
    assert json.loads((tmp_path / "start.eval.json").read_text()) == start


def test_unlabelled_images_still_get_the_numbers_that_need_no_labels(
    run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    (tmp_path / "e.json").write_text('{"knn": null, "linear": {"top1": 50.0}}')
    result = evaluate(run, pictures / "plain", out=tmp_path / "e.json")
    assert result["knn"] is None
    assert result["linear"] is None
    assert "no labels" in result["reason"]
    assert not any("probe" in note for note in result["protocol"]["deviations"])
    told = capsys.readouterr().out
    assert told.startswith(f"{tmp_path / 'e.json'} has linear and will be replaced: --out FILE keeps both\n")
    free = result["label_free"]
    assert free["num_images"] == 18 < free["num_features"] == 64
    assert f"{free['effective_rank']:.2f} of at most 18 (18 images)" in told
    assert "of at most 18 (18 images)" in results.section_of(result)
    assert scores.rank_bound({**free, "num_images": 64}) == scores.rank_bound({"num_features": 64}) == "64"
    assert f"{result['label_free']['instance_retrieval_top1']:.2f}" in told
    assert "probe" not in told.lower()
    assert 1 <= result["label_free"]["effective_rank"] <= 18
    assert 0 <= result["label_free"]["instance_retrieval_top1"] <= 100
    # A part held out that has no labels either, as `make demo DATA=` of a flat folder has it.
    both = evaluate(run, pictures / "plain", held_out=pictures / "plain", baselines=False, quiet=True)
    assert both["knn"] is None
    assert both["label_free"] == result["label_free"]


def test_every_deviation_from_the_official_protocol_is_told(evaluation: dict) -> None:
    told = " ".join(evaluation["protocol"]["deviations"])
    for words in (
        "epochs 6 instead of 100",
        "2 augmented views",
        "standardised",
        "16 px after a resize to 16 px",
    ):
        assert words in told
    official = deviations.protocol(Config(), torch.float32, None, labelled=True)
    assert official["deviations"] == []


def test_a_backbone_that_changes_is_an_error(
    run: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_training_mode(backbone: torch.nn.Module, dtype: torch.dtype) -> features.Forward:
        backbone.train()
        return backbone

    monkeypatch.setattr(features, "network", in_training_mode)
    before = (run / "eval.json").read_bytes()
    with pytest.raises(RuntimeError, match="changed the backbone"):
        evaluate(run, pictures / "plain", baselines=False, quiet=True)
    assert (run / "eval.json").read_bytes() == before


def test_settings_that_cannot_work_are_named(run: Path, pictures: Path) -> None:
    config = tiny_run.tiny_config()
    broken = dataclasses.replace(config, evaluate=dataclasses.replace(config.evaluate, knn_temperature=0.0))
    with pytest.raises(ValueError, match=r"--evaluate\.knn-temperature must lie in"):
        evaluate(run, pictures, config=broken, quiet=True)


def test_the_table_names_every_row(
    evaluation: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables.show(console.Console(), evaluation, tmp_path / "e.json")
    told = capsys.readouterr().out
    assert re.search(r"trained\W+untrained\W+raw pixels", told)
    for protocol, words in (("knn", "kNN top-1"), ("linear", "linear top-1")):
        rows = (evaluation, evaluation["untrained"], evaluation["raw_pixels"])
        numbers = (f"{row[protocol]['top1']:.2f}" for row in rows)
        assert re.search(rf"{words}\W+" + r"\W+".join(map(re.escape, numbers)), told)
    assert "differs from the published protocol: linear probe: epochs 6 instead of 100" in told
    assert "e.json" in told
