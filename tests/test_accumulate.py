"""Gradients of whole batches, a micro-batch at a time, against plain autograd on functions written out."""

from __future__ import annotations

import contextlib
import copy
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from barlow.distributed import World
from barlow.model import Twins, ViewBatchNorm1d, ViewBatchNorm2d
from barlow.model.parallel import data_parallel
from barlow.objectives import barlow_twins
from barlow.train.accumulate import backward, split
from processes import run

LAMBD = 0.1
NO_SCALER = torch.amp.GradScaler("cpu", enabled=False)


class Trunk(nn.Sequential):
    """A small backbone with the normalisation and the dropout asked for: [N, 3, H, W] to [N, 6]."""

    num_features = 6

    def __init__(self, norm: str, dropout: float = 0.0, torchs: bool = False) -> None:
        def normalisation() -> nn.Module:
            if norm == "group":
                return nn.GroupNorm(2, 6)
            return nn.BatchNorm2d(6) if torchs else ViewBatchNorm2d(6)

        super().__init__(
            nn.Conv2d(3, 6, 3, padding=1, bias=False), normalisation(), nn.ReLU(inplace=True),
            nn.Dropout(dropout), nn.Conv2d(6, 6, 3, stride=2), normalisation(), nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip


def twins_of(norm: str, dropout: float = 0.0, *, torchs: bool = False) -> Twins:
    """The same float64 weights for all; `torchs` takes torch.nn.BatchNorm, one call per view."""
    batch_norm = nn.BatchNorm1d(7) if torchs else ViewBatchNorm1d(7)
    projector = nn.Sequential(nn.Linear(6, 7, bias=False), batch_norm, nn.ReLU(), nn.Linear(7, 5, bias=False))
    twins = Twins(Trunk(norm, dropout, torchs), projector).double()  # pyright: ignore[reportArgumentType]
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in twins.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) * 0.5)
    return twins


def two_views(num_images: int, step: int = 0) -> list[Tensor]:
    """Noisy copies of the same images, no two alike in level."""
    generator = torch.Generator().manual_seed(step)
    base = torch.randn(num_images, 3, 9, 9, generator=generator, dtype=torch.float64)
    base *= torch.linspace(0.5, 2, num_images, dtype=torch.float64).view(-1, 1, 1, 1)
    return [base + 0.5 * torch.randn(base.shape, generator=generator, dtype=base.dtype) for _ in range(2)]


def loss_of(embeddings: list[Tensor]) -> Tensor:
    return barlow_twins(embeddings[0], embeddings[1], LAMBD)


def in_parts(
    model: Any, views: list[Tensor], num_parts: int, scaler: torch.amp.GradScaler = NO_SCALER, **kwargs: Any
) -> tuple[Tensor, list[Tensor]]:
    batches = [partial(list, part) for part in split(views, num_parts)]
    return backward(model, batches, kwargs.pop("loss_of", loss_of), scaler, contextlib.nullcontext)


def results(twins: Twins, loss: Tensor, embeddings: list[Tensor]) -> dict[str, Tensor]:
    grads = {f"d {name}": p.grad.clone() for name, p in twins.named_parameters() if p.grad is not None}
    assert len(grads) == len(list(twins.parameters()))
    buffers = {name: buffer.clone() for name, buffer in twins.named_buffers()}
    return (
        {"loss": loss.detach(), "z1": embeddings[0].detach(), "z2": embeddings[1].detach()} | grads | buffers
    )


def keep(kept: list[Tensor], _module: nn.Module, inputs: tuple[Tensor]) -> None:
    """A hook for what a module is called with."""
    kept.append(inputs[0].detach())


