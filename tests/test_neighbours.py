"""The neighbours that the report shows, against every cosine computed in NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tiny_run
from barlow.data import open_index
from barlow.model import build_model
from barlow.report import gallery


@pytest.mark.parametrize("held_out", [True, False])
def test_they_are_the_nearest_by_cosine_and_judged_over_all_queries(tmp_path: Path, held_out: bool) -> None:
    config = tiny_run.tiny_config()
    train = open_index(tiny_run.write_pictures(tmp_path / "train", per_class=12, seed=1))
    asked = open_index(tiny_run.write_pictures(tmp_path / "test", per_class=5, seed=2)) if held_out else train
    model = build_model(config.model, 0).eval()
    hood = gallery.nearest(gallery.features_of(model, train, asked if held_out else None, config))
    bank, queries = (gallery._features(model, index, config).double().numpy() for index in (train, asked))
    bank, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, queries))
    cosines = queries @ bank.T
    if not held_out:
        np.fill_diagonal(cosines, -2)  # nobody finds himself
    best = np.argsort(-cosines, axis=1)[:, :5]
    same = train.labels[best] == asked.labels[:, None]
    assert hood.same_class == pytest.approx(same.mean())
    assert (hood.num_searched, hood.num_train, hood.num_judged) == (36, 36, len(asked))
    for query, i in zip(hood.shown, gallery.spread(len(asked), 8), strict=True):
        assert query.caption == asked.class_names[asked.labels[i]]
        assert [n.similarity for n in query.found] == pytest.approx(cosines[i, best[i]], abs=1e-5)
        assert [n.hit for n in query.found] == same[i].tolist()
