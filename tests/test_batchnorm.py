"""Per-view batch norm against torch.nn.BatchNorm called once per view, in one process and in several."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from barlow.distributed import World
from barlow.model import ViewBatchNorm, ViewBatchNorm1d, ViewBatchNorm2d
from barlow.model.batchnorm import no_advance_of, num_views_of, one_advance_of
from processes import run

CONTIGUOUS, CHANNELS_LAST = torch.contiguous_format, torch.channels_last


def norms(num_features: int, dims: int, dtype: torch.dtype) -> tuple[ViewBatchNorm, nn.Module]:
    """Ours and torch's with the same parameters, none of them trivial."""
    generator = torch.Generator().manual_seed(7)
    ours = (ViewBatchNorm1d if dims == 2 else ViewBatchNorm2d)(num_features).to(dtype)
    theirs = (nn.BatchNorm1d if dims == 2 else nn.BatchNorm2d)(num_features).to(dtype)
    for tensor in (ours.weight, ours.bias, ours.running_mean, ours.running_var):
        assert isinstance(tensor, Tensor)
        tensor.data.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.5)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def data(
    shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format, mean: float = 2.0
) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    # The blocks differ, so that mixing them up can't go unseen.
    x = x * torch.linspace(0.5, 2, shape[0], dtype=torch.float64).view(-1, *[1] * (len(shape) - 1)) + mean
    return x.to(dtype).contiguous(memory_format=memory_format).requires_grad_()


