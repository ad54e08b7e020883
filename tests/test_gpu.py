"""Training on a GPU: each precision against float32, the scaler of fp16 across a resumption, NCCL.

The first thing to run on a machine that has one: `python -m pytest tests/test_gpu.py`. Without one these
tests skip; `test_bf16_on_a_cpu_is_close_to_float32` (test_train.py) is their twin on a CPU.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from barlow.objectives import Form, barlow_twins
from barlow.objectives.forms import FORMS
from commands import TINY, barlow, make_images, metrics

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


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
