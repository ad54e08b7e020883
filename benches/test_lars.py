"""One optimizer step of the official recipe's network: a loop over tensors, our LARS, and our LARS compiled.

The shapes are ResNet-50's and the projector's: 8192-8192-8192 on a GPU, 512-512-512 on a CPU, where only the
ratio is of interest (and where the compiled step needs a minute to compile and is left out). Rounds of all
three alternate. Beside the time stands what each asks of torch in one step, which on a GPU are its kernels.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from barlow.config import ModelConfig
from barlow.model import build_model
from barlow.optim import LARS, parameter_groups

ROUNDS = 7
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
STEPS_OF_A_ROUND = 20 if GPU else 2
PROJECTOR = (8192,) * 3 if GPU else (512,) * 3
NAMES = (
    "official loop",
    "barlow",
    *(("barlow fused",) if GPU and importlib.util.find_spec("triton") else ()),
)
Step = Callable[[], object]


def official_loop(groups: list[dict[str, Any]], momenta: dict[Any, Tensor]) -> None:
    """What the official code does for each tensor, written out; it reads no value on the host, either."""
    for group in groups:
        for p in group["params"]:
            d = p.grad
            if group["adapt"]:
                d = d.add(p, alpha=1e-6)
                p_norm, d_norm = torch.norm(p), torch.norm(d)
                one = torch.ones_like(p_norm)
                q = torch.where(p_norm > 0.0, torch.where(d_norm > 0, 0.001 * p_norm / d_norm, one), one)
                d = d.mul(q)
            momenta[p].mul_(0.9).add_(d)
            p.add_(momenta[p], alpha=-0.1)


def _step(name: str) -> Step:
    model = build_model(ModelConfig(projector=PROJECTOR), seed=0).to(DEVICE)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    groups = parameter_groups(model)
    if name != "official loop":
        return LARS(groups, lr=0.1, weight_decay=1e-6, fused=name == "barlow fused").step
    momenta = {p: torch.zeros_like(p) for p in model.parameters()}
    return lambda: official_loop(groups, momenta)


class Operations(TorchDispatchMode):
    """Counts the calls of operators."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def steps() -> dict[str, Step]:
    return {name: _step(name) for name in NAMES}


@pytest.fixture(scope="module")
def times_s(steps: dict[str, Step]) -> Iterator[dict[str, list[float]]]:
    """Seconds of one step in each round; printed as a table at the end."""
    measured: dict[str, list[float]] = {name: [] for name in NAMES}
    yield measured
    if not all(measured.values()):
        return
    device = torch.cuda.get_device_name() if GPU else "CPU"
    print(f"\n\none step, projector {'-'.join(map(str, PROJECTOR))}, {device}, median of {ROUNDS} rounds")
    for name, values in measured.items():
        ratio = statistics.median(a / b for a, b in zip(measured["official loop"], values, strict=True))
        calls = f"{_operations(steps[name]):5} operators" if name != "barlow fused" else " " * 15
        print(f"  {name:14}{1e3 * statistics.median(values):9.3f} ms  x {ratio:.2f}  {calls}")


def _operations(step: Step) -> int:
    with torch.no_grad(), Operations() as operations:
        step()
    return operations.count


@torch.no_grad()
def _round(step: Step) -> float:
    """Seconds for one step, of several in a row."""
    start = time.perf_counter()
    for _ in range(STEPS_OF_A_ROUND):
        step()
    if GPU:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / STEPS_OF_A_ROUND


@pytest.mark.parametrize("name", NAMES)  # changes fastest
@pytest.mark.parametrize("turn", range(ROUNDS + 1))
def test_one_step_of_resnet50_and_projector(
    benchmark: BenchmarkFixture, steps: dict[str, Step], times_s: dict[str, list[float]], turn: int, name: str
) -> None:
    benchmark.group = "warm-up" if turn == 0 else "one step of LARS"
    seconds = benchmark.pedantic(_round, args=(steps[name],), rounds=1, iterations=1)
    if turn > 0:
        times_s[name].append(seconds)


def test_both_take_the_same_steps() -> None:
    """Otherwise their times would say nothing."""
    results = []
    for name in NAMES[:2]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(30, 20), nn.BatchNorm1d(20), nn.Linear(20, 10))
        groups = parameter_groups(network)
        for p in network.parameters():
            p.grad = torch.randn_like(p)
        momenta = {p: torch.zeros_like(p) for p in network.parameters()}
        optimizer = LARS(groups, lr=0.1, weight_decay=1e-6)
        for _ in range(5):
            with torch.no_grad():
                optimizer.step() if name == "barlow" else official_loop(groups, momenta)
        results.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    assert torch.equal(*results)
