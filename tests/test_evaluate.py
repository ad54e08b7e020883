"""kNN, linear probe and the whole evaluation against float64 loops and Pillow's pixels."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_run
from barlow.config import CIFAR10_MEAN, CIFAR10_STD, Config, DataConfig, EvaluateConfig
from barlow.data import open_index, views
from barlow.evaluate import (
    accuracy,
    console,
    deviations,
    evaluate,
    features,
    knn,
    label_free,
    linear,
    partition,
)
from barlow.model import build_model, weights

CPU = torch.device("cpu")


# Accuracy


def test_hits_rank_equal_scores_by_class_number() -> None:
    scores = torch.tensor([[0.5, 0.5, 0.1], [0.5, 0.5, 0.1], [0.2, 0.2, 0.2]])
    labels = torch.tensor([0, 1, 2])
    assert accuracy.hits(scores, labels, 1).tolist() == [True, False, False]
    assert accuracy.hits(scores, labels, 2).tolist() == [True, True, False]
    assert accuracy.percent(accuracy.hits(scores, labels, 3)) == 100.0


def test_a_score_that_is_not_finite_never_hits() -> None:
    scores = torch.tensor([[math.nan, 0.0], [-math.inf, -math.inf]])
    assert not accuracy.hits(scores, torch.tensor([0, 1]), 2).any()


# kNN


def brute_force(
    bank: np.ndarray, labels: np.ndarray, queries: np.ndarray, num_classes: int, k: int, temperature: float
) -> tuple[list[list[int]], np.ndarray]:
    """In float64, one pair at a time, straight from the definition."""
    found, scores = [], np.full((len(queries), num_classes), -np.inf)
    for q, query in enumerate(queries):
        cosines = [query @ row / (np.linalg.norm(query) * np.linalg.norm(row)) for row in bank]
        order = sorted(range(len(bank)), key=lambda i: (-round(cosines[i], 12), i))[:k]
        found.append(order)
        for i in order:
            before = scores[q, labels[i]]
            vote = math.exp((cosines[i] - cosines[order[0]]) / temperature)
            scores[q, labels[i]] = vote if before == -np.inf else before + vote
    return found, scores


@pytest.mark.parametrize("block_bytes", [1, 4 * 60 * 7, 1 << 20])
@pytest.mark.parametrize("k", [1, 7, 60])
def test_knn_is_the_brute_force_one(k: int, block_bytes: int) -> None:
    rng = np.random.default_rng(k)
    bank, queries = rng.normal(size=(60, 12)), rng.normal(size=(25, 12)) * 100
    labels = rng.integers(0, 9, 60)
    found, scores = brute_force(bank, labels, queries, 9, k, 0.07)
    bank_t, queries_t = torch.from_numpy(bank), torch.from_numpy(queries)
    similarities, ids = knn.neighbours(bank_t, queries_t, k, block_bytes=block_bytes)
    assert ids.tolist() == found
    assert (similarities[:, :-1] >= similarities[:, 1:]).all()
    votes = knn.votes(
        bank_t,
        torch.from_numpy(labels),
        queries_t,
        num_classes=9,
        k=k,
        temperature=0.07,
        block_bytes=block_bytes,
    )
    assert (votes.isneginf().numpy() == np.isneginf(scores)).all()
    np.testing.assert_allclose(votes, scores, rtol=2e-5)


def test_equal_similarities_go_to_the_lowest_rows() -> None:
    # Unit vectors along axes: every cosine is exactly 0 or 1, with far more equals than places.
    bank = torch.eye(4)[torch.tensor([1, 0, 2, 0, 0, 3, 0, 2])]
    _, ids = knn.neighbours(bank, torch.eye(4)[:3], 3)
    assert ids.tolist() == [[1, 3, 4], [0, 1, 2], [2, 7, 0]]


def test_a_class_without_a_neighbour_is_not_among_the_top_five() -> None:
    bank, labels = torch.eye(3), torch.tensor([4, 5, 0])
    votes = knn.votes(bank, labels, torch.tensor([[1.0, 0.5, 0.1]]), num_classes=6, k=2, temperature=0.1)
    assert accuracy.hits(votes, torch.tensor([5]), 5).item()
    assert not accuracy.hits(votes, torch.tensor([1]), 5).item()


def test_knn_survives_a_tiny_temperature() -> None:
    votes = knn.votes(
        torch.eye(2), torch.tensor([0, 1]), torch.ones(1, 2), num_classes=2, k=2, temperature=1e-6
    )
    assert votes.isfinite().all()


@pytest.mark.parametrize("k", [0, 3])
def test_knn_refuses_more_neighbours_than_images(k: int) -> None:
    with pytest.raises(ValueError, match="between 1 and the 2 images"):
        knn.neighbours(torch.eye(2), torch.eye(2), k)


# The linear probe


def probe_in_numpy(
    passes: list[np.ndarray], labels: np.ndarray, test: np.ndarray, config: EvaluateConfig, num_classes: int
) -> tuple[np.ndarray, float]:
    """Test scores and last mean loss of softmax regression by SGD with momentum, in float64 by hand."""
    generator = torch.Generator().manual_seed(0)
    if config.linear_standardize:
        mean, std = passes[0].mean(0), passes[0].std(0)
        passes, test = [(p - mean) / std for p in passes], (test - mean) / std
    w = torch.randn(num_classes, test.shape[1], generator=generator).double().numpy() * 0.01
    b = np.zeros(num_classes)
    momentum_w, momentum_b, mean_loss = np.zeros_like(w), np.zeros_like(b), 0.0
    for epoch in range(config.linear_epochs):
        rate = config.linear_lr * (1 + math.cos(math.pi * epoch / config.linear_epochs)) / 2
        order, total = torch.randperm(len(labels), generator=generator).numpy(), 0.0
        for start in range(0, len(labels), config.linear_batch_size):
            ids = order[start : start + config.linear_batch_size]
            x, y = passes[epoch % len(passes)][ids], labels[ids]
            logits = x @ w.T + b
            p = np.exp(logits - logits.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            total -= np.log(p[np.arange(len(ids)), y]).sum()
            p[np.arange(len(ids)), y] -= 1
            momentum_w = 0.9 * momentum_w + p.T @ x / len(ids) + config.linear_weight_decay * w
            momentum_b = 0.9 * momentum_b + p.mean(0) + config.linear_weight_decay * b
            w, b = w - rate * momentum_w, b - rate * momentum_b
        mean_loss = total / len(labels)
    return test @ w.T + b, mean_loss


def random_problem(seed: int = 0) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels, test_labels = rng.integers(0, 7, 150), rng.integers(0, 7, 80)
    centres = rng.normal(size=(7, 10)) * 0.8
    passes = [centres[labels] + rng.normal(size=(150, 10)) + 0.5 for _ in range(3)]
    return passes, labels, centres[test_labels] + rng.normal(size=(80, 10)) + 0.5, test_labels


@pytest.mark.parametrize("standardize", [False, True])
def test_the_probe_is_the_one_computed_by_hand(standardize: bool) -> None:
    passes, labels, test, test_labels = random_problem()
    config = EvaluateConfig(
        linear_epochs=8,
        linear_batch_size=32,
        linear_lr=0.1,
        linear_weight_decay=0.01,
        linear_standardize=standardize,
    )
    expected_scores, expected_loss = probe_in_numpy(passes, labels, test, config, 7)
    (result,) = run_probe(passes, labels, test, test_labels, config)
    assert result.train_loss == pytest.approx(expected_loss, rel=1e-4)
    assert result.top1 == pytest.approx(100 * (expected_scores.argmax(1) == test_labels).mean())
    own = expected_scores[np.arange(80), test_labels]
    assert result.top5 == pytest.approx(100 * ((expected_scores > own[:, None]).sum(1) < 5).mean())
    assert 30 < result.top1 < 100
    assert result.top1 <= result.best_top1
    assert 1 <= result.best_epoch <= 8


def run_probe(
    passes: list[np.ndarray],
    labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    config: EvaluateConfig,
    factors: tuple[float, ...] = (1.0,),
    num_classes: int = 7,
) -> list[linear.Result]:
    asked: list[int] = []

    def give(epoch: int) -> torch.Tensor:
        asked.append(epoch)
        return torch.from_numpy(passes[epoch % len(passes)]).float()

    results = linear.probe(
        give,
        torch.from_numpy(labels),
        torch.from_numpy(test).float(),
        torch.from_numpy(test_labels),
        num_classes=num_classes,
        config=config,
        seed=0,
        device=CPU,
        factors=factors,
    )
    assert asked == list(range(config.linear_epochs))
    return results


def test_probes_of_several_rates_are_those_of_single_runs() -> None:
    problem = random_problem(1)
    config = EvaluateConfig(linear_epochs=4, linear_batch_size=32, linear_lr=0.4)
    together = run_probe(*problem, config, factors=(1.0, 0.1))
    alone = [run_probe(*problem, dataclasses.replace(config, linear_lr=rate))[0] for rate in (0.4, 0.04)]
    assert [r.top1 for r in together] == [r.top1 for r in alone]
    assert [r.train_loss for r in together] == pytest.approx([r.train_loss for r in alone], rel=1e-5)
    assert together[0].train_loss != together[1].train_loss


def test_standardising_makes_the_scale_of_features_irrelevant() -> None:
    passes, labels, test, test_labels = random_problem(2)
    config = EvaluateConfig(linear_epochs=5, linear_lr=0.1, linear_standardize=True)
    scale = 10.0 ** np.arange(-5, 5)
    (plain,) = run_probe(passes, labels, test, test_labels, config)
    (scaled,) = run_probe([p * scale for p in passes], labels, test * scale, test_labels, config)
    assert scaled.train_loss == pytest.approx(plain.train_loss, rel=1e-4)


def test_a_constant_feature_does_not_poison_a_standardised_probe() -> None:
    passes, labels, test, test_labels = random_problem(3)
    config = EvaluateConfig(linear_epochs=3, linear_lr=0.1, linear_standardize=True)
    passes = [np.concatenate([p, np.full((150, 1), 0.1)], 1) for p in passes]
    # In the test images it does change: without any training signal it must not count.
    test = np.concatenate([test, np.random.default_rng(0).normal(size=(80, 1)) * 1e6], 1)
    (result,) = run_probe(passes, labels, test, test_labels, config)
    assert math.isfinite(result.train_loss)
    assert result.top1 > 40


def test_a_diverged_probe_scores_nothing() -> None:
    passes, labels, test, test_labels = random_problem(4)
    config = EvaluateConfig(linear_epochs=3, linear_lr=1e38)
    (result,) = run_probe([p * 1e30 for p in passes], labels, test * 1e30, test_labels, config)
    assert not math.isfinite(result.train_loss)
    assert result.top1 == 0


def test_top5_says_nothing_for_five_classes() -> None:
    passes, labels, test, test_labels = random_problem(5)
    config = EvaluateConfig(linear_epochs=1)
    (result,) = run_probe(passes, labels % 5, test, test_labels % 5, config, num_classes=5)
    assert result.top5 is None


# Label-free numbers


def test_effective_rank_counts_equal_directions() -> None:
    # +-e_i for five axes: centred, with five equal singular values.
    features_NF = torch.cat([torch.eye(8)[:5], -torch.eye(8)[:5]])
    assert label_free.effective_rank(features_NF) == pytest.approx(5, rel=1e-6)
    # An offset is no direction, and more features than images no other answer.
    wide_NF = torch.cat([features_NF, torch.zeros(10, 20)], 1) + 3
    assert label_free.effective_rank(wide_NF) == pytest.approx(5, rel=1e-6)
    assert label_free.effective_rank(torch.ones(10, 4)) == 1.0
    uneven = torch.cat(
        [torch.eye(2) * torch.tensor([[3.0], [1.0]]), -torch.eye(2) * torch.tensor([[3.0], [1.0]])]
    )
    assert label_free.effective_rank(uneven) == pytest.approx(
        math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    )


def test_dead_features_and_retrieval() -> None:
    features_NF = torch.tensor([[1.0, 2.0, 0.0], [1.0, 3.0, 0.0], [1.0, 2.0, 0.0]])
    assert label_free.dead_features(features_NF) == 2
    first, second = torch.eye(4), torch.eye(4)[torch.tensor([0, 1, 3, 2])]
    assert label_free.instance_retrieval(first, second) == 50.0


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
    found = features.extract(index, view, features.pixels, data=data, batch_size=4, device=CPU)
    for i in range(len(index)):
        with Image.open(pictures / "held-out" / index.name(i)) as image:
            expected = (np.asarray(image.convert("RGB"), dtype=np.float64) / 255 - CIFAR10_MEAN) / CIFAR10_STD
        np.testing.assert_allclose(found[i].view(3, 24, 24).permute(1, 2, 0), expected, atol=1e-5)


def collect_passes(index_of: Path, num_cached: int, num_epochs: int, batch_size: int) -> list[torch.Tensor]:
    (view,) = views.linear_probe(size=8)
    passes = features.Passes(
        open_index(index_of),
        view,
        features.pixels,
        data=DataConfig(threads=1),
        batch_size=batch_size,
        device=CPU,
        seed=3,
        num_epochs=num_epochs,
        num_cached=num_cached,
    )
    try:
        return [passes(epoch).clone() for epoch in range(num_epochs)]
    finally:
        passes.close()


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
    run: Path, pictures: Path, tmp_path: Path
) -> None:
    result = evaluate(run, pictures / "plain", out=tmp_path / "e.json", quiet=True)
    assert result["knn"] is None
    assert result["linear"] is None
    assert "no labels" in result["reason"]
    assert 1 <= result["label_free"]["effective_rank"] <= 18
    assert 0 <= result["label_free"]["instance_retrieval_top1"] <= 100


def test_every_deviation_from_the_official_protocol_is_told(evaluation: dict) -> None:
    told = " ".join(evaluation["protocol"]["deviations"])
    for words in (
        "epochs 6 instead of 100",
        "2 augmented views",
        "standardised",
        "16 px after a resize to 16 px",
    ):
        assert words in told
    official = deviations.protocol(Config(), torch.float32, None)
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
    with pytest.raises(ValueError, match=r"evaluate\.knn_temperature"):
        evaluate(run, pictures, config=broken, quiet=True)


def test_the_table_names_every_row(
    evaluation: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console.Console().table(evaluation, tmp_path / "e.json")
    told = capsys.readouterr().out
    for name, row in (("trained", evaluation), ("raw pixels", evaluation["raw_pixels"])):
        numbers = (f"{row[probe]['top1']:.2f}" for probe in ("knn", "linear"))
        assert re.search(rf"{name}\W+" + r"\W+".join(map(re.escape, numbers)), told)
    assert "epochs 6 instead of 100" in told
    assert "e.json" in told