def written_out(twins: Twins, views: list[Tensor], groups: list[list[int]]) -> dict[str, Tensor]:
    """Ghost batch norm by plain autograd, one process.

    The backbone sees each view of each group of images alone; projector (a view at a time) and loss see all.
    The backbone's running statistics are those of all inputs of a view, view after view. `twins` has
    torch's batch norms.
    """
    norms = {n: m for n, m in twins.backbone.named_modules() if isinstance(m, nn.BatchNorm2d)}
    seen: dict[str, list[Tensor]] = {name: [] for name in norms}
    expected = {name: (norm.running_mean.clone(), norm.running_var.clone()) for name, norm in norms.items()}  # pyright: ignore[reportOptionalMemberAccess]
    for name, norm in norms.items():
        norm.register_forward_pre_hook(partial(keep, seen[name]))
    features: list[Tensor] = []
    order = [i for group in groups for i in group]
    place = torch.tensor(order).argsort()
    for view in views:
        features.append(torch.cat([twins.backbone(view[group]) for group in groups])[place])
        for name, (mean, variance) in expected.items():
            x_CM = torch.cat(seen[name]).transpose(0, 1).flatten(1)
            mean.mul_(0.9).add_(0.1 * x_CM.mean(1))
            variance.mul_(0.9).add_(0.1 * x_CM.var(1))
            seen[name].clear()
    embeddings = [twins.projector(h_NF) for h_NF in features]
    a_ND, b_ND = [(z_ND - z_ND.mean(0)) / z_ND.std(0, correction=0) for z_ND in embeddings]
    c_DD = a_ND.T @ b_ND / len(a_ND)
    off = c_DD - torch.diag(c_DD.diagonal())
    loss = (1 - c_DD.diagonal()).square().sum() + LAMBD * off.square().sum()
    loss.backward()
    for name, (mean, variance) in expected.items():
        norms[name].running_mean, norms[name].running_var = mean, variance
        norms[name].num_batches_tracked = torch.tensor(2)
    return results(twins, loss, embeddings)


