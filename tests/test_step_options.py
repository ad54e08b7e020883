"""What makes a step faster leaves its losses alone: compile, layout, compressed gradients, the scaler."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from barlow.config import Config
from barlow.distributed import World
from barlow.model.parallel import data_parallel
from barlow.optim import LARS
from barlow.train import learner as learners
from barlow.train.learner import Learner, Plan
from host_reads import HostReads
from processes import run
from test_lars import groups, set_gradients, tensors
from test_steady_step import ALONE, config_of, views_u8

STEPS = 4


def losses(config: Config, world: World = ALONE) -> list[float]:
    """Of a few steps with rates at which they move."""
    plan = Plan(steps_per_epoch=1, total_steps=50, last_step=50, log_every=1, save_every=1)
    learner = Learner(config, plan, world)
    rows = config.optim.batch_size // world.size
    views = [view[world.rank * rows :][:rows] for view in views_u8(config)]
    return [learner.step(step, views, check=True)[0].item() for step in range(2, 2 + STEPS)]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by Dynamo itself
@pytest.mark.parametrize("micro_batch", [0, 5])
def test_a_compiled_step_has_the_same_losses(monkeypatch: pytest.MonkeyPatch, micro_batch: int) -> None:
    """Traced and differentiated as for TorchInductor, whose arithmetic is test_compile.py's concern."""
    plain = config_of("barlow_twins", micro_batch=micro_batch)
    compiled, parts = [], learners.compile_parts
    monkeypatch.setattr(learners, "compile_parts", lambda twins: compiled.append(parts(twins, "aot_eager")))
    monkeypatch.setattr(LARS, "_fuses", lambda self, device: False)  # test_lars.py compiles it
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    eager = losses(plain)
    assert not torch._dynamo.utils.counters["stats"]
    traced = losses(replace(plain, train=replace(plain.train, compile=True)))
    assert len(compiled) == 1
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2
    assert not torch._dynamo.utils.counters["graph_break"]
    assert eager[-1] < eager[0]
    assert traced == pytest.approx(eager, rel=1e-4)


def test_the_layout_in_memory_changes_losses_by_rounding_only() -> None:
    last = config_of("barlow_twins")
    first = replace(last, train=replace(last.train, channels_last=False))
    assert losses(first) == pytest.approx(losses(last), rel=1e-4)


def on_two_ranks(world: World) -> list[list[float]]:
    base = config_of("barlow_twins")
    return [
        losses(replace(base, train=replace(base.train, gradient_compression=kind)), world)
        for kind in ("none", "bf16")
    ] + [gradient_errors()]


def gradient_errors() -> list[float]:
    """Relative, of an averaged gradient that goes out in bf16."""
    grads = []
    for compression in ("none", "bf16"):
        layer = nn.Linear(40, 30, bias=False)
        nn.init.ones_(layer.weight)
        parallel = data_parallel(layer, static=True, compression=compression)
        x = torch.randn(16, 40, generator=torch.Generator().manual_seed(torch.distributed.get_rank()))
        parallel(x).square().sum().backward()
        assert layer.weight.grad is not None
        grads.append(layer.weight.grad.clone())
    return [float((grads[1] - grads[0]).norm() / grads[0].norm())]


def test_compressed_gradients_are_the_same_to_the_rounding_of_bf16() -> None:
    results = run(on_two_ranks, 2, timeout_s=300)
    assert results[0][:2] == results[1][:2]
    exact, compressed, (error,) = results[0]
    assert 1e-4 < error < 2**-8
    assert compressed != exact
    assert compressed[0] == exact[0], "the first loss has seen no gradient"
    assert compressed == pytest.approx(exact, rel=0.02)
    alone = losses(config_of("barlow_twins"))
    assert exact == pytest.approx(alone, rel=1e-3)


class Asks(LARS):
    """As an optimizer that leaves unscaling and skipping to the scaler, which reads a flag on the host."""

    _step_supports_amp_scaling = False


@pytest.mark.parametrize("variant", ["lars", "larc"])
def test_the_scaler_skips_steps_without_a_look_at_the_device(variant: str) -> None:
    results: list[list[Tensor]] = []
    looks: list[bool] = []
    for kind in (Asks, LARS):
        params = tensors()
        optimizer = kind(groups(params), lr=0.1, momentum=0.9, weight_decay=0.1, variant=variant)  # pyright: ignore[reportArgumentType]
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=3)
        scales = []
        for step in range(6):
            set_gradients(params, step)
            scaled = scaler.scale(torch.ones(())).item()
            for p in params:
                if p.grad is not None:
                    p.grad *= scaled
            if step in (2, 3):  # the one overflows in a weight, the other in a bias
                spoilt = params[step - 2].grad
                assert spoilt is not None
                spoilt.view(-1)[1] = torch.nan if step == 2 else torch.inf
            before = [p.detach().clone() for p in params]
            with HostReads() as reads:
                scaler.step(optimizer)
                scaler.update()
            looks.append(bool(reads.found))
            assert all(map(torch.equal, before, params)) == (step in (2, 3))
            scales.append(torch.tensor(scaler.get_scale()))
        momenta = [optimizer.state[p]["mu"] for p in params]
        results.append([*params, *momenta, *scales])
    assert looks == [True] * 6 + [False] * 6
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
