"""Here: few-shot classification on frozen features: episodes of a few classes with a few labels each.

Not here: computing features.

Source of the protocol: Chen et al., A Closer Look at Few-shot Classification (ICLR 2019): 600 random
episodes of 5 classes with 1 or 5 labelled images each, mean and 95 % confidence interval; and Tian et al.,
Rethinking Few-Shot Image Classification (ECCV 2020), whose code (WangYueFt/rfs, eval/meta_eval.py) has 15
queries a class and a logistic regression (scikit-learn's, C = 1, at most 1000 iterations) on features of
length 1. The nearest centroid is that of Wang et al., SimpleShot (2019), on the same features.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.nn import functional

from barlow.config import Config
from barlow.evaluate import accuracy, published, sharing
from barlow.evaluate.job import Job, Json, Row

_MAX_ITER = 1000
Episode = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Rows of the support [ways, shots] and of the queries [ways, queries]; a row of either is a class."""


def run(job: Job, row: Row, seed: int) -> Json:
    """For each number of shots K `centroid_K_shot` and `logistic_K_shot` in percent, each with its `_ci95`.

    Support and queries are different test images; episodes are a function of `seed`. The ranks share them.
    """
    from threadpoolctl import threadpool_limits  # scikit-learn brings it along

    settings = job.config.evaluate
    features_MF = functional.normalize(job.features(row, "test"), dim=1).double().numpy()
    by_class = _by_class(job.labelled.test_labels_M.numpy(), job.num_classes)
    result: Json = {
        "notes": ["few-shot: without the five augmented copies of each labelled image of Tian et al."]
    }
    for shots in settings.few_shot_shots:
        ways, queries, note = _possible(by_class, shots, job.config)
        result["notes"] += [note] if note else []
        mean_and_ci: list[tuple[float | None, float | None]] = [(None, None)] * 2
        if ways:
            episodes = draw(by_class, ways, shots, queries, settings.few_shot_episodes, seed)
            # Problems so small that several threads wait for each other ten times as long as one computes.
            with job.talk.stage(f"{row.name}: {shots}-shot episodes") as progress, threadpool_limits(1):
                own, mine = [], sharing.own_items(list(episodes))
                for done, episode in enumerate(mine, 1):
                    own.append(
                        [solve(features_MF, episode) for solve in (nearest_centroid, logistic_regression)]
                    )
                    progress(done, len(mine))
            scores_E2 = np.array(sharing.of_all(own)).reshape(-1, 2)
            mean_and_ci = [mean_and_interval(scores_E) for scores_E in scores_E2.T]
        for name, (mean, interval) in zip(("centroid", "logistic"), mean_and_ci, strict=True):
            result[f"{name}_{shots}_shot"] = mean
            result[f"{name}_{shots}_shot_ci95"] = accuracy.rounded(interval)
    return result


def draw(
    by_class: list[NDArray[np.int64]], ways: int, shots: int, queries: int, episodes: int, seed: int
) -> Iterator[Episode]:
    """Random episodes: classes that have enough images, then different images of each."""
    rng = np.random.default_rng([seed, ways, shots, queries])
    able = [rows for rows in by_class if len(rows) >= shots + queries]
    for _ in range(episodes):
        classes = rng.choice(len(able), ways, replace=False)
        rows = np.stack([rng.choice(able[c], shots + queries, replace=False) for c in classes])
        yield rows[:, :shots], rows[:, shots:]


def nearest_centroid(features_MF: NDArray[np.float64], episode: Episode) -> float:
    """Percent of queries whose nearest mean of labelled images, by Euclidean distance, is of their class."""
    support, queries = (features_MF[rows] for rows in episode)
    centroids_WF = support.mean(1)
    distances = np.linalg.norm(queries[:, :, None] - centroids_WF, axis=-1)
    return 100.0 * float((distances.argmin(-1) == np.arange(len(queries))[:, None]).mean())


def logistic_regression(features_MF: NDArray[np.float64], episode: Episode) -> float:
    """Percent of queries that a multinomial logistic regression on the labelled images classifies rightly."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    (support, queries), ways = episode, len(episode[0])
    labels = [np.repeat(np.arange(ways), rows.shape[1]) for rows in (support, queries)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(max_iter=_MAX_ITER).fit(features_MF[support.ravel()], labels[0])
    return 100.0 * float((model.predict(features_MF[queries.ravel()]) == labels[1]).mean())


def mean_and_interval(scores_E: NDArray[np.float64]) -> tuple[float, float]:
    """The mean, and half the width of its 95 % confidence interval by Student's t."""
    from scipy.stats import t

    error = scores_E.std(ddof=1) / math.sqrt(len(scores_E))
    return float(scores_E.mean()), float(error * t.ppf(0.975, len(scores_E) - 1))


def _by_class(labels_M: NDArray[np.int64], num_classes: int) -> list[NDArray[np.int64]]:
    return [np.flatnonzero(labels_M == c) for c in range(num_classes)]


def _possible(by_class: list[NDArray[np.int64]], shots: int, config: Config) -> tuple[int, int, str]:
    """(ways, queries, note) as near to the wished ones as the images allow; with 0 ways there is none."""
    wished = config.evaluate
    sizes = sorted((len(rows) for rows in by_class), reverse=True)
    ways = min(wished.few_shot_ways, sum(size > shots for size in sizes))
    if ways < 2:
        return 0, 0, f"few-shot: fewer than two classes have more than {shots} test images"
    queries = min(wished.few_shot_queries, sizes[ways - 1] - shots)
    told = [
        f"{ours} {words} instead of {theirs}"
        for ours, theirs, words in (
            (ways, wished.few_shot_ways, "classes an episode"),
            (queries, wished.few_shot_queries, "queries a class"),
        )
        if ours != theirs
    ]
    return (
        ways,
        queries,
        f"few-shot, {shots} label{'s' * (shots > 1)}: {' and '.join(told)}, for want of images"
        if told
        else "",
    )


def settings(config: Config) -> Json:
    """For eval.json."""
    settings = config.evaluate
    return {
        "ways": settings.few_shot_ways,
        "shots": list(settings.few_shot_shots),
        "queries": settings.few_shot_queries,
        "episodes": settings.few_shot_episodes,
        "features": "of length 1, of the test images",
        "logistic_regression": {"C": 1.0, "max_iter": _MAX_ITER},
        "interval": "95 %, Student's t",
    }


def deviations(config: Config) -> list[str]:
    """From Chen et al. and Tian et al."""
    return published.differences(
        config,
        "few-shot",
        (
            ("few_shot_ways", "classes an episode"),
            ("few_shot_shots", "labelled images a class"),
            ("few_shot_queries", "queries a class"),
            ("few_shot_episodes", "episodes"),
        ),
    )
