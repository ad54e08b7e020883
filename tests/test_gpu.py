"""Training on a GPU: each precision against float32, the scaler of fp16 across a resumption, NCCL, batch norm
against torch.nn.SyncBatchNorm and under torch.compile, micro-batches, LARS.

The first thing to run on a machine that has one: `python -m pytest tests/test_gpu.py`. Without one these
tests skip; `test_bf16_on_a_cpu_is_close_to_float32` (test_train.py) is their twin on a CPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from barlow.distributed import World
from barlow.model import ViewBatchNorm2d
from barlow.model.batchnorm import num_views_of
from barlow.objectives import Form, barlow_twins
from barlow.objectives.forms import FORMS
from barlow.optim import LARS
from barlow.train.accumulate import backward, split
from barlow.train.feed import Feed
from barlow.train.learner import Learner, Plan
from commands import TINY, barlow, make_images, metrics
from processes import run
from test_accumulate import NO_SCALER, loss_of, twins_of, two_views
from test_lars import groups, plain_larc_step, plain_step, set_gradients, tensors
from test_steady_step import config_of, views_u8
from test_step_options import losses

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    # Shown and no error: what CUDA builds of torch warn of (its watch over synchronisation calls itself a
    # prototype, its compiler calls what it deprecates) is not known in advance.
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture(autouse=True)
def whole_float32() -> Iterator[None]:
    """A GPU convolves float32 in TF32 otherwise, of three digits: too few to compare with."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("gpu") / "images", num_images=48, side_px=32)


def _train(images: Path, run: Path, *flags: object) -> list[float]:
    """The losses of a run, which must end well."""
    result = barlow("train", images, "--run", run, *TINY, *flags)
    assert result.code == 0, result.err
    return [line["loss"] for line in metrics(run)]


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.05), ("fp16", 0.02)])
def test_mixed_precision_is_close_to_float32(
    images: Path, tmp_path: Path, precision: str, tolerance: float
) -> None:
    exact = _train(images, tmp_path / "fp32", "--train.precision", "fp32", "--train.steps", 6)
    mixed = _train(images, tmp_path / precision, "--train.precision", precision, "--train.steps", 6)
    assert mixed != exact
    assert mixed[0] == pytest.approx(exact[0], rel=tolerance)