def one_pass_and_one_per_view(
    x: Tensor, num_views: int, precise: torch.dtype = torch.float64
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Outputs, gradients and buffers: ours in one pass in x's dtype, torch's view by view in `precise`."""
    stats = torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype
    ours, _ = norms(x.shape[1], x.dim(), stats)
    _, theirs = norms(x.shape[1], x.dim(), precise)
    with num_views_of(ours, num_views):
        y = ours(x)
    reference_x = x.detach().to(precise).requires_grad_()
    reference_y = torch.cat([theirs(view) for view in reference_x.chunk(num_views)])
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y.dtype)
    results = []
    for module, out, source in ((ours, y, x), (theirs, reference_y, reference_x)):
        grads = torch.autograd.grad(out, [source, *module.parameters()], dy.to(out.dtype))
        values = {"y": out.detach(), "dx": grads[0], "dweight": grads[1], "dbias": grads[2]}
        results.append(values | dict(module.named_buffers()))
    return results[0], results[1]


@pytest.mark.parametrize("memory_format", [CONTIGUOUS, CHANNELS_LAST])
@pytest.mark.parametrize("num_views", [1, 2, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-6)])
def test_one_pass_is_one_call_per_view(
    dtype: torch.dtype, tolerance: float, num_views: int, memory_format: torch.memory_format
) -> None:
    x = data((num_views * 6, 5, 40, 41), dtype, memory_format)  # more pixels than one partial sum takes
    ours, theirs = one_pass_and_one_per_view(x, num_views)
    assert ours["y"].is_contiguous(memory_format=memory_format)
    assert ours["dx"].is_contiguous(memory_format=memory_format)
    for name, value in ours.items():
        scale = float(theirs[name].abs().max())
        torch.testing.assert_close(
            value.double(), theirs[name].double(), rtol=0, atol=tolerance * scale, msg=name
        )


def test_many_pixels_do_not_wear_down_the_statistics() -> None:
    # torch's own kernel is off by 3e-5 here.
    x = data((128, 4, 32, 32), torch.float32, CHANNELS_LAST)
    ours, theirs = one_pass_and_one_per_view(x, 1)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(ours[name].double(), theirs[name], rtol=2e-6, atol=0, msg=name)


def test_one_pass_of_vectors() -> None:
    ours, theirs = one_pass_and_one_per_view(data((14, 9), torch.float64, CONTIGUOUS), 2)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("memory_format", [CONTIGUOUS, CHANNELS_LAST])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_keeps_statistics_and_parameter_gradients_in_float32(
    dtype: torch.dtype, rounding: float, memory_format: torch.memory_format
) -> None:
    ours, theirs = one_pass_and_one_per_view(data((8, 5, 16, 16), dtype, memory_format), 2)
    for name in ("y", "dx"):
        assert ours[name].dtype == dtype
        error = (ours[name].double() - theirs[name]).abs().max() / theirs[name].abs().max()
        assert error < 1.5 * rounding, name
    for name in ("dweight", "dbias", "running_mean", "running_var"):
        assert ours[name].dtype == torch.float32
        torch.testing.assert_close(ours[name].double(), theirs[name], rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("memory_format", [CONTIGUOUS, CHANNELS_LAST])
def test_a_mean_far_above_the_deviation_costs_no_more_than_the_input_has(
    memory_format: torch.memory_format,
) -> None:
    x = data((16, 3, 32, 32), torch.float32, memory_format, mean=1000.0)
    ours, theirs = one_pass_and_one_per_view(x, 2)
    torch.testing.assert_close(ours["running_var"].double(), theirs["running_var"], rtol=1e-5, atol=0)
    torch.testing.assert_close(ours["y"].double(), theirs["y"], rtol=0, atol=2e-3)  # 1000 has ulps of 6e-5


def test_inputs_and_gradients_of_any_strides() -> None:
    x = data((4, 6, 5, 3), torch.float64, CONTIGUOUS)
    ours, theirs = norms(5, 4, torch.float64)
    for module in (ours, theirs):
        module(x.transpose(1, 2)).sum(0).square().sum().backward()  # neither layout; a gradient of stride 0
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, reference.grad)


def test_a_batch_in_parts_advances_once_per_view_by_all_of_its_samples() -> None:
    x = data((12, 5, 6, 6), torch.float64, CONTIGUOUS).detach()
    ours, theirs = norms(5, 4, torch.float64)
    first, second = x.chunk(2)
    parts = zip(first.tensor_split([1, 4]), second.tensor_split([1, 4]), strict=True)
    with num_views_of(ours, 2), one_advance_of(ours):
        for part in parts:
            ours(torch.cat(part))
    for view in x.chunk(2):
        theirs(view)
    for (name, buffer), expected in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, rtol=1e-12, atol=1e-12, msg=name)
    with num_views_of(ours, 2), no_advance_of(ours):
        ours(x)
    for (name, buffer), expected in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, rtol=1e-12, atol=1e-12, msg=name)


def test_evaluation_mode_is_torchs_bit_for_bit() -> None:
    x = data((6, 5, 4, 4), torch.float32, CONTIGUOUS)
    ours, theirs = norms(5, 4, torch.float32)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with num_views_of(ours, 2):
        assert torch.equal(ours.eval()(x), theirs.eval()(x))
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


def test_num_views_is_put_back_even_after_an_error() -> None:
    norm = ViewBatchNorm1d(3)
    with pytest.raises(ValueError, match="5 rows are not 2 views"), num_views_of(norm, 2):
        norm(torch.randn(5, 3))
    assert norm.num_views == 1


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (ViewBatchNorm1d(3), (4, 3, 1), "expected"),
        (ViewBatchNorm2d(3), (4, 3), "expected"),
        (ViewBatchNorm2d(3), (0, 3, 2, 2), "at least one sample"),
        (ViewBatchNorm1d(3), (1, 3), "more than one value"),
    ],
)
def test_errors(module: nn.Module, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module(torch.randn(shape))


def rows_of(x: Tensor, splits: list[int], rank: int) -> Tensor:
    """This rank's rows of each of two views, view after view."""
    return torch.cat([view.split(splits)[rank] for view in x.chunk(2)])


def gradient(splits: list[int]) -> Tensor:
    """That of all ranks' outputs, in numbers that bf16 has."""
    shape = (2 * sum(splits), 5, 7, 3)
    dy = torch.randn(shape, generator=torch.Generator().manual_seed(2)) + 0.5
    return dy.bfloat16().double()


def synchronised(
    world: World, splits: list[int], dtype: torch.dtype, memory_format: torch.memory_format
) -> dict[str, Any]:
    calls: list[str] = []
    gather, reduce = dist.all_gather_into_tensor, dist.all_reduce
    dist.all_gather_into_tensor = lambda *a, **k: (calls.append("gather"), gather(*a, **k))
    dist.all_reduce = lambda *a, **k: (calls.append("reduce"), reduce(*a, **k))
    x = rows_of(data((2 * sum(splits), 5, 7, 3), dtype, memory_format), splits, world.rank)
    x = x.detach().contiguous(memory_format=memory_format).requires_grad_()
    ours, _ = norms(5, 4, torch.float32 if dtype == torch.bfloat16 else dtype)
    with num_views_of(ours, 2):
        y = ours(x)
    y.backward(rows_of(gradient(splits), splits, world.rank).to(dtype))
    grads = {"dx": x.grad} | {"d" + name: p.grad for name, p in ours.named_parameters()}
    return {"y": y.detach(), **grads, **dict(ours.named_buffers()), "calls": calls}


@pytest.mark.parametrize("memory_format", [CONTIGUOUS, CHANNELS_LAST])
@pytest.mark.parametrize(
    ("splits", "dtype"),
    [
        ([3, 3], torch.float64),
        ([1, 5], torch.float64),
        ([1, 4, 2], torch.float64),
        ([2, 1, 3, 2], torch.float64),
        ([1, 5], torch.float32),
        ([2, 1, 3, 2], torch.bfloat16),
    ],
)
def test_ranks_with_unequal_samples_share_statistics_by_one_collective_each_way(
    splits: list[int], dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    of_samples, of_sums = {
        torch.float64: (1e-12, 1e-12), torch.float32: (2e-6, 2e-6), torch.bfloat16: (2**-7, 1e-5),
    }[dtype]  # fmt: skip
    x = data((2 * sum(splits), 5, 7, 3), dtype, memory_format).detach().double().requires_grad_()
    _, theirs = norms(5, 4, torch.float32 if dtype == torch.bfloat16 else dtype)
    theirs.double()
    y = torch.cat([theirs(view) for view in x.chunk(2)])
    y.backward(gradient(splits))
    results = run(synchronised, len(splits), splits, dtype, memory_format)
    assert x.grad is not None

    def close(value: Tensor, expected: Tensor, tolerance: float, name: str) -> None:
        atol = tolerance * float(expected.abs().max())
        torch.testing.assert_close(
            value.double(), expected.double(), rtol=0, atol=atol, msg=lambda m: f"{name}: {m}"
        )

    for rank, result in enumerate(results):
        assert result["calls"] == ["gather", "reduce"]
        for name, whole in (("y", y.detach()), ("dx", x.grad)):
            assert result[name].dtype == dtype
            close(result[name], rows_of(whole, splits, rank), of_samples, name)
        for name, buffer in theirs.named_buffers():
            close(result[name], buffer, of_sums, name)
    for name, p in theirs.named_parameters():
        assert p.grad is not None
        close(torch.stack([result["d" + name] for result in results]).sum(0), p.grad, of_sums, name)
