"""The protocols of `barlow eval` on frozen features, against scikit-learn, torchmetrics and loops."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import threadpoolctl
import torch
import torchmetrics
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC
from torchmetrics.functional.retrieval import retrieval_average_precision, retrieval_hit_rate

import tiny_run
from barlow.config import Config, EvaluateConfig
from barlow.evaluate import (
    accuracy,
    deviations,
    features,
    few_shot,
    knn,
    linear,
    partition,
    precision_recall,
    retrieval,
    spread,
    svm,
    sweep,
)
from barlow.evaluate.cache import FeatureCache
from barlow.evaluate.console import Console
from barlow.evaluate.job import Job, Row
from barlow.evaluate.partition import Partition
from barlow.evaluate.protocols import PROTOCOLS

CPU = torch.device("cpu")
QUICK = EvaluateConfig(
    linear_epochs=4,
    linear_batch_size=16,
    sweep_lrs=(0.3, 0.001, 3.0),
    svm_costs=(0.01, 1.0, 10.0),
    few_shot_episodes=8,
    few_shot_queries=4,
    batch_size=16,
)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("protocols")
    tiny_run.write_pictures(folder / "train", per_class=20, seed=1)
    tiny_run.write_pictures(folder / "held-out", per_class=10, seed=2)
    config = tiny_run.tiny_config()
    config = dataclasses.replace(config, evaluate=QUICK)
    parts = partition.load(folder)
    return Job(parts, config, CPU, torch.float32, Console(quiet=True), FeatureCache(None, 0))


PIXELS = Row("raw pixels", None, features.pixels, size=8, resize=8)


# Accuracy and average precision


def test_top_k_is_that_of_scikit_learn_and_torchmetrics() -> None:
    draw = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(300, 12, generator=draw), torch.randint(12, (300,), generator=draw)
    for k in (1, 5):
        ours = accuracy.percent(accuracy.hits(scores, labels, k))
        theirs = sklearn.metrics.top_k_accuracy_score(labels.numpy(), scores.numpy(), k=k, labels=range(12))
        assert ours == pytest.approx(100 * theirs, abs=1e-9)
        metric = torchmetrics.Accuracy("multiclass", num_classes=12, top_k=k, average="micro")
        assert ours == pytest.approx(100 * metric(scores, labels).item(), abs=1e-4)


def by_the_definition(scores: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """Both average precisions from the (recall, precision) of every threshold, one at a time."""
    points = []
    for threshold in np.unique(scores):
        chosen = scores >= threshold
        hits = (positive & chosen).sum()
        points.append((hits, hits / chosen.sum()))
    total = positive.sum()

    def best(recalled: float) -> float:
        return max((p for hits, p in points if hits >= recalled - 1e-9), default=0.0)

    eleven = sum(best(total * i / 10) for i in range(11)) / 11
    return eleven, sum(best(n) for n in range(1, total + 1)) / total


@pytest.mark.parametrize("levels", [7, 1000])
def test_average_precision_is_its_definition(levels: int) -> None:
    rng = np.random.default_rng(levels)
    for num_positive in (1, 10, 30):
        scores = rng.integers(0, levels, 60) / levels
        positive = np.arange(60) < num_positive
        found = precision_recall.average_precisions(scores, positive)
        assert found == pytest.approx(by_the_definition(scores, positive), abs=1e-12)
    assert all(math.isnan(ap) for ap in precision_recall.average_precisions(scores, positive & False))
    assert precision_recall.average_precisions(positive * 1.0, positive) == (1.0, 1.0)


def test_the_area_without_interpolation_is_that_of_scikit_learn_and_torchmetrics() -> None:
    draw = torch.Generator().manual_seed(1)
    scores, relevant = torch.randn(40, generator=draw), torch.randint(2, (40,), generator=draw).bool()
    ours = precision_recall.of_rankings(relevant[scores.argsort(descending=True)][None]).item()
    assert ours == pytest.approx(sklearn.metrics.average_precision_score(relevant.numpy(), scores.numpy()))
    theirs = retrieval_average_precision(scores + 9, relevant)
    assert ours == pytest.approx(theirs.item(), abs=1e-6)
    # Taking the best precision at each recall or more can only add to it.
    assert precision_recall.average_precisions(scores.numpy(), relevant.numpy())[1] >= ours


# Retrieval


def test_retrieval_is_that_of_torchmetrics() -> None:
    draw = torch.Generator().manual_seed(2)
    labels = torch.cat([torch.randint(6, (50,), generator=draw), torch.tensor([9])])
    found = torch.nn.functional.one_hot(labels, 10).float() * 0.8 + torch.randn(51, 10, generator=draw)
    first, precision = retrieval.ranked(found, labels, torch.arange(51))
    assert math.isnan(precision[50])  # the only one of its class
    unit = torch.nn.functional.normalize(found, dim=1)
    for i in range(50):
        others = torch.arange(51) != i
        # torchmetrics takes a score of 0 or less for no answer.
        similar, relevant = (2 + unit @ unit[i])[others], (labels == labels[i])[others]
        theirs = retrieval_average_precision(similar, relevant)
        assert precision[i].item() == pytest.approx(theirs.item(), abs=1e-6)
        for k in (1, 3):
            hit = retrieval_hit_rate(similar, relevant, top_k=k)
            assert (first[i].item() < k) == bool(hit)


def test_retrieval_is_of_the_test_images(job: Job) -> None:
    found = retrieval.run(job, PIXELS, 0)
    first, precision = retrieval.ranked(
        job.features(PIXELS, "test"), job.labelled.test_labels_M, torch.arange(30)
    )
    assert found["map"] == pytest.approx(100 * precision.mean().item())
    for k in (1, 5, 10):
        assert found[f"recall_at_{k}"] == pytest.approx(100 * (first < k).double().mean().item())
    assert found["queries"] == 30


# SVMs


def test_each_svm_is_the_one_of_the_published_code(job: Job) -> None:
    """The steps of VISSL's trainer, with scikit-learn's own cross-validation."""
    found = svm.run(job, PIXELS, 0)
    scaled = []
    for part in ("train", "test"):
        x = job.features(PIXELS, part).numpy().astype(np.float64)
        scaled.append(x / (np.linalg.norm(x, axis=1) + 1e-5)[:, None])
    labels, test_labels = job.labelled.train_labels_N.numpy(), job.labelled.test_labels_M.numpy()
    areas = []
    for c, name in enumerate(job.classes):
        y = np.where(labels == c, 1, -1)
        machines = [
            LinearSVC(C=cost, class_weight={1: 2, -1: 1}, tol=1e-4, max_iter=2000, dual=True, random_state=0)  # pyright: ignore[reportArgumentType]
            for cost in QUICK.svm_costs
        ]
        judged = [
            cross_val_score(m, scaled[0], y, cv=3, scoring="average_precision").mean() for m in machines
        ]
        best = int(np.argmax(judged))
        assert found["classes"][name]["cost"] == QUICK.svm_costs[best]
        scores = machines[best].fit(scaled[0], y).decision_function(scaled[1])
        areas.append(by_the_definition(scores, test_labels == c))
        assert found["classes"][name]["ap_area"] == round(100 * areas[-1][1], 2)
    assert found["map_area"] == pytest.approx(100 * np.mean([a for _, a in areas]), abs=1e-6)
    assert found["map_11_point"] == pytest.approx(100 * np.mean([e for e, _ in areas]), abs=1e-6)
    assert any("not on PASCAL VOC" in note for note in found["notes"])


# Linear sweep


def test_the_sweep_chooses_by_held_out_training_images(job: Job) -> None:
    found = sweep.run(job, PIXELS, 0)
    assert found["held_out_images"] == 6  # a tenth of each class
    assert set(found["held_out_top1"]) == {"0.001", "0.3", "3"}
    assert found["held_out_top1"][f"{found['learning_rate']:g}"] == max(found["held_out_top1"].values())
    # Other test labels: another result, the same choice.
    parts = job.labelled
    turned = dataclasses.replace(parts, test_labels_M=(parts.test_labels_M + 1) % 3)
    again = sweep.run(dataclasses.replace(job, parts=turned), PIXELS, 0)
    assert again["held_out_top1"] == found["held_out_top1"]
    assert again["learning_rate"] == found["learning_rate"]
    assert again["top1"] != found["top1"]


def test_the_final_probe_of_the_sweep_is_a_probe_of_that_rate_on_all_images(job: Job) -> None:
    from barlow.evaluate import linear

    found = sweep.run(job, PIXELS, 3)
    (alone,) = linear.probe(
        lambda epoch: job.features(PIXELS, "train"),
        job.labelled.train_labels_N,
        job.features(PIXELS, "test"),
        job.labelled.test_labels_M,
        num_classes=3,
        config=dataclasses.replace(QUICK, linear_lr=found["learning_rate"]),
        seed=3,
        device=CPU,
    )
    assert found["top1"] == alone.top1


# Few-shot


def test_episodes_are_of_different_images_and_a_function_of_the_seed() -> None:
    by_class = [np.arange(10), np.arange(10, 25), np.arange(25, 28), np.arange(28, 48)]
    episodes = list(few_shot.draw(by_class, 2, 3, 5, 30, seed=0))
    seen = set()
    for support, queries in episodes:
        assert support.shape == (2, 3)
        assert queries.shape == (2, 5)
        rows = np.concatenate([support, queries], 1)
        assert len(set(rows.ravel())) == 16
        for way in rows:
            (own,) = (c for c, members in enumerate(by_class) if way[0] in members)
            assert set(way) <= set(by_class[own])
            seen.add(own)
    assert seen == {0, 1, 3}  # class 2 has too few images
    again, other = (list(few_shot.draw(by_class, 2, 3, 5, 30, seed=s)) for s in (0, 1))
    assert all(
        np.array_equal(np.concatenate(a, 1), np.concatenate(b, 1))
        for a, b in zip(episodes, again, strict=True)
    )
    assert not np.array_equal(episodes[0][0], other[0][0])


def test_few_shot_classifiers_on_features_that_tell(job: Job) -> None:
    rng = np.random.default_rng(0)
    apart = np.repeat(np.eye(3), 8, axis=0) + rng.normal(0, 0.05, (24, 3))
    rows = np.arange(24).reshape(3, 8)
    episode = rows[:, :2], rows[:, 2:]
    for solve in (few_shot.nearest_centroid, few_shot.logistic_regression):
        assert solve(apart, episode) == 100.0
        # Queries of classes in another order than the support: none can be right.
        assert solve(apart, (rows[:, :2], np.roll(rows[:, 2:], 1, axis=0))) == 0.0
    noise = rng.normal(size=(24, 3))
    expected = 0
    for c, ids in enumerate(episode[1]):
        for i in ids:
            distances = [np.square(noise[i] - noise[s].mean(0)).sum() for s in episode[0]]
            expected += int(np.argmin(distances) == c)
    assert few_shot.nearest_centroid(noise, episode) == pytest.approx(100 * expected / 18)


def test_few_shot_takes_one_thread(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """On several its small regressions take ten times the processor time, and more on busy cores."""
    threads = []

    def looking(*_: object) -> float:
        threads.append(max(library["num_threads"] for library in threadpoolctl.threadpool_info()))
        return 50.0

    monkeypatch.setattr(few_shot, "logistic_regression", looking)
    with threadpoolctl.threadpool_limits(2):
        few_shot.run(job, PIXELS, 0)
        assert set(threads) == {1}
        looking()
        assert threads[-1] == 2  # and afterwards all are there again


def test_few_shot_says_what_the_images_did_not_allow(job: Job) -> None:
    found = few_shot.run(job, PIXELS, 0)
    for labels in ("1 label", "5 labels"):
        line = f"few-shot, {labels}: 3 classes an episode instead of 5"
        assert any(note.startswith(line) for note in found["notes"])
    for shots in (1, 5):
        for name in ("centroid", "logistic"):
            assert 0 <= found[f"{name}_{shots}_shot"] <= 100
            assert found[f"{name}_{shots}_shot_ci95"] > 0
    assert few_shot.run(job, PIXELS, 0) == found
    assert few_shot.run(job, PIXELS, 1) != found
    config = dataclasses.replace(job.config, evaluate=dataclasses.replace(QUICK, few_shot_shots=(10,)))
    nothing = few_shot.run(dataclasses.replace(job, config=config), PIXELS, 0)
    assert nothing["centroid_10_shot"] is None
    assert any("fewer than two classes have more than 10" in note for note in nothing["notes"])


def test_the_interval_is_students() -> None:
    scores = np.random.default_rng(3).normal(60, 10, 50)
    mean, half = few_shot.mean_and_interval(scores)
    low, high = scipy.stats.t.interval(0.95, 49, scores.mean(), scipy.stats.sem(scores))
    assert (mean - half, mean + half) == pytest.approx((low, high))


# The table, seeds


def test_several_seeds_have_a_mean_and_a_sample_deviation() -> None:
    results = [{"top1": x, "top5": None, "rate": x, "notes": []} for x in (50.0, 51.0, 55.5)]
    found = spread.over_seeds(results, ("top?",))
    assert found["top1"] == round(np.mean([50, 51, 55.5]), 2)
    assert found["std"] == {"top1": round(np.std([50, 51, 55.5], ddof=1), 2), "top5": None}
    assert found["top5"] is None
    assert found["rate"] == 50.0
    assert found["seeds"] == results
    assert spread.over_seeds(results[:1], ("top?",)) == results[0]


def test_what_is_rounded_is_the_mean_and_not_what_it_is_of() -> None:
    """17 and 21 of 60 are 28.33 and 35.00 percent and 31.67 on average; of the rounded ones it is 31.66."""
    results = [{"top1": 100 * hits / 60, "top5": 100 * hits / 60, "rate": 1 / 3} for hits in (17, 21)]
    found = spread.over_seeds(results, ("top?",))
    assert (found["top1"], found["top5"], found["rate"]) == (31.67, 31.67, 1 / 3)
    assert [seed["top1"] for seed in found["seeds"]] == [28.33, 35.0]
    assert spread.over_seeds(results[:1], ("top?",)) == {"top1": 28.33, "top5": 28.33, "rate": 1 / 3}


@pytest.mark.parametrize("name", ["knn", "linear", "linear-sweep", "voc07-svm", "few-shot", "retrieval"])
def test_the_defaults_are_the_published_ones_and_every_other_value_is_told(name: str) -> None:
    protocol = PROTOCOLS[name]
    assert protocol.deviations(Config()) == []
    told = deviations.protocol(Config(), torch.float32, None, labelled=True, names=[name])
    assert told[name]["source"]
    assert len(told[name]) > 2


def test_a_changed_setting_is_told_by_every_protocol_that_reads_it() -> None:
    changed = dataclasses.replace(Config(), evaluate=dataclasses.replace(QUICK, knn_k=200))
    told = [line for name in PROTOCOLS for line in PROTOCOLS[name].deviations(changed)]
    for words in (
        "kNN: neighbours 200 instead of 20",
        "linear probe: epochs 4 instead of 100",
        "linear sweep: learning rates 0.3, 0.001, 3 instead of 0.003, 0.01",
        "VOC07 SVM: costs 0.01, 1, 10 instead of 0.01, 0.1, 1",
        "few-shot: episodes 8 instead of 600",
    ):
        assert any(line.startswith(words) for line in told), words


def test_knn_says_when_all_images_vote(job: Job) -> None:
    config = dataclasses.replace(job.config, evaluate=dataclasses.replace(QUICK, knn_k=200))
    many = knn.run(dataclasses.replace(job, config=config), PIXELS, 0)
    assert many["notes"] == ["kNN: all 60 training images vote, not 200"]
    told = deviations.protocol(
        config, torch.float32, None, labelled=True, names=["knn"], notes=many["notes"]
    )["deviations"]
    assert [line for line in told if line.startswith("kNN: ")][-1:] == many["notes"]
    assert not any("neighbours" in line for line in told)
    few = deviations.protocol(config, torch.float32, None, labelled=True, names=["knn"])["deviations"]
    assert "kNN: neighbours 200 instead of 20" in few
    assert "notes" not in knn.run(job, PIXELS, 0)


def test_probes_say_when_all_images_are_one_batch(job: Job) -> None:
    assert len(job.labelled.train) == 60
    for batch_size, told in ((60, []), (61, ["60 images a step, which is all, not 61"])):
        config = dataclasses.replace(
            job.config, evaluate=dataclasses.replace(QUICK, linear_epochs=1, linear_batch_size=batch_size)
        )
        changed = dataclasses.replace(job, config=config)
        for name, run in (("probe", linear.run), ("sweep", sweep.run)):
            assert run(changed, PIXELS, 0).get("notes", []) == [f"linear {name}: {line}" for line in told]


def test_a_fixed_share_leaves_every_class_an_image(job: Job, tmp_path: Path) -> None:
    parts = job.labelled
    assert isinstance(parts, Partition)
    chosen = partition.fixed_share(parts.train, parts.train_labels_N, 0.1)
    assert torch.bincount(parts.train_labels_N[torch.from_numpy(chosen)]).tolist() == [2, 2, 2]
    lonely = tiny_run.write_pictures(tmp_path, per_class=1)
    from barlow.data import open_index

    index = open_index(lonely)
    assert not partition.fixed_share(index, torch.arange(3), 0.9).any()
