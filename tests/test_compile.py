"""Per-view batch norm under torch.compile, whole graphs only, and the collectives of one pass and of two."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.resnet import BasicBlock

from barlow.config import ModelConfig
from barlow.distributed import World
from barlow.model import Twins, ViewBatchNorm, ViewBatchNorm1d, ViewBatchNorm2d, build_model
from processes import run

GATHER, REDUCE = "all_gather_into_tensor", "all_reduce"


def resnet() -> Twins:
    """A whole ResNet with a projector, narrow and with no parameter at its trivial value."""
    return settled(build_model(ModelConfig(backbone="resnet10", stem="cifar", width=4, projector=(6, 5)), 0))


def block() -> Twins:
    """A stem and a residual block, for the backend that calls a C++ compiler."""
    trunk = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), ViewBatchNorm2d(4), nn.ReLU(inplace=True),
        BasicBlock(4, 4, norm_layer=ViewBatchNorm2d), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    projector = nn.Sequential(
        nn.Linear(4, 6, bias=False), ViewBatchNorm1d(6), nn.ReLU(inplace=True), nn.Linear(6, 5)
    )
    return settled(Twins(trunk, projector))  # pyright: ignore[reportArgumentType]


def settled(twins: Twins) -> Twins:
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in twins.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3 + (p.dim() == 1))
    return twins.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def views_of(rank: int, num_images: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(rank)
    shape = (num_images, 3, 10, 10)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) + level for level in (0.0, 1.5)]


def step(model: Any, twins: Twins, views: list[Tensor]) -> dict[str, Tensor]:
    z1_ND, z2_ND = model(views)
    ((z1_ND * z2_ND).sum() + (z1_ND**3).sum()).backward()
    grads = {f"d {name}": p.grad for name, p in twins.named_parameters() if p.grad is not None}
    buffers = {name: buffer.clone() for name, buffer in twins.named_buffers()}
    return {"z1": z1_ND.detach(), "z2": z2_ND.detach()} | grads | buffers


def compare(make: Callable[[], Twins], backend: Any, views: list[Tensor]) -> None:
    """Outputs, gradients and buffers of an eager and a compiled step, in float64."""
    eager, traced = make().double(), make().double()
    torch._dynamo.reset()
    expected = step(eager, eager, views)
    got = step(torch.compile(traced, fullgraph=True, backend=backend), traced, views)
    assert got.keys() == expected.keys()
    assert sum(name.startswith("d ") for name in got) == len(list(eager.parameters()))
    for name, value in expected.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(
            got[name], value, rtol=0, atol=1e-11 * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


def traced_collectives(world: World | None, make: Callable[[], Twins]) -> list[dict[str, int]]:
    """The functional collectives in each graph that AOTAutograd makes of a network: forward, backward."""
    graphs: list[dict[str, int]] = []

    def count(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Any:
        names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        assert not any("c10d." in name for name in names), "collectives that write in place"
        kinds = [kind for name in names for kind in (GATHER, REDUCE) if f"_c10d_functional.{kind}" in name]
        graphs.append(dict(Counter(kinds)))
        return make_boxed_func(graph.forward)

    backend = aot_autograd(fw_compiler=count, bw_compiler=count)
    rank = world.rank if world else 0
    compare(make, backend, views_of(rank, 4 + 2 * rank))
    return graphs


def num_norms(twins: Twins) -> int:
    return sum(isinstance(module, ViewBatchNorm) for module in twins.modules())


def test_a_resnet_is_one_graph_with_eager_results() -> None:
    assert traced_collectives(None, resnet) == [{}, {}]


def test_a_block_on_two_ranks_is_one_graph_with_a_collective_for_each_norm_and_direction() -> None:
    for graphs in run(traced_collectives, 2, block, timeout_s=400):
        assert graphs == [{GATHER: num_norms(block())}, {REDUCE: num_norms(block())}]


def by_inductor(world: World) -> None:
    torch._inductor.config.compile_threads = 1  # pyright: ignore[reportAttributeAccessIssue]
    # As many images on each rank: the second then finds what the first has compiled.
    compare(block, "inductor", views_of(world.rank, 4))


@pytest.mark.timeout(600)
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")
@pytest.mark.parametrize("world_size", [1, 2])
def test_inductor_gives_eager_results(world_size: int) -> None:
    run(by_inductor, world_size, timeout_s=500)


class Collectives(TorchDispatchMode):
    """Counts what c10d is called for inside."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.counts[func._opname] += 1
        return func(*args, **(kwargs or {}))


def collectives(world: World) -> list[dict[str, int]]:
    """Those of a step in one pass over two views and of one in a pass for each: forward, then backward."""
    counts = []
    for passes in (1, 2):
        twins = resnet()
        views = [view.float() for view in views_of(world.rank, 4)]
        with Collectives() as forward:
            embeddings = twins(views) if passes == 1 else [twins([view])[0] for view in views]
        with Collectives() as backward:
            (embeddings[0] * embeddings[1]).sum().backward()
        counts += [dict(mode.counts) for mode in (forward, backward)]
    return counts


def test_one_pass_over_two_views_takes_half_of_the_collectives_of_two_passes() -> None:
    number = num_norms(resnet())
    for one_forward, one_backward, two_forward, two_backward in run(collectives, 2):
        assert list(one_forward.values()) == [number]
        assert list(one_backward.values()) == [number]
        assert {op: 2 * n for op, n in one_forward.items()} == two_forward
        assert {op: 2 * n for op, n in one_backward.items()} == two_backward
