"""Here: kNN while a run trains: few images, the backbone as it is, nothing changed in it.

Not here: the classifier (knn.py), the full evaluation (evaluation.py), when it is done (train/loop.py).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from barlow.config import Config
from barlow.data import Index, open_index, views
from barlow.evaluate import accuracy, features, knn, partition
from barlow.evaluate.partition import Partition
from barlow.model.precision import autocast_dtype


class OnlineKnn:
    """Percent of held-out images that a backbone's nearest neighbours classify rightly; called with it.

    At most `--evaluate.online-images` labelled images vote, and a quarter as many are classified, evenly
    spaced over the classes' order, the same ones every time.
    """

    def __init__(self, parts: Partition, config: Config, device: torch.device) -> None:
        most = config.evaluate.online_images
        self._train, self._train_labels_N = _some(parts.train, parts.train_labels_N, most)
        self._test, self._test_labels_M = _some(parts.test, parts.test_labels_M, max(1, most // 4))
        self._num_classes = len(parts.class_names)
        self._config, self._device = config, device
        self._dtype = autocast_dtype(config.train.precision, device)
        self.how = (
            f"kNN on {len(self._test)} images by {len(self._train)} labelled ones, "
            f"every {config.evaluate.online_every_epochs:g} epochs: {parts.how}"
        )

    def __call__(self, backbone: nn.Module, gives_up: Callable[[], bool] = lambda: False) -> float | None:
        """The backbone's mode afterwards is as before; no parameter and no buffer changes.

        Images that can't be decoded take no part, where the run goes on without them. None if there is no
        other, or if an image never comes and `gives_up()` is true meanwhile.
        """
        was_training = backbone.training
        forward = features.network(backbone, self._dtype)
        try:
            bank_NF, labels_N = self._features(self._train, self._train_labels_N, forward, gives_up)
            test_MF, test_labels_M = self._features(self._test, self._test_labels_M, forward, gives_up)
        except features.GivenUp:
            return None
        finally:
            backbone.train(was_training)
        if len(bank_NF) == 0 or len(test_MF) == 0:
            return None
        settings = self._config.evaluate
        scores_MC = knn.votes(
            bank_NF.to(self._device),
            labels_N.to(self._device),
            test_MF.to(self._device),
            num_classes=self._num_classes,
            k=min(settings.knn_k, len(bank_NF)),
            temperature=settings.knn_temperature,
        )
        hits = accuracy.hits(scores_MC, test_labels_M.to(self._device), 1)
        return round(accuracy.percent(hits), 2)

    def _features(
        self, index: Index, labels_N: Tensor, forward: features.Forward, gives_up: Callable[[], bool]
    ) -> tuple[Tensor, Tensor]:
        data = self._config.data
        (view,) = views.evaluation(size=data.image_size, resize=data.eval_resize)
        batch_size = self._config.evaluate.batch_size
        with features.Passes(
            index, view, forward, data=data, batch_size=batch_size, device=self._device,
            on_error=data.on_error, gives_up=gives_up,
        ) as passes:  # fmt: skip
            features_NF = passes(0)
            own_N = torch.ones(len(features_NF), dtype=torch.bool)
            own_N[passes.replaced] = False
            return features_NF[own_N], labels_N[own_N]


def online_knn(index: Index, config: Config, device: torch.device) -> OnlineKnn | None:
    """For a run on these images; None if it is not wanted, or there are no labels that it could be done by.

    Held-out images that lie beside them (`partition.find`) are classified; else a fifth of each class is.
    """
    if config.evaluate.online_every_epochs == 0 or not (np.asarray(index.labels) >= 0).any():
        return None
    try:
        train_path, test_path = partition.find(Path(index.source))
        # Only if DATA is the training part itself: the index of something larger holds test images, too.
        apart = test_path is not None and train_path == Path(index.source)
        parts = partition.of(index, open_index(test_path) if apart and test_path else None)
    except ValueError:  # one class, single images: nothing that a probe could be made of
        return None
    return OnlineKnn(parts, config, device) if isinstance(parts, Partition) else None


def _some(index: Index, labels: Tensor, most: int) -> tuple[Index, Tensor]:
    if len(index) <= most:
        return index, labels
    ids = np.arange(most) * len(index) // most
    return index.subset(ids.astype(np.uint32)), labels[torch.from_numpy(ids)]
