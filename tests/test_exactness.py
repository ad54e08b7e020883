"""The whole learning step in W real processes is that of one process, in float64, to 1e-10.

The reference is independent of ours: torch.nn.BatchNorm, one forward pass per view, the loss written out with
autograd, and no DistributedDataParallel.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from barlow.config import ModelConfig, OptimConfig
from barlow.distributed import World
from barlow.model import Twins, ViewBatchNorm, ViewBatchNorm1d, build_model
from barlow.model.parallel import data_parallel
from barlow.objectives import barlow_twins, cross_correlation
from barlow.optim import LARS, parameter_groups, true_gradient_rates
from processes import run

MODEL = ModelConfig(backbone="resnet10", stem="cifar", width=8, projector=(24, 24, 20))
NUM_SAMPLES, LAMBD, NUM_STEPS = 14, 0.02, 3
TOLERANCE = 1e-10


def model() -> Twins:
    twins = build_model(MODEL, seed=3).double()
    generator = torch.Generator().manual_seed(5)
    for name, p in twins.named_parameters():
        if p.ndim == 1 and name.endswith("weight"):  # zero-initialised scales would hide half of the network
            p.data.copy_(torch.rand(p.shape, generator=generator, dtype=torch.float64) + 0.5)
    return twins


def views(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    images = torch.randn(NUM_SAMPLES, 3, 16, 16, generator=generator, dtype=torch.float64)
    return [
        images * 1.5 ** torch.arange(NUM_SAMPLES, dtype=torch.float64).sub(7).div(4).view(-1, 1, 1, 1)
        + 0.5 * torch.randn(images.shape, generator=generator, dtype=torch.float64)
        for _ in range(2)
    ]


def optimizer_of(twins: nn.Module) -> LARS:
    rates = true_gradient_rates(OptimConfig(batch_size=256, weight_decay=1e-3))
    weights, biases = parameter_groups(twins)
    weights |= {"lr": rates.lr_weights, "weight_decay": rates.weight_decay}
    biases |= {"lr": rates.lr_biases}
    return LARS([weights, biases], lr=0.0)


def snapshot(loss: Tensor, twins: nn.Module) -> dict[str, Tensor]:
    grads = {f"grad of {name}": p.grad.clone() for name, p in twins.named_parameters() if p.grad is not None}
    assert len(grads) == len(list(twins.parameters()))
    return {"loss": loss.detach().clone()} | grads | {name: b.clone() for name, b in twins.named_buffers()}


def parameters(twins: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in twins.named_parameters()}


def train(world: World, rows: list[list[int]]) -> dict[str, Any]:
    """NUM_STEPS of the real thing on this rank's samples."""
    twins = model()
    ddp = data_parallel(twins)
    optimizer = optimizer_of(twins)
    first: dict[str, Tensor] = {}
    loss = torch.empty(())
    for step in range(NUM_STEPS):
        z1_ND, z2_ND = ddp([view[rows[world.rank]] for view in views(step)])
        loss = barlow_twins(z1_ND, z2_ND, LAMBD)
        optimizer.zero_grad()
        loss.backward()
        first = first or snapshot(loss, twins) | {"C": cross_correlation(z1_ND, z2_ND)}
        optimizer.step()
    return {"first": first, "trained": parameters(twins), "final loss": loss.detach()}


def with_torch_norms(twins: Twins) -> Twins:
    for module in list(twins.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, ViewBatchNorm):
                kind = nn.BatchNorm1d if isinstance(child, ViewBatchNorm1d) else nn.BatchNorm2d
                norm = kind(int(child.num_features)).double()
                norm.load_state_dict(child.state_dict())
                setattr(module, name, norm)
    return twins


def written_out_loss(z1: Tensor, z2: Tensor) -> tuple[Tensor, Tensor]:
    z1, z2 = ((z - z.mean(0)) / z.std(0, correction=0) for z in (z1, z2))
    c = z1.T @ z2 / len(z1)
    weights = torch.full_like(c, LAMBD).fill_diagonal_(1.0)
    return (weights * (c - torch.eye(len(c), dtype=c.dtype)).square()).sum(), c


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    twins = with_torch_norms(model())
    optimizer = optimizer_of(twins)
    first: dict[str, Tensor] = {}
    loss = torch.empty(())
    for step in range(NUM_STEPS):
        loss, c = written_out_loss(*(twins.projector(twins.backbone(view)) for view in views(step)))
        optimizer.zero_grad()
        loss.backward()
        first = first or snapshot(loss, twins) | {"C": c.detach()}
        optimizer.step()
    return {"first": first, "trained": parameters(twins), "final loss": loss.detach()}


def assert_equal(ours: dict[str, Any], reference: dict[str, Any]) -> None:
    assert ours["first"].keys() == reference["first"].keys()
    for part in ("first", "trained"):
        for name, expected in reference[part].items():
            scale = max(float(expected.abs().max()), 1e-3)
            torch.testing.assert_close(
                ours[part][name], expected, rtol=0, atol=TOLERANCE * scale, msg=lambda m, n=name: f"{n}: {m}"
            )
    torch.testing.assert_close(ours["final loss"], reference["final loss"], rtol=TOLERANCE, atol=0)


def split(sizes: list[int], order: list[int] | None = None) -> list[list[int]]:
    order = order or list(range(NUM_SAMPLES))
    return [part.tolist() for part in torch.tensor(order).split(sizes)]


def test_one_process_is_the_reference(reference: dict[str, Any]) -> None:
    assert_equal(train(World(0, 1, 0, torch.device("cpu")), split([NUM_SAMPLES])), reference)


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(split([7, 7]), id="2 equal"),
        pytest.param(
            split([3, 11], [5, 13, 0, 8, 1, 9, 2, 12, 4, 3, 10, 6, 11, 7]), id="2 unequal and shuffled"
        ),
        pytest.param(split([4, 1, 3, 6]), id="4 unequal, one with a single sample"),
    ],
)
def test_several_processes_are_the_reference(rows: list[list[int]], reference: dict[str, Any]) -> None:
    results = run(train, len(rows), rows)
    for result in results:
        assert_equal(result, reference)
        for part in ("first", "trained"):  # and one another, to the last bit: the ranks can't drift apart
            for name, value in results[0][part].items():
                assert torch.equal(result[part][name], value), name
