"""LARS against a plain loop over the formula, bit for bit; compiled; groups, state, tensors as rates."""

from __future__ import annotations

import copy
import shutil
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


def test_what_is_adapted_stays_when_a_state_is_loaded() -> None:
    params = tensors()
    saved = LARS(groups(params), lr=0.3).state_dict()
    for group in saved["param_groups"]:
        group["adapt"] = not group["adapt"]
    optimizer = LARS(groups(params), lr=0.1)
    optimizer.load_state_dict(saved)
    assert [group["adapt"] for group in optimizer.param_groups] == [True, False]
    assert [group["lr"] for group in optimizer.param_groups] == [0.3, 0.3]


def test_a_copy_goes_on_bit_for_bit() -> None:
    """By the protocol that pickle uses, too."""
    params = tensors()
    optimizer = LARS(groups(params), lr=0.1, variant="larc")
    for step in range(2):
        set_gradients(params, step)
        optimizer.step()
    both = [(params, optimizer), copy.deepcopy((params, optimizer))]
    for step in range(2, 4):
        for ps, opt in both:
            set_gradients(ps, step)
            opt.step()
    assert all(torch.equal(a, b) for a, b in zip(both[0][0], both[1][0], strict=True))


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


@pytest.mark.parametrize("variant", ["lars", "larc"])
@pytest.mark.parametrize("rate", ["number", "tensor"])
def test_a_step_needs_no_value_of_any_tensor(variant: Any, rate: str) -> None:
    """Tensors of the meta device have none."""
    params = [nn.Parameter(p.to("meta")) for p in tensors()]
    for p in params:
        p.grad = torch.empty_like(p)
    lr = 0.1 if rate == "number" else torch.tensor(0.1, device="meta")
    LARS(groups(params), lr=lr, variant=variant).step()


class Operations(TorchDispatchMode):
    """Counts what is asked of torch: about the kernels that a GPU would be sent."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_a_step_is_a_fixed_number_of_operations_however_many_tensors_there_are() -> None:
    counts = []
    for copies in (1, 9):
        params = [p for seed in range(copies) for p in tensors(seed)]
        optimizer = LARS(groups(params), lr=0.1)
        for step in range(2):  # the first one makes the momenta
            for p in params:
                p.grad = torch.ones_like(p)
            with Operations() as operations:
                optimizer.step()
            if step:
                counts.append(operations.count)
    assert counts[0] == counts[1] <= 22


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
@pytest.mark.parametrize("variant", ["lars", "larc"])
def test_the_compiled_step_is_the_same_and_is_compiled_once_for_all_rates(variant: Any) -> None:
    from torch._dynamo.utils import counters

    fused, plain = tensors(), tensors()
    first = LARS(groups(fused), lr=0.0, trust_coefficient=0.01, variant=variant, fused=True)
    second = LARS(groups(plain), lr=0.0, trust_coefficient=0.01, variant=variant)
    graphs = 0
    for step in range(12):
        for optimizer, params in ((first, fused), (second, plain)):
            for group in optimizer.param_groups:
                group["lr"] = 0.2 * (step + 1) / 12
            set_gradients(params, 35 * step)  # all there: without one of them it would be another list
            optimizer.step()
        if step == 0:
            graphs = counters["stats"]["unique_graphs"]
            assert graphs >= 2  # one for each group
    assert counters["stats"]["unique_graphs"] == graphs
    for a, b, start in zip(fused, plain, tensors(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        assert not torch.equal(a, start)


def test_the_state_of_the_official_optimizer_is_taken_over() -> None:
    """Its momentum is the "mu" of the formula; its groups are weights and one-dimensional parameters."""
    ours, plain = tensors(), tensors()
    order = [p for p in plain if p.ndim > 1] + [p for p in plain if p.ndim == 1]
    momenta = {p: torch.zeros_like(p) for p in plain}

    @torch.no_grad()
    def official_step(step: int) -> None:
        set_gradients(plain, step)
        for p in plain:
            if p.grad is not None:
                adapt = p.ndim > 1
                plain_step(p, momenta[p], 0.4 if adapt else 0.02, 0.8, 1e-3 if adapt else 0.0, 0.05, adapt)

    for step in (0, 1):
        official_step(step)
    num_weights = sum(p.ndim > 1 for p in plain)
    flags = {"weight_decay": 1e-3, "momentum": 0.8, "eta": 0.05, "weight_decay_filter": True}
    numbers = list(range(num_weights)), list(range(num_weights, len(order)))
    saved = {
        "state": {i: {"mu": momenta[p]} for i, p in enumerate(order)},
        "param_groups": [
            {"lr": lr, **flags, "params": group} for lr, group in zip((0.4, 0.02), numbers, strict=True)
        ],
    }
    optimizer = LARS(groups(ours, decay=0.7), lr=9.0)
    optimizer.load_state_dict(copy.deepcopy(saved))
    for mine, theirs in zip(ours, plain, strict=True):
        mine.data.copy_(theirs)
    for step in range(4, 9):
        set_gradients(ours, step)
        optimizer.step()
        official_step(step)
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda saved: saved["state"].update({1: {"mu": torch.zeros(3)}}),
            r"parameter 1 is .*\[3\].* not mu",
        ),
        (
            lambda saved: saved["state"].update({1: {"momentum_buffer": torch.zeros(40, 16)}}),
            "momentum_buffer",
        ),
        (lambda saved: saved["state"].update({1: {"mu": 3}}), "parameter 1"),
        (lambda saved: saved.pop("state"), "lacks state"),
        (lambda saved: saved["param_groups"][0].pop("momentum"), "lacks momentum"),
        (lambda saved: saved["param_groups"][1].pop("adapt"), "lacks eta"),  # of torch.optim.SGD, say
        (lambda saved: saved["param_groups"].pop(), "other sizes"),
        (lambda saved: saved["param_groups"][0]["params"].pop(), "other sizes"),
    ],
)
def test_a_state_of_other_parameters_is_refused(damage: Callable[[Any], None], message: str) -> None:
    params = tensors()
    optimizer = LARS(groups(params), lr=0.1)
    set_gradients(params, 0)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    damage(saved)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(saved)


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
    with pytest.raises(ValueError, match="fused"):
        LARS([{"params": [p], "adapt": True}], lr=0.1, fused="maybe")  # pyright: ignore[reportArgumentType]