def assert_equal(got: dict[str, Tensor], expected: dict[str, Tensor], rtol: float = 1e-11) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(float(value.abs().max()), 1e-3)
        torch.testing.assert_close(
            got[name], value, rtol=0, atol=rtol * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("num_parts", [2, 4, 10])
def test_without_batch_norm_it_is_the_whole_batch(num_parts: int) -> None:
    views = two_views(10)
    whole, parted = twins_of("group"), twins_of("group")
    expected = results(whole, *in_parts(whole, views, 1))
    assert_equal(results(parted, *in_parts(parted, views, num_parts)), expected)


@pytest.mark.parametrize("num_images", [8, 10])
def test_one_process_is_the_ghost_batch_norm_function(num_images: int) -> None:
    views = two_views(num_images)
    ours = twins_of("batch")
    groups = [part.tolist() for part in torch.arange(num_images).tensor_split(3)]
    expected = written_out(twins_of("batch", torchs=True), views, groups)
    assert_equal(results(ours, *in_parts(ours, views, 3)), expected)
    whole = twins_of("batch")
    loss, _ = in_parts(whole, views, 1)
    assert abs(float(loss.detach()) - float(expected["loss"])) > 1e-3, (
        "the test could not tell the functions apart"
    )


def test_parts_are_in_order_and_differ_by_one_row_at_most() -> None:
    views = two_views(10)
    parts = split(views, 4)
    assert [[len(view) for view in part] for part in parts] == [[3, 3], [3, 3], [2, 2], [2, 2]]
    for number, view in enumerate(views):
        assert torch.equal(torch.cat([part[number] for part in parts]), view)


def test_dropout_is_replayed_and_the_random_numbers_go_on() -> None:
    def with_noise(embeddings: list[Tensor]) -> Tensor:
        return loss_of([z_ND + torch.randn_like(z_ND) for z_ND in embeddings])

    views = two_views(10)
    ours, plain = twins_of("group", dropout=0.4), twins_of("group", dropout=0.4)
    torch.manual_seed(5)
    parts = [plain.represent(part) for part in split(views, 3)]
    embeddings = plain.project([torch.cat(view) for view in zip(*parts, strict=True)])
    loss = with_noise(embeddings)
    loss.backward()
    expected, after = results(plain, loss, embeddings), torch.get_rng_state()
    torch.manual_seed(5)
    assert_equal(results(ours, *in_parts(ours, views, 3, loss_of=with_noise)), expected)
    assert torch.equal(torch.get_rng_state(), after)


def test_a_scaler_scales_every_gradient_and_sees_what_overflows() -> None:
    views = two_views(8)
    plain, scaled = twins_of("batch"), twins_of("batch")
    expected = results(plain, *in_parts(plain, views, 3))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(scaled.parameters(), lr=1.0)
    got = results(scaled, *in_parts(scaled, views, 3, scaler))
    assert_equal({n: v / 1024 if n.startswith("d ") else v for n, v in got.items()}, expected)
    before = copy.deepcopy(scaled.state_dict())
    scaled.zero_grad()
    in_parts(scaled, views, 3, scaler, loss_of=lambda embeddings: loss_of(embeddings) * 1e308 * 10)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 512
    assert all(torch.equal(p, before[name]) for name, p in scaled.named_parameters())


def test_bf16_reaches_every_weight_through_each_micro_batch() -> None:
    views = [view.float() for view in two_views(12)]
    ours, plain = twins_of("batch").float(), twins_of("batch").float()
    batches = [partial(list, part) for part in split(views, 3)]
    context = partial(torch.autocast, "cpu", torch.bfloat16)
    _, embeddings = backward(ours, batches, loss_of, NO_SCALER, context)
    assert embeddings[0].dtype == torch.bfloat16
    with context():
        parts = [plain.represent(part) for part in split(views, 3)]
        embeddings = plain.project([torch.cat(view) for view in zip(*parts, strict=True)])
    loss_of(embeddings).backward()
    for (name, mine), reference in zip(ours.named_parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None, name
        assert reference.grad is not None
        assert mine.grad.dtype == torch.float32
        # The same operations, but a weight's gradients of the micro-batches add up in bf16 in the reference.
        torch.testing.assert_close(
            mine.grad, reference.grad, rtol=0.02, atol=0.01 * float(reference.grad.abs().max()), msg=name
        )


def test_an_exception_of_the_loss_leaves_no_gradient_and_no_setting_behind() -> None:
    twins, views = twins_of("batch"), two_views(6)

    def fail(embeddings: list[Tensor]) -> Tensor:
        raise FloatingPointError("not finite")

    with pytest.raises(FloatingPointError):
        in_parts(twins, views, 3, loss_of=fail)
    assert all(p.grad is None for p in twins.parameters())
    again = twins_of("batch")
    for module, buffer in zip(twins.buffers(), again.buffers(), strict=True):
        module.copy_(buffer)
    assert_equal(results(twins, *in_parts(twins, views, 3)), results(again, *in_parts(again, views, 3)), 0)


def test_batch_norms_that_would_count_every_sample_twice_are_refused() -> None:
    twins, views = twins_of("batch", torchs=True), two_views(6)
    with pytest.raises(ValueError, match=r"ViewBatchNorm; backbone\.1 is a BatchNorm2d"):
        in_parts(twins, views, 3)
    assert all(p.grad is None for p in twins.parameters())
    twins.backbone.eval()  # at rest they count nothing
    in_parts(twins, views, 3)


def test_statistics_of_parts_that_fail_are_forgotten() -> None:
    twins = twins_of("batch")
    before = copy.deepcopy(dict(twins.named_buffers()))
    with pytest.raises(RuntimeError):
        in_parts(twins, [view[:, :2] for view in two_views(6)], 3)
    broken = two_views(6)
    parts = split(broken, 2)
    parts[1] = [torch.full_like(view, 0)[:, :2] for view in parts[1]]
    with pytest.raises(RuntimeError):
        backward(twins, [partial(list, part) for part in parts], loss_of, NO_SCALER, contextlib.nullcontext)
    assert all(torch.equal(buffer, before[name]) for name, buffer in twins.named_buffers())
    assert not any(norm.parts for norm in twins.modules() if isinstance(norm, ViewBatchNorm2d))


class Held:
    """A tensor that autograd keeps for backward; counts the bytes of those alive."""

    now = most = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.size = tensor, tensor.numel() * tensor.element_size()
        Held.now += self.size
        Held.most = max(Held.most, Held.now)

    def __del__(self) -> None:
        Held.now -= self.size


def test_what_autograd_keeps_falls_with_the_micro_batch() -> None:
    peaks = {}
    for num_parts in (1, 2, 8):
        twins, views = twins_of("batch"), two_views(32)
        weights = {p.data_ptr() for p in twins.parameters()}
        Held.now = Held.most = 0
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, weights=weights: tensor if tensor.data_ptr() in weights else Held(tensor),
            lambda held: held.tensor if isinstance(held, Held) else held,
        ):
            in_parts(twins, views, num_parts)
        assert Held.now == 0
        peaks[num_parts] = Held.most
    assert peaks[2] < 0.55 * peaks[1]
    assert peaks[8] < 0.17 * peaks[1]


def on_ranks(
    world: World, norm: str, num_images: int, num_parts: int, bucket_mib: float | None = None
) -> list[dict[str, Any]]:
    """Three steps on this rank's rows; results, and the buckets that DDP reduced in each."""
    twins = twins_of(norm)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("barlow.model.parallel.BUCKET_MB", bucket_mib or 25)
        model = data_parallel(twins)
    buckets: list[int] = []

    if isinstance(model, DistributedDataParallel):
        # A lambda, as DDP wants real annotations or none.
        model.register_comm_hook(
            None,
            lambda _, bucket: (buckets.append(bucket.index()), allreduce_hook(dist.group.WORLD, bucket))[1],  # pyright: ignore[reportArgumentType]
        )
    steps: list[dict[str, Any]] = []
    rows = slice(world.rank * num_images // world.size, (world.rank + 1) * num_images // world.size)
    for step in range(3):
        for module in twins.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.reset_running_stats()
        twins.zero_grad(set_to_none=True)
        buckets.clear()
        views = [view[rows] for view in two_views(num_images, step)]
        found = results(twins, *in_parts(model, views, 1 if step == 1 else num_parts))
        steps.append(found | {"buckets": sorted(buckets)})
    return steps


@pytest.mark.parametrize(
    ("world_size", "num_images", "num_parts", "bucket_mib"),
    [(2, 10, 2, None), (2, 10, 3, None), (4, 12, 3, None), (2, 10, 3, 0.0003)],
)
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_ranks_in_parts_are_one_process(
    norm: str, world_size: int, num_images: int, num_parts: int, bucket_mib: float | None
) -> None:
    """Steps in parts before and after one of the whole batch: DDP's state survives each."""
    found = run(on_ranks, world_size, norm, num_images, num_parts, bucket_mib)
    by_rank = torch.arange(num_images).tensor_split(world_size)
    for step in range(3):
        parts = 1 if step == 1 else num_parts
        groups = [
            torch.cat(group).tolist()
            for group in zip(*(rows.tensor_split(parts) for rows in by_rank), strict=True)
        ]
        expected = written_out(twins_of(norm, torchs=True), two_views(num_images, step), groups)
        for rank, rows in enumerate(by_rank):
            got = dict(found[rank][step])
            buckets = got.pop("buckets")
            assert buckets == list(range(len(buckets))), "each bucket must be reduced exactly once"
            # The first backward pass always has a single bucket.
            assert len(buckets) == (4 if bucket_mib and step else 1)
            mine = expected | {name: expected[name][rows] for name in ("z1", "z2")}
            assert_equal(got, mine, 1e-10)
