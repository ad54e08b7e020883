"""Objectives against their papers' formulas in one process: values, gradients, precision, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from objective_cases import CASES, Case

each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def with_gradients(case: Case, loss: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    return (loss.detach(), *torch.autograd.grad(loss, inputs[case.constants :]))


def single(inputs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [z.detach().to(dtype).requires_grad_() for z in inputs]


@each
def test_loss_and_gradients_are_those_of_the_formula(case: Case) -> None:
    inputs = case.inputs()
    ours = with_gradients(case, case.loss(*inputs), inputs)
    reference = with_gradients(case, case.formula(*inputs), inputs)
    assert min(float(part.abs().max()) for part in ours) > 1e-3
    for mine, theirs in zip(ours, reference, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-11)


@each
def test_no_gradient_flows_into_targets(case: Case) -> None:
    inputs = case.inputs()
    case.loss(*inputs).backward()
    assert [z.grad is None for z in inputs] == [i < case.constants for i in range(case.num_inputs)]


@each
def test_float32_is_float64_to_rounding(case: Case) -> None:
    inputs = case.inputs()
    exact = with_gradients(case, case.loss(*inputs), inputs)
    rounded = single(inputs, torch.float32)
    for mine, theirs in zip(with_gradients(case, case.loss(*rounded), rounded), exact, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=2e-5 * float(theirs.abs().max()))


@each
def test_half_precision_and_autocast_are_computed_in_float32(case: Case) -> None:
    halves = case.inputs(dtype=torch.bfloat16)
    floats = single(halves, torch.float32)
    exact = with_gradients(case, case.loss(*floats), floats)
    with torch.autocast("cpu", torch.bfloat16):
        loss = case.loss(*halves)
    ours = with_gradients(case, loss, halves)
    assert ours[0].dtype == torch.float32
    assert ours[0] == exact[0]
    for mine, theirs in zip(ours[1:], exact[1:], strict=True):
        assert mine.dtype == torch.bfloat16
        assert torch.equal(mine, theirs.bfloat16())


@each
def test_a_gradient_scale_arrives_before_the_cast_to_float16(case: Case) -> None:
    halves = single(case.inputs(), torch.float16)
    floats = single(halves, torch.float32)
    scale = 2.0**-20
    exact = with_gradients(case, case.loss(*floats) * scale, floats)[1:]
    # Too small for float16; what the scaler multiplies in must keep them from rounding to nothing.
    scaled = with_gradients(case, case.loss(*halves) * scale * 2.0**20, halves)[1:]
    for mine, theirs in zip(scaled, exact, strict=True):
        assert mine.isfinite().all()
        torch.testing.assert_close(
            mine.float() * scale, theirs, rtol=1e-3, atol=float(theirs.abs().max()) * 1e-3
        )


@each
def test_inputs_stay_as_they_were_and_no_grad_makes_no_graph(case: Case) -> None:
    inputs = case.inputs()
    before = [z.detach().clone() for z in inputs]
    with torch.no_grad():
        loss = case.loss(*inputs)
    assert not loss.requires_grad
    assert loss == case.loss(*inputs).detach()
    for mine, theirs in zip(inputs, before, strict=True):
        assert torch.equal(mine, theirs)


@each
def test_every_input_is_checked(case: Case) -> None:
    for place in range(case.num_inputs):
        for change, message in [
            (lambda z: z[:-1], "one shape"),
            (lambda z: z[:, :-1], "one shape"),
            (lambda z: z[0], "one shape"),
            (lambda z: z.long(), "floating point"),
        ]:
            inputs = [z.detach() for z in case.inputs()]
            inputs[place] = change(inputs[place])
            with pytest.raises(ValueError, match=message):
                case.loss(*inputs)
    with pytest.raises(ValueError, match=r"N, D > 0|one shape"):
        case.loss(*(z[:0] for z in case.inputs()))


@each
def test_what_is_not_finite_never_passes_for_a_loss(case: Case) -> None:
    inputs = [z.detach() for z in case.inputs()]
    inputs[-1][3, 2] = torch.nan
    if case.name.startswith("w_mse"):  # a factorisation fails before there is a loss
        with pytest.raises(ValueError, match="not finite"):
            case.loss(*inputs)
    else:
        assert case.loss(*inputs).isnan()
