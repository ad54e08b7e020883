"""The evaluation view, views that cannot work, and the device stage against the formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from barlow.config import IMAGENET_MEAN, IMAGENET_STD
from barlow.data import draw, normalise, to_float, views


def test_evaluation_is_the_same_every_time() -> None:
    (view,) = views.evaluation(size=224, resize=256)
    drawn = [draw(view, seed, epoch, 3, 0, 500, 375) for seed in (0, 1) for epoch in (0, 1)]
    assert all(one == drawn[0] for one in drawn)
    assert drawn[0]["operations"] == []
    # torchvision: Resize(256) gives 341 x 256, CenterCrop(224) starts at round((341 - 224) / 2) and 16.
    assert drawn[0]["resized"] == (341, 256)
    assert drawn[0]["offset"] == (58, 16)


@pytest.mark.parametrize(
    "view",
    [
        views.View(views.RandomResizedCrop(0)),
        views.View(views.RandomResizedCrop(32, interpolation="nearest")),  # pyright: ignore[reportArgumentType]
        views.View(views.RandomResizedCrop(32), (views.Flip(p=1.5),)),
        views.View(views.RandomResizedCrop(32), (views.ColorJitter(hue=0.7),)),
        views.View(views.RandomResizedCrop(32), (views.GaussianBlur(sigma=(2.0, 0.1)),)),
        views.View(views.RandomResizedCrop(32), (views.Solarize(threshold=256),)),
    ],
)
def test_settings_that_cannot_work_are_refused(view: views.View) -> None:
    with pytest.raises(ValueError, match=r"size|interpolation|probability|p |hue|sigma|threshold|blur|flip"):
        draw(view, 0, 0, 0, 0, 64, 64)


def test_normalise_is_the_formula() -> None:
    rng = np.random.default_rng(0)
    view = rng.integers(0, 256, (5, 3, 7, 9), dtype=np.uint8)
    mean, std = (np.array(x).reshape(1, 3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    expected = (view / 255 - mean) / std
    for dtype, tolerance in [(torch.float32, 1e-6), (torch.bfloat16, 2**-8), (torch.float16, 2**-10)]:
        found = normalise(torch.from_numpy(view), IMAGENET_MEAN, IMAGENET_STD, dtype=dtype)
        assert found.dtype == dtype
        assert found.is_contiguous(memory_format=torch.channels_last)
        np.testing.assert_allclose(found.double().numpy(), expected, rtol=tolerance, atol=1e-6)


def test_to_float_takes_every_view_and_leaves_the_bytes() -> None:
    bytes_ = [torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8) for size in (8, 6)]
    before = [view.clone() for view in bytes_]
    found = to_float(bytes_, IMAGENET_MEAN, IMAGENET_STD)
    for view, copy, result in zip(bytes_, before, found, strict=True):
        assert torch.equal(view, copy)
        assert torch.equal(result, normalise(copy, IMAGENET_MEAN, IMAGENET_STD))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_gives_the_same_numbers() -> None:
    view = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8).pin_memory()
    (found,) = to_float([view], IMAGENET_MEAN, IMAGENET_STD, device="cuda")
    assert found.is_cuda
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.cpu(), normalise(view, IMAGENET_MEAN, IMAGENET_STD), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "view", [torch.zeros(2, 3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(2, 1, 4, 4).byte()]
)
def test_normalise_refuses_what_is_no_view(view: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="uint8"):
        normalise(view, IMAGENET_MEAN, IMAGENET_STD)
