"""The loss against equations 1 and 2 in float64, the official formula, the floor, hostile input."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from barlow.objectives import Form, barlow_twins, cross_correlation, loss_floor
from barlow.objectives.forms import FORMS

SHAPES = [(16, 5), (6, 24), (2, 3)]
each_form = pytest.mark.parametrize("form", FORMS)


def equations(z1: Tensor, z2: Tensor, lambd: float) -> Tensor:
    """Equations 1 and 2 of the paper, entry by entry."""
    z1, z2 = z1 - z1.mean(0), z2 - z2.mean(0)
    num_dims = z1.shape[1]
    loss = z1.new_zeros(())
    for i in range(num_dims):
        for j in range(num_dims):
            a, b = z1[:, i], z2[:, j]
            c_ij = (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())
            loss = loss + ((1 - c_ij) ** 2 if i == j else lambd * c_ij**2)
    return loss


def official(z1: Tensor, z2: Tensor, lambd: float) -> Tensor:
    """What the official code computes: batch norm without affine, c / N, on- and off-diagonal terms."""
    norm = torch.nn.BatchNorm1d(z1.shape[1], affine=False).to(z1.dtype)
    c = norm(z1).T @ norm(z2) / len(z1)
    off = ~torch.eye(len(c), dtype=torch.bool)
    return (c.diagonal() - 1).pow(2).sum() + lambd * c[off].pow(2).sum()


def pair(
    num_samples: int, num_dims: int, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(num_samples, num_dims, generator=generator, dtype=torch.float64)
    views = [
        shared + 0.7 * torch.randn(shared.shape, generator=generator, dtype=torch.float64) for _ in range(2)
    ]
    return [(view * 3 + 2).to(dtype).requires_grad_() for view in views]


def with_gradients(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return (loss.detach(), *torch.autograd.grad(loss, inputs))


@each_form
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradients_are_those_of_the_equations(shape: tuple[int, int], form: Form) -> None:
    z1, z2 = pair(*shape)
    ours = with_gradients(barlow_twins(z1, z2, 0.3, form=form), z1, z2)
    reference = with_gradients(equations(z1, z2, 0.3), z1, z2)
    for mine, theirs in zip(ours, reference, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-11)


@each_form
@pytest.mark.parametrize("shape", SHAPES)
def test_eps_1e_5_is_the_official_code(shape: tuple[int, int], form: Form) -> None:
    z1, z2 = (0.01 * z for z in pair(*shape))  # small, so that eps counts
    ours = with_gradients(barlow_twins(z1, z2, eps=1e-5, form=form), z1, z2)
    reference = with_gradients(official(z1, z2, 0.0051), z1, z2)
    for mine, theirs in zip(ours, reference, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    assert abs(ours[0] - barlow_twins(z1, z2, form=form).detach()) > 1e-4 * ours[0]


@each_form
def test_a_constant_dimension_with_eps_is_the_official_code(form: Form) -> None:
    z1, z2 = pair(10, 4)
    z1 = z1.detach().index_fill(1, torch.tensor(1), 0.1).requires_grad_()
    ours = with_gradients(barlow_twins(z1, z2, eps=1e-5, form=form), z1, z2)
    reference = with_gradients(official(z1, z2, 0.0051), z1, z2)
    assert ours[1][:, 1].abs().max() > 1
    for mine, theirs in zip(ours, reference, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@each_form
def test_float32_is_float64_to_rounding(form: Form) -> None:
    z1, z2 = pair(64, 48)
    exact = with_gradients(barlow_twins(z1, z2, form=form), z1, z2)
    f1, f2 = (z.detach().float().requires_grad_() for z in (z1, z2))
    single = with_gradients(barlow_twins(f1, f2, form=form), f1, f2)
    for mine, theirs in zip(single, exact, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=3e-6 * float(theirs.abs().max()))


@each_form
def test_invariances(form: Form) -> None:
    z1, z2 = (z.detach() for z in pair(12, 7))
    loss = barlow_twins(z1, z2, form=form)
    scale, shift = torch.rand(7, dtype=torch.float64) + 0.1, torch.randn(7, dtype=torch.float64)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(barlow_twins(z1 * scale + shift, 5 * z2 - 3, form=form), loss)
    torch.testing.assert_close(barlow_twins(z2, z1, form=form), loss)
    torch.testing.assert_close(barlow_twins(z1[order], z2[order], form=form), loss)
    assert not torch.isclose(barlow_twins(z1[order], z2, form=form), loss)


@pytest.mark.parametrize("eps", [0.0, 0.5])
def test_identical_views_have_the_diagonal_of_biased_variance(eps: float) -> None:
    z = pair(4, 3)[0].detach()
    expected = 1 / (1 + eps / z.var(0, correction=0))
    torch.testing.assert_close(cross_correlation(z, z, eps=eps).diagonal(), expected)


def test_cross_correlation_is_numpys() -> None:
    z1, z2 = pair(9, 4, dtype=torch.float32)
    c_DD = cross_correlation(z1, z2)
    assert c_DD.dtype == torch.float32
    assert not c_DD.requires_grad
    both = torch.corrcoef(torch.cat([z1, z2], 1).detach().double().T)
    torch.testing.assert_close(c_DD.double(), both[:4, 4:], rtol=1e-5, atol=1e-6)


@each_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, -1e4 / 3, 1e30])
def test_a_constant_dimension_counts_as_uncorrelated(dtype: torch.dtype, value: float, form: Form) -> None:
    z1, z2 = pair(30, 4, dtype=dtype)
    others = [0, 1, 3]
    a, b = z1.detach()[:, others].requires_grad_(), z2.detach().requires_grad_()
    a_std, b_std = ((z - z.mean(0)) / z.std(0, correction=0) for z in (a, b))
    c = a_std.T @ b_std / 30
    on = c[range(3), others]
    reference = 1 + (1 - on).square().sum() + 0.1 * (c.square().sum() - on.square().sum())
    z1 = z1.detach().index_fill(1, torch.tensor(2), value).requires_grad_()
    ours = with_gradients(barlow_twins(z1, z2, 0.1, form=form), z1, z2)
    assert ours[1][:, 2].abs().max() == 0
    loss, grad_a, grad_b = with_gradients(reference, a, b)
    for mine, theirs in zip((ours[0], ours[1][:, others], ours[2]), (loss, grad_a, grad_b), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert cross_correlation(z1, z2)[2].abs().max() == 0


@each_form
def test_a_small_deviation_far_from_zero_is_not_taken_for_constant(form: Form) -> None:
    z1, z2 = (z.detach() for z in pair(200, 5))
    far1, far2 = ((z + 1e3).float() for z in (z1, z2))
    reference = equations(far1.double(), far2.double(), 0.0051)
    torch.testing.assert_close(barlow_twins(far1, far2, form=form).double(), reference, rtol=1e-4, atol=0)
    assert cross_correlation(far1, far2).diagonal().min() > 0.3


@each_form
@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_deviations_that_overflow_are_not_taken_for_none(eps: float, form: Form) -> None:
    """A run that explodes has no finite loss of D and no gradient of zero."""
    z1, z2 = (1e20 * z.detach() for z in pair(30, 4, dtype=torch.float32))
    z1.requires_grad_()
    loss = barlow_twins(z1, z2, form=form, eps=eps)
    loss.backward()
    assert z1.grad is not None
    assert loss.isnan()
    assert z1.grad.isnan().all()


@each_form
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_shows_in_the_loss(bad: float, form: Form) -> None:
    z1, z2 = pair(8, 3)
    z1 = z1.detach().index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(bad, dtype=torch.float64))
    assert barlow_twins(z1, z2, form=form).isnan()


@each_form
def test_autocast_and_half_precision_inputs_leave_the_loss_in_float32(form: Form) -> None:
    b1, b2 = pair(64, 96, dtype=torch.bfloat16)
    f1, f2 = (z.detach().float().requires_grad_() for z in (b1, b2))
    with torch.autocast("cpu", torch.bfloat16):
        loss = barlow_twins(b1, b2, form=form)
    exact = with_gradients(barlow_twins(f1, f2, form=form), f1, f2)
    half = with_gradients(loss, b1, b2)
    assert half[0].dtype == torch.float32
    assert half[0] == exact[0]
    for mine, theirs in zip(half[1:], exact[1:], strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine.float() - theirs).norm() < 5e-3 * theirs.norm()


@each_form
def test_a_gradient_scale_arrives_before_the_cast_to_float16(form: Form) -> None:
    z1, z2 = ((z * 1e3).detach().half().requires_grad_() for z in pair(64, 8))
    scale = 2.0**16
    (grad,) = torch.autograd.grad(barlow_twins(z1, z2, form=form) * scale, z1)
    f1, f2 = z1.detach().double().requires_grad_(), z2.detach().double()
    (exact,) = torch.autograd.grad(barlow_twins(f1, f2, form=form), f1)
    assert exact.abs().median() < 2**-24 * 300, "the case should underflow without the scale"
    torch.testing.assert_close(grad.double() / scale, exact, rtol=2e-3, atol=float(exact.abs().max()) * 1e-4)


@each_form
def test_without_gradient_there_is_no_graph_and_the_same_loss(form: Form) -> None:
    z1, z2 = pair(10, 6)
    with torch.no_grad():
        loss = barlow_twins(z1, z2, form=form)
    assert not loss.requires_grad
    assert loss == barlow_twins(z1, z2, form=form).detach()
    (grad,) = torch.autograd.grad(barlow_twins(z1, z2.detach(), form=form), z1)
    torch.testing.assert_close(grad, torch.autograd.grad(barlow_twins(z1, z2, form=form), z1)[0])


def test_errors() -> None:
    z = torch.randn(4, 3)
    for z1, z2, message in [
        (z, z[:3], "one shape"),
        (z[:, 0], z[:, 0], "one shape"),
        (z[:0], z[:0], "one shape"),
        (z.long(), z.long(), "floating point"),
    ]:
        with pytest.raises(ValueError, match=message):
            barlow_twins(z1, z2)
        with pytest.raises(ValueError, match=message):
            cross_correlation(z1, z2)
    with pytest.raises(ValueError, match="lambd"):
        barlow_twins(z, z, -1.0)
    with pytest.raises(ValueError, match="eps"):
        barlow_twins(z, z, eps=-1e-5)
    with pytest.raises(ValueError, match="form must be auto, correlation"):
        barlow_twins(z, z, form="grams")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("num_dims", "num_samples", "lambd", "floor", "tolerance"),
    [
        (8192, 2048, 0.0051, 123.5, 0.05),
        (8192, 256, 0.0051, 1122, 0.5),
        (8192, 32, 0.0051, 4695, 0.5),
        (16384, 2048, 0.0051, 565, 0.5),
        (2048, 256, 0.0051, 70.9, 0.05),
        (1024, 256, 1 / 128, 23.6, 0.05),
        (128, 128, 1 / 128, 0.008, 0.0005),
        (128, 129, 1 / 128, 0.0, 0.0),
        (16, 256, 0.0051, 0.0, 0.0),
    ],
)
def test_floor_of_known_cases(
    num_dims: int, num_samples: int, lambd: float, floor: float, tolerance: float
) -> None:
    assert abs(loss_floor(num_samples, num_dims, lambd) - floor) <= tolerance


@each_form
def test_the_floor_is_reached_and_never_passed(form: Form) -> None:
    num_samples, num_dims, lambd = 5, 9, 0.2
    floor = loss_floor(num_samples, num_dims, lambd)
    z1, z2 = pair(num_samples, num_dims)
    optimizer = torch.optim.LBFGS(
        [z1, z2], max_iter=2000, tolerance_grad=1e-12, tolerance_change=0, history_size=50
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = barlow_twins(z1, z2, lambd, form=form)
        assert loss.item() >= floor * (1 - 1e-12)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert barlow_twins(z1, z2, lambd, form=form).item() == pytest.approx(floor, rel=1e-6)


def test_the_floor_needs_samples_and_gives_up_beyond_its_proof() -> None:
    with pytest.raises(ValueError, match="1 samples"):
        loss_floor(1, 8, 0.1)
    assert loss_floor(4, 8, 1.5) == 0.0