def test_the_scale_of_fp16_is_kept_across_a_resumption(images: Path, tmp_path: Path) -> None:
    flags = ("--train.precision", "fp16")
    _train(images, tmp_path / "run", *flags, "--train.steps", 3)
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert json.loads((newest / "state.json").read_text())["scaler"]["scale"] > 0
    losses = _train(images, tmp_path / "run", *flags, "--train.steps", 6)
    assert all(torch.isfinite(torch.tensor(losses)))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_deterministic_run_that_was_stopped_is_the_unbroken_one_bit_for_bit(
    images: Path, tmp_path: Path, precision: str
) -> None:
    flags = ("--train.deterministic", "--train.precision", precision, "--model.stem", "imagenet")
    unbroken = _train(images, tmp_path / "unbroken", *flags, "--train.steps", 6)
    for steps in (3, 6):
        broken = _train(images, tmp_path / "broken", *flags, "--train.steps", steps)
    assert broken == unbroken
    newest = [max((tmp_path / name / "checkpoints").glob("step-*")) for name in ("unbroken", "broken")]
    for file in ("model.safetensors", "optim.safetensors"):
        assert (newest[0] / file).read_bytes() == (newest[1] / file).read_bytes()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_of_half_precision_embeddings_is_close_to_float32(dtype: torch.dtype, form: Form) -> None:
    """The twin of `test_products_of_halves_cost_less_than_half_a_percent` (test_loss_forms.py)."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(256, 4096, generator=generator)
    views = [(shared + torch.randn(shared.shape, generator=generator)).to("cuda", dtype) for _ in range(2)]
    results = []
    for z1, z2 in (views, [view.float() for view in views]):
        z1, z2 = z1.requires_grad_(), z2.requires_grad_()
        results.append(torch.autograd.grad(barlow_twins(z1, z2, form=form), (z1, z2)))
    for ours, exact in zip(*results, strict=True):
        assert ours.dtype == dtype
        assert (ours.float() - exact).norm() < 5e-3 * exact.norm()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_give_the_loss_of_one(images: Path, tmp_path: Path) -> None:
    flags = ("--train.precision", "fp32", "--train.steps", 3)
    one = _train(images, tmp_path / "one", *flags, "--nproc", 1)
    two = _train(images, tmp_path / "two", *flags, "--nproc", 2)
    assert two[0] == pytest.approx(one[0], rel=1e-4)


def norm_and_input(rank: int) -> tuple[ViewBatchNorm2d, nn.BatchNorm2d, Tensor]:
    """Two views of 4 + rank samples, channels_last."""
    ours, theirs = ViewBatchNorm2d(8).cuda(), nn.BatchNorm2d(8).cuda()
    x = torch.randn(8 + 2 * rank, 8, 9, 9, generator=torch.Generator().manual_seed(rank)) * 2 + 3
    return ours, theirs, x.cuda().contiguous(memory_format=torch.channels_last).requires_grad_()


def compare_with(ours: nn.Module, call: Callable[[Tensor], Tensor], theirs: nn.Module, x: Tensor) -> None:
    """`call` in one pass over the two views of x, with `ours` inside, is a pass of `theirs` over each."""
    reference = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    with num_views_of(ours, 2):
        y = call(x)
    expected = torch.cat([theirs(view) for view in reference.chunk(2)])
    for out in (y, expected):
        (out**3).sum().backward()
    assert x.grad is not None
    assert reference.grad is not None
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x.grad, reference.grad, rtol=1e-4, atol=1e-3)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-2)
    for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_batch_norm_in_one_process_is_torchs(compiled: bool) -> None:
    ours, theirs, x = norm_and_input(0)
    compare_with(ours, torch.compile(ours, fullgraph=True) if compiled else ours, theirs, x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_batch_norm_of_half_precision_is_torchs(dtype: torch.dtype) -> None:
    ours, theirs, x = norm_and_input(0)
    half = x.detach().to(dtype).requires_grad_()
    with num_views_of(ours, 2):
        y = ours(half)
    expected = torch.cat([theirs(view.float()) for view in half.chunk(2)])
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), expected, rtol=2e-2, atol=2e-2)
    generator = torch.Generator("cuda").manual_seed(1)
    dy = torch.randn(y.shape, device="cuda", generator=generator)
    mine = torch.autograd.grad(y, (half, *ours.parameters()), dy.to(dtype))
    other = torch.autograd.grad(expected, (half, *theirs.parameters()), dy.to(dtype).float())
    for a, b in zip(mine, other, strict=True):
        assert (a.float() - b.float()).norm() < 1e-2 * b.float().norm()
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def beside_sync_batch_norm(world: World) -> None:
    ours, theirs, x = norm_and_input(world.rank)
    compare_with(ours, ours, nn.SyncBatchNorm.convert_sync_batchnorm(theirs), x)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_batch_norm_on_two_gpus_is_sync_batch_norm() -> None:
    run(beside_sync_batch_norm, 2, device="cuda")


def test_micro_batches_draw_the_same_numbers_again_and_take_less_memory() -> None:
    views = [view.cuda() for view in two_views(512)]
    ours, plain = twins_of("batch", dropout=0.4).cuda(), twins_of("batch", dropout=0.4).cuda()
    torch.cuda.manual_seed(5)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    parts = [plain.represent(part) for part in split(views, 8)]
    loss_of(plain.project([torch.cat(view) for view in zip(*parts, strict=True)])).backward()
    whole = torch.cuda.max_memory_allocated() - before
    torch.cuda.manual_seed(5)
    del parts
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    batches = [partial(list, part) for part in split(views, 8)]
    backward(ours, batches, loss_of, NO_SCALER, partial(torch.autocast, "cuda", enabled=False))
    assert torch.cuda.max_memory_allocated() - before < 0.5 * whole
    for (name, mine), other in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-6, atol=1e-8, msg=name)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("variant", ["lars", "larc"])
def test_lars_is_the_plain_loop_and_the_host_never_waits_for_it(variant: Any, fused: bool) -> None:
    step_of = {"lars": plain_step, "larc": plain_larc_step}[variant]
    plain, ours = tensors(), [torch.nn.Parameter(p.detach().cuda()) for p in tensors()]
    momenta = [torch.zeros_like(p) for p in plain]
    optimizer = LARS(groups(ours), lr=0.0, trust_coefficient=0.01, variant=variant, fused=fused)
    for step in range(20):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (step + 1) / 20
        set_gradients(plain, 35 * step)
        for p, q, mu in zip(ours, plain, momenta, strict=True):
            assert q.grad is not None
            p.grad = q.grad.cuda()
            adapt = q.ndim > 1
            with torch.no_grad():
                step_of(q, mu, 0.1 * (step + 1) / 20, 0.9, 1e-4 if adapt else 0.0, 0.01, adapt)
        torch.cuda.set_sync_debug_mode("error" if step else "default")  # to compile it may wait
        try:
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for p, q in zip(ours, plain, strict=True):
        torch.testing.assert_close(p.cpu(), q, rtol=1e-5, atol=1e-6)


def test_a_step_of_lars_can_be_captured_with_its_rate_in_a_tensor() -> None:
    """A CUDA graph repeats kernels, not Python: only a rate that lies on the GPU can change."""
    captured, eager = ([torch.nn.Parameter(p.detach().cuda()) for p in tensors()] for _ in range(2))
    rate = torch.tensor(0.1, device="cuda")
    first, second = LARS(groups(captured), lr=rate), LARS(groups(eager), lr=0.1)
    for params in (captured, eager):
        for p in params:
            p.grad = torch.ones_like(p)
    first.step()
    second.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        first.step()
    for lr in (0.1, 0.05, 0.0125):
        rate.fill_(lr)
        graph.replay()
        for group in second.param_groups:
            group["lr"] = lr
        second.step()
    for a, b in zip(captured, eager, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("micro_batch", [0, 5])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_between_two_lines_of_metrics_the_host_never_waits(precision: str, micro_batch: int) -> None:
    """Images by way of the feed included. Shown without a GPU by test_steady_step.py."""
    config = config_of("barlow_twins", precision=precision, micro_batch=micro_batch)
    world = World(0, 1, 0, torch.device("cuda", torch.cuda.current_device()))
    learner, feed = Learner(config, Plan.of(config, 5), world), Feed(world.device)
    batches = [[view.pin_memory() for view in views_u8(config)] for _ in range(7)]
    for step, views in enumerate(batches, start=1):
        torch.cuda.set_sync_debug_mode("error" if step > 3 else "default")  # at first it sets things up
        try:
            learner.step(step, feed(views), check=False)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    loss, _ = learner.step(8, feed(batches[0]), check=True)
    assert torch.isfinite(loss)


def test_the_feed_never_overwrites_what_a_step_still_reads() -> None:
    """Copies are far ahead of slow kernels; each must find the numbers of its own batch, and memory of the
    host that has been let go of must not be used again too early."""
    feed, busy = Feed(torch.device("cuda")), torch.randn(4096, 4096, device="cuda")
    sums = []
    for number in range(40):
        shape = (64 if number < 30 else 48, 3, 64, 64)
        views = feed([torch.full(shape, number + k, dtype=torch.uint8).pin_memory() for k in range(2)])
        for _ in range(5):
            busy = torch.mm(busy, busy).clamp_(-1, 1)
        sums.append(torch.stack([view.float().mean() for view in views]))
    found = torch.stack(sums).cpu()
    assert found[:, 0].tolist() == list(range(40))
    assert found[:, 1].tolist() == list(range(1, 41))


@pytest.mark.parametrize("micro_batch", [0, 5])
def test_a_compiled_step_has_the_same_losses_on_a_gpu(micro_batch: int) -> None:
    world = World(0, 1, 0, torch.device("cuda", torch.cuda.current_device()))
    plain = config_of("barlow_twins", precision="fp32", micro_batch=micro_batch)
    compiled = replace(plain, train=replace(plain.train, compile=True))
    assert losses(compiled, world) == pytest.approx(losses(plain, world), rel=2e-3)
