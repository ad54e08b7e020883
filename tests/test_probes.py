"""Accuracy, kNN, the linear probe and the label-free numbers against float64 loops."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from barlow.config import EvaluateConfig
from barlow.evaluate import accuracy, knn, label_free, linear

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
