"""Loss and gradient at the embeddings, 256 samples of 8192 dimensions: our forms beside the official one.

`python -m barlow.bench.loss` measures more: other sizes, several ranks, memory, bytes sent. Here they are
rounds for pytest-benchmark, interleaved, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from barlow.bench.loss import CONTESTANTS, embeddings
from barlow.distributed import World

ROUNDS = 5
NUM_SAMPLES, NUM_DIMS = 256, 8192
NAMES = ("official", "correlation", "gram")
GOAL = 3.0
"""The official formulation takes so many times the time of the Gram form, at least."""


@pytest.fixture(scope="module")
def views() -> tuple[Tensor, Tensor]:
    return embeddings(NUM_SAMPLES, NUM_DIMS, World(0, 1, 0, torch.device("cpu")), torch.float32)


@pytest.fixture(scope="module")
def seconds() -> Iterator[dict[str, list[float]]]:
    """Of every round; printed as a table at the end."""
    measured: dict[str, list[float]] = {name: [] for name in NAMES}
    yield measured
    if not all(measured.values()):
        return
    base = statistics.median(measured["official"])
    print(f"\n\nms, N = {NUM_SAMPLES}, D = {NUM_DIMS}, {torch.get_num_threads()} threads, median [min-max]")
    for name, values in measured.items():
        middle, low, high = statistics.median(values), min(values), max(values)
        print(f"  {name:12}{1e3 * middle:8.0f} [{1e3 * low:.0f}-{1e3 * high:.0f}]  1/{base / middle:.2f}")


@pytest.mark.parametrize("name", NAMES)  # changes fastest
@pytest.mark.parametrize("turn", range(ROUNDS + 1))
def test_loss_and_gradient(
    benchmark: BenchmarkFixture,
    views: tuple[Tensor, Tensor],
    seconds: dict[str, list[float]],
    turn: int,
    name: str,
) -> None:
    benchmark.group = "warm-up" if turn == 0 else "loss and gradient"

    def step() -> tuple[Tensor, ...]:
        return torch.autograd.grad(CONTESTANTS[name](*views), views)

    gradients = benchmark.pedantic(step, rounds=1, iterations=1)
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    if turn > 0 and benchmark.stats is not None:
        seconds[name].append(float(benchmark.stats.stats.total))  # pyright: ignore[reportArgumentType]
    if turn == ROUNDS and name == NAMES[-1] and seconds[name]:
        assert statistics.median(seconds["official"]) > GOAL * statistics.median(seconds["gram"])
