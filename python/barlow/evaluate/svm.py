"""Here: linear SVMs on frozen features, one for each class, on PASCAL VOC or on any labelled images.

Not here: average precision (precision_recall.py), reading VOC (voc.py).

Source of the protocol: the paper, table 3, after Goyal et al. (ICCV 2019), in the public code
facebookresearch/vissl, vissl/utils/svm_utils.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from barlow.config import Config
from barlow.evaluate import accuracy, published, sharing
from barlow.evaluate.job import Job, Json, Row
from barlow.evaluate.precision_recall import average_precisions
from barlow.evaluate.voc import MultiLabel

if TYPE_CHECKING:
    from sklearn.svm import LinearSVC

_MAX_ITER, _TOL, _POSITIVE_WEIGHT = 2000, 1e-4, 2
_NORM_EPS = 1e-5
_DEFAULT_COST = 1.0
"""Where a class has too few images to choose by."""


def run(job: Job, row: Row, seed: int) -> Json:
    """`map_11_point` and `map_area` over the classes in percent, and each class's cost and precisions.

    The ranks share the classes. `seed` is that of the solver's coordinate order; the folds are consecutive.
    """
    train_NF, test_MF = (_normalised(job.features(row, part)) for part in ("train", "test"))
    train_NC, test_MC = _targets(job)
    names = job.classes
    with job.talk.stage(f"{row.name}: SVMs, classes") as progress:
        own, mine = [], sharing.own_items(range(len(names)))
        for done, c in enumerate(mine, 1):
            known_M = test_MC[:, c] != 0
            own.append(
                _one_class(
                    train_NF,
                    train_NC[:, c],
                    test_MF[known_M],
                    test_MC[known_M, c] > 0,
                    job.config,
                    seed,
                )
            )
            progress(done, len(mine))
    classes = sharing.of_all(own)
    measured = [found for found in classes if found["ap_area"] is not None]
    result: Json = {
        f"map_{kind}": float(np.mean([found[f"ap_{kind}"] for found in measured])) if measured else None
        for kind in ("11_point", "area")
    }
    # Rounded when the mean has been taken: of rounded numbers it may have another last digit.
    for found in classes:
        found |= {name: accuracy.rounded(found[name]) for name in ("ap_11_point", "ap_area")}
    result["classes"] = dict(zip(names, classes, strict=True))
    result["notes"] = _notes(job, classes)
    return result


def _one_class(
    train_NF: NDArray[Any],
    train_N: NDArray[Any],
    test_MF: NDArray[Any],
    test_M: NDArray[Any],
    config: Config,
    seed: int,
) -> Json:
    """The cost with the best average precision in cross-validation, and the test images' at it."""
    positives, negatives = int((train_N > 0).sum()), int((train_N < 0).sum())
    if not positives or not negatives or not test_M.any():
        return {"cost": None, "folds": 0, "ap_11_point": None, "ap_area": None}
    folds = min(config.evaluate.svm_folds, positives, negatives)
    cost = (
        _best_cost(train_NF, train_N, config.evaluate.svm_costs, folds, seed) if folds > 1 else _DEFAULT_COST
    )
    model, unfinished = _fitted(_svm(cost, seed), train_NF, train_N)
    eleven, area = average_precisions(model.decision_function(test_MF), test_M)
    return {
        "cost": cost,
        "folds": folds if folds > 1 else 0,
        "unfinished": unfinished,
        "ap_11_point": 100 * eleven,
        "ap_area": 100 * area,
    }


def _best_cost(
    features_NF: NDArray[Any], targets_N: NDArray[Any], costs: tuple[float, ...], folds: int, seed: int
) -> float:
    from sklearn.metrics import average_precision_score
    from sklearn.model_selection import StratifiedKFold

    parts = list(StratifiedKFold(folds).split(features_NF, targets_N))

    def score(cost: float) -> float:
        found = []
        for fit_ids, judge_ids in parts:
            model, _ = _fitted(_svm(cost, seed), features_NF[fit_ids], targets_N[fit_ids])
            scores = model.decision_function(features_NF[judge_ids])
            found.append(average_precision_score(targets_N[judge_ids] > 0, scores))
        return math.fsum(found) / len(found)

    return max(costs, key=score)  # the first of equal ones


def _svm(cost: float, seed: int) -> LinearSVC:
    from sklearn.svm import LinearSVC

    return LinearSVC(
        C=cost,
        loss="squared_hinge",
        penalty="l2",
        dual=True,  # pyright: ignore[reportArgumentType] (its stubs only know "auto")
        class_weight={1: _POSITIVE_WEIGHT, -1: 1},
        tol=_TOL,
        max_iter=_MAX_ITER,
        random_state=seed,
    )


def _fitted(model: LinearSVC, features_NF: NDArray[Any], targets_N: NDArray[Any]) -> tuple[LinearSVC, bool]:
    """The fitted model, and whether its solver was stopped by `max_iter`: large costs often are."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(features_NF, targets_N)
    return model, any("converge" in str(warning.message) for warning in caught)


def _normalised(features_NF: Tensor) -> NDArray[np.float64]:
    features = features_NF.double().numpy()
    return features / (np.linalg.norm(features, axis=1, keepdims=True) + _NORM_EPS)


def _targets(job: Job) -> tuple[NDArray[Any], NDArray[Any]]:
    """Of each image and class, [N, C] and [M, C]: 1 if it is there, else -1; of test images 0: left out.

    What is difficult trains as if it were not there, and is left out of the test, both as in VISSL
    (extra_scripts/datasets/create_voc_data_files.py, svm_trainer.py).
    """
    parts = job.parts
    if isinstance(parts, MultiLabel):
        return np.where(parts.train_targets_NC.numpy() > 0, 1, -1), parts.test_targets_MC.numpy()
    classes = np.arange(job.num_classes)
    labels = (job.labelled.train_labels_N, job.labelled.test_labels_M)
    train, test = (np.where(each.numpy()[:, None] == classes, 1, -1) for each in labels)
    return train, test


def _notes(job: Job, classes: list[Json]) -> list[str]:
    told = []
    if not isinstance(job.parts, MultiLabel):
        told.append("VOC07 SVM: on these images, one class against the rest, not on PASCAL VOC 2007")
    told.append(
        "VOC07 SVM: on the features that the backbone ends in, not on VISSL's 6 x 6 average pool of the last "
        "stage; the paper doesn't say which"
    )
    wanted = job.config.evaluate.svm_folds
    if few := sum(found["folds"] < wanted and found["ap_area"] is not None for found in classes):
        told.append(
            f"VOC07 SVM: {few} classes have too few training images for {wanted} folds: fewer, or "
            f"C = {_DEFAULT_COST:g} for a single one"
        )
    if without := sum(found["ap_area"] is None for found in classes):
        told.append(f"VOC07 SVM: {without} classes are left out: no training or no test image shows them")
    return told


def settings(config: Config) -> Json:
    """For eval.json."""
    return {
        "costs": list(config.evaluate.svm_costs),
        "folds": config.evaluate.svm_folds,
        "chosen_by": "average precision in cross-validation, for each class",
        "loss": "squared hinge",
        "penalty": "l2, dual",
        "positive_weight": _POSITIVE_WEIGHT,
        "tolerance": _TOL,
        "max_iter": _MAX_ITER,
        "features": "divided by their norm + 1e-5",
    }


def deviations(config: Config) -> list[str]:
    """From VISSL's configuration."""
    return published.differences(
        config, "VOC07 SVM", (("svm_costs", "costs"), ("svm_folds", "folds of the cross-validation"))
    )
