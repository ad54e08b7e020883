"""Objectives on a GPU are those on a CPU: the first thing to run on a machine that has one; skips without."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from barlow.objectives.mixed_barlow_twins import mix_views
from objective_cases import CASES, Case, seeded

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("default"),  # see test_gpu.py
]


def with_gradients(case: Case, inputs: list[Tensor]) -> list[Tensor]:
    loss = case.loss(*inputs)
    return [loss.detach(), *torch.autograd.grad(loss, inputs[case.constants :])]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_gpu_computes_what_a_cpu_does(case: Case, dtype: torch.dtype) -> None:
    here = case.inputs(dtype=dtype)
    there = [z.detach().cuda().requires_grad_() for z in here]
    expected = with_gradients(case, here)
    with torch.autocast("cuda", torch.bfloat16):
        computed = with_gradients(case, there)
    # The arithmetic is that of float32 at least; only gradients are rounded to the dtype of the embeddings.
    for place, (mine, theirs) in enumerate(zip(computed, expected, strict=True)):
        assert mine.is_cuda
        assert mine.dtype == theirs.dtype
        precision = theirs.dtype if place else torch.promote_types(theirs.dtype, torch.float32)
        scale = float(theirs.abs().max())
        tolerance = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 1e-2}[precision]
        torch.testing.assert_close(mine.cpu(), theirs, rtol=0, atol=tolerance * scale)


def test_images_are_mixed_on_the_gpu_by_the_draws_of_a_cpu() -> None:
    images = [torch.randn(9, 3, 8, 8, generator=seeded(i)) for i in range(2)]
    expected, mixture = mix_views(*images, generator=seeded())
    mixed, same = mix_views(*(y.cuda() for y in images), generator=seeded())
    torch.testing.assert_close(mixed.cpu(), expected)
    assert same.alpha == mixture.alpha
    assert torch.equal(same.order_N, mixture.order_N)
