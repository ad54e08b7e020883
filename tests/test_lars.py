"""LARS against a plain loop over the formula, bit for bit; groups, state, tensors as rates."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from barlow.config import ModelConfig
from barlow.model import build_model
from barlow.optim import LARS, parameter_groups

SHAPES = [(16, 3, 3, 3), (16,), (16,), (40, 16), (7,), (5, 40), (3, 3)]


def plain_step(
    p: Tensor, mu: Tensor, lr: float, momentum: float, decay: float, eta: float, adapt: bool
) -> None:
    """The update of one tensor as the official code's author would write it down."""
    assert p.grad is not None
    d = p.grad.add(p, alpha=decay)
    if adapt:
        p_norm, d_norm = torch.norm(p), torch.norm(d)
        q = eta * p_norm / d_norm if p_norm > 0 and d_norm > 0 else torch.ones(())
        d = d.mul(q)
    plain_momentum(p, mu, d, lr, momentum)


def plain_larc_step(
    p: Tensor, mu: Tensor, lr: float, momentum: float, decay: float, eta: float, adapt: bool
) -> None:
    """Likewise for apex's LARC with clipping."""
    assert p.grad is not None
    d = p.grad.clone()
    p_norm, g_norm = torch.norm(p), torch.norm(d)
    if not adapt:
        d = d.add(p, alpha=decay)
    elif p_norm > 0 and g_norm > 0:
        q = eta * p_norm / (g_norm + decay * p_norm + 1e-8)
        d = d.add(p, alpha=decay).mul(min(q / lr, torch.ones(())))
    plain_momentum(p, mu, d, lr, momentum)


def plain_momentum(p: Tensor, mu: Tensor, d: Tensor, lr: float, momentum: float) -> None:
    mu.mul_(momentum).add_(d)
    p.data.add_(mu, alpha=-lr)


