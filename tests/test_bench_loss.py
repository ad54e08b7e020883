"""The bench of the loss: its official formulation is ours with eps 1e-5, and its numbers are counted."""

from __future__ import annotations

import pytest
import torch

from barlow.bench.loss import CONTESTANTS, LAMBD, Result, embeddings, measure, official, table
from barlow.distributed import World
from barlow.objectives import barlow_twins
from commands import finish, start
from processes import run

ALONE = World(0, 1, 0, torch.device("cpu"))


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_its_official_formulation_is_our_loss_with_the_official_eps(shape: tuple[int, int]) -> None:
    views = embeddings(*shape, ALONE, torch.float32)
    ours, theirs = barlow_twins(*views, LAMBD, eps=1e-5), official(*views)
    torch.testing.assert_close(ours, theirs)
    for mine, expected in zip(
        torch.autograd.grad(ours, views), torch.autograd.grad(theirs, views), strict=True
    ):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)


def test_what_it_counts_in_one_process() -> None:
    results = {result.name: result for result in measure(256, 1024, 2, ALONE)}
    assert list(results) == list(CONTESTANTS)
    assert results["official"].operations == results["correlation"].operations == 6 * 256 * 1024**2
    assert results["gram"].operations == 8 * 256**2 * 1024
    assert results["official"].peak_bytes > 3 * 4 * 1024**2 > results["gram"].peak_bytes > 0
    assert all(len(result.seconds) == 2 and min(result.seconds) > 0 for result in results.values())


def measured(world: World) -> list[tuple[str, int, float]]:
    return [(r.name, r.collectives, r.sent_bytes) for r in measure(8, 32, 1, world)]


def test_what_two_ranks_send() -> None:
    for results in run(measured, 2):
        name, collectives, sent = results[0]
        assert (name, collectives, sent) == ("official", 1, 4 * 32**2)
        assert [name for name, _, _ in results] == list(CONTESTANTS)


def test_the_table_says_what_does_not_fit() -> None:
    text = table(256, 8192, 4, [Result("gram", 10**9, 4, 2**20, 2**21, [0.010, 0.030, 0.020])])
    assert "auto is gram_features" in text
    few = [Result("gram", seconds=[0.01])]
    assert "auto is gram_features" in table(2048, 8192, 4, few)
    assert "auto is gram\n" in table(2048, 8192, 4, few, half=True)
    assert "| gram | 20.0 [10.0-30.0] | - | 1 | 2 | 4 | 1 |" in text
    assert "Too large for this machine's memory: official, correlation, gram_features." in text


def test_the_command_prints_a_table_for_each_size() -> None:
    flags = ("--samples", "8", "--dims", "16,32", "--rounds", "1")
    result = finish(start(*flags, launcher=("-m", "barlow.bench.loss")))
    assert result.code == 0, result.err
    assert "N = 8, D = 16, W = 1; auto is gram" in result.out
    assert "N = 8, D = 32, W = 1; auto is gram" in result.out
    assert result.out.count("| official | ") == 2
