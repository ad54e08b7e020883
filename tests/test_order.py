"""The order of samples: the native map against its plain-Python twin, world sizes, whole epochs."""

from __future__ import annotations

import numpy as np
import pytest

from barlow import _native as native
from plain_draws import permuted


@pytest.mark.parametrize("num_samples", [1, 2, 3, 4, 5, 64, 97, 1000])
def test_ids_are_those_of_the_twin(num_samples: int) -> None:
    for seed, epoch in [(0, 0), (1, 0), (2**64 - 1, 3), (5, 2**32 - 1)]:
        order = native.Order(num_samples, 1, seed=seed)
        ids = [int(order.batch(epoch, step)[0]) for step in range(num_samples)]
        assert ids == [permuted(seed, epoch, num_samples, at) for at in range(num_samples)]
        assert sorted(ids) == list(range(num_samples))


def test_the_largest_data_set() -> None:
    ids = native.Order(2**32, 64, seed=3).batch(7, 2**26 - 1)
    assert ids.dtype == np.uint32
    assert ids.tolist() == [permuted(3, 7, 2**32, at) for at in range(2**32 - 64, 2**32)]


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_ranks_together_see_the_same_global_batches(world_size: int) -> None:
    whole = native.Order(1003, 64, seed=1, drop_last=False)
    ranks = [
        native.Order(1003, 64, seed=1, rank=r, world_size=world_size, drop_last=False)
        for r in range(world_size)
    ]
    assert {order.digest() for order in ranks} == {whole.digest()}
    seen: list[int] = []
    for step in range(whole.steps_per_epoch):
        parts = [order.batch(4, step) for order in ranks]
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        np.testing.assert_array_equal(np.concatenate(parts), whole.batch(4, step))
        seen += np.concatenate(parts).tolist()
    assert sorted(seen) == list(range(1003))
    assert len(whole.batch(4, whole.steps_per_epoch)) == 0


def test_plain_order_and_dropped_remainder() -> None:
    order = native.Order(10, 4, shuffle=False)
    assert order.steps_per_epoch == 2
    assert [order.batch(9, step).tolist() for step in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], []]


def test_settings_that_cannot_work() -> None:
    with pytest.raises(ValueError, match=r"larger than the data set \(10 samples\)"):
        native.Order(10, 11)
    with pytest.raises(ValueError, match="not divisible by world size 3"):
        native.Order(10, 4, world_size=3)
    with pytest.raises(native.DataError) as caught:
        native.Order(0, 1)
    assert caught.value.kind == "empty"