def tensors(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    params[-1].data.zero_()  # a norm of 0: the trust ratio must be 1
    return params


def groups(params: list[nn.Parameter], decay: float = 1e-4) -> list[dict[str, Any]]:
    return [
        {"params": [p for p in params if p.ndim > 1], "adapt": True, "weight_decay": decay},
        {"params": [p for p in params if p.ndim == 1], "adapt": False},
    ]


def set_gradients(params: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(1000 + step)
    for i, p in enumerate(params):
        p.grad = torch.randn(p.shape, generator=generator) * (0.1 + i)
    if step % 7 == 3:
        params[3].grad = None
    if step % 5 == 2:
        params[0].grad = torch.zeros_like(params[0])


@pytest.mark.parametrize(("variant", "step_of"), [("lars", plain_step), ("larc", plain_larc_step)])
def test_200_steps_are_the_plain_loop_bit_for_bit(variant: Any, step_of: Callable[..., None]) -> None:
    ours, plain = tensors(), tensors()
    momenta = [torch.zeros_like(p) for p in plain]
    optimizer = LARS(groups(ours), lr=0.1, momentum=0.9, trust_coefficient=0.01, variant=variant)
    for step in range(200):
        lr = 0.2 * (step + 1) / 200
        for group, factor in zip(optimizer.param_groups, (1.0, 0.024), strict=True):
            group["lr"] = lr * factor
        set_gradients(ours, step)
        set_gradients(plain, step)
        optimizer.step()
        for p, mu in zip(plain, momenta, strict=True):
            if p.grad is not None:
                adapt = p.ndim > 1
                step_of(p, mu, lr if adapt else lr * 0.024, 0.9, 1e-4 if adapt else 0.0, 0.01, adapt)
    for mine, theirs, mu in zip(ours, plain, momenta, strict=True):
        assert torch.equal(mine, theirs)
        assert torch.equal(optimizer.state[mine]["mu"], mu)
    assert not torch.equal(ours[0], tensors()[0])


def test_gradients_stay_and_the_momentum_buffer_is_made_once() -> None:
    params = tensors()
    optimizer = LARS(groups(params), lr=0.1)
    set_gradients(params, 0)
    before = [p.grad.clone() for p in params if p.grad is not None]
    optimizer.step()
    buffers = {p: optimizer.state[p]["mu"].data_ptr() for p in params}
    assert all(torch.equal(b, p.grad) for b, p in zip(before, params, strict=True) if p.grad is not None)
    set_gradients(params, 1)
    optimizer.step()
    assert {p: optimizer.state[p]["mu"].data_ptr() for p in params} == buffers


def test_without_decay_the_step_of_a_weight_ignores_the_scale_of_the_loss_and_that_of_a_bias_does_not() -> (
    None
):
    results = []
    for scale in (1.0, 1024.0):
        params = tensors()
        set_gradients(params, 0)
        for p in params[:-1]:
            assert p.grad is not None
            p.grad *= scale
        LARS(groups(params, decay=0.0), lr=0.1).step()
        results.append(params)
    torch.testing.assert_close(results[0][0], results[1][0])
    bias, scaled, start = results[0][1], results[1][1], tensors()[1]
    torch.testing.assert_close(scaled - start, 1024 * (bias - start), rtol=1e-3, atol=1e-3)


def test_state_dict_round_trip_continues_bit_for_bit() -> None:
    params = tensors()
    optimizer = LARS(groups(params), lr=0.1)
    for step in range(3):
        set_gradients(params, step)
        optimizer.step()
    copies = [nn.Parameter(p.detach().clone()) for p in params]
    restored = LARS(groups(copies, decay=0.5), lr=9.0)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in range(3, 6):
        for opt, ps in ((optimizer, params), (restored, copies)):
            set_gradients(ps, step)
            opt.step()
    assert all(torch.equal(a, b) for a, b in zip(params, copies, strict=True))


class HostReads(TorchDispatchMode):
    """Counts the operations that would make the host wait for a GPU."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.count += 1
        return func(*args, **(kwargs or {}))


def test_a_rate_may_be_a_tensor_and_nothing_reads_it_on_the_host() -> None:
    with_tensor, with_float = tensors(), tensors()
    rate = torch.tensor(0.0)
    first, second = LARS(groups(with_tensor), lr=rate), LARS(groups(with_float), lr=0.0)
    for step in range(5):
        rate.fill_(0.1 * step)
        for group in second.param_groups:
            group["lr"] = 0.1 * step
        set_gradients(with_tensor, step)
        set_gradients(with_float, step)
        with HostReads() as reads:
            first.step()
        assert reads.count == 0
        second.step()
    for a, b in zip(with_tensor, with_float, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_closure_and_mixed_dtypes() -> None:
    params = [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2, dtype=torch.float64))]
    optimizer = LARS([{"params": params, "adapt": True}], lr=1.0, trust_coefficient=0.1)

    def closure() -> Tensor:
        loss = params[0].sum() + params[1].sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 8
    for p in params:
        torch.testing.assert_close(p.detach(), torch.full_like(p, 0.9))


def test_groups_of_a_model_hold_every_parameter_once_and_adapt_only_matrices_and_kernels() -> None:
    model = build_model(ModelConfig(backbone="resnet18", stem="cifar", width=8, projector=(16, 16)), 0)
    weights, others = parameter_groups(model)
    assert weights["adapt"]
    assert not others["adapt"]
    assert others["weight_decay"] == 0
    adapted = {id(p) for p in weights["params"]}
    for module in model.modules():
        for p in module.parameters(recurse=False):
            assert (id(p) in adapted) == isinstance(module, (nn.Conv2d, nn.Linear))
    assert len(weights["params"]) + len(others["params"]) == len(list(model.parameters()))
    model.backbone.conv1.weight.requires_grad_(False)
    assert len(parameter_groups(model)[0]["params"]) == len(weights["params"]) - 1


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({}, "adapt"),
        ({"adapt": None}, "adapt"),
        ({"adapt": True, "lr": -1.0}, "lr"),
        ({"adapt": True, "momentum": -1}, "momentum"),
    ],
)
def test_a_group_must_say_whether_to_adapt_and_have_possible_settings(
    group: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LARS([{"params": [nn.Parameter(torch.ones(2))], **group}], lr=0.1)


def test_larc_clips_to_plain_sgd_and_an_unknown_variant_is_refused() -> None:
    """A tiny gradient: LARS would scale it up to the trust ratio, LARC leaves it (lr 0 included)."""
    for lr in (0.0, 0.5):
        p = nn.Parameter(torch.ones(4, 4))
        p.grad = torch.full((4, 4), 1e-6)
        optimizer = LARS([{"params": [p], "adapt": True}], lr=lr, trust_coefficient=0.02, variant="larc")
        optimizer.step()
        assert torch.equal(optimizer.state[p]["mu"], p.grad)
    with pytest.raises(ValueError, match="variant"):
        LARS([{"params": [p], "adapt": True}], lr=0.1, variant="adam")  # pyright: ignore[reportArgumentType]
