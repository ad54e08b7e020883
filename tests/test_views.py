"""The recipes against the paper's table, and the device stage against the formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from barlow.config import IMAGENET_MEAN, IMAGENET_STD
from barlow.data import draw, normalise, to_float, views

NUM_DRAWS = 4000


def frequencies(view: views.View) -> dict[str, float]:
    """How often each operation is drawn, over samples."""
    counts: dict[str, int] = {}
    for sample in range(NUM_DRAWS):
        for name, *_ in draw(view, 1, 0, sample, 0, 64, 48)["operations"]:
            counts[name] = counts.get(name, 0) + 1
    return {name: count / NUM_DRAWS for name, count in counts.items()}


# Zbontar et al. 2021, section 2.1 and appendix A (probabilities as in BYOL, table 6).
TABLE = {
    "flip": (0.5, 0.5),
    "brightness": (0.8, 0.8),
    "contrast": (0.8, 0.8),
    "saturation": (0.8, 0.8),
    "hue": (0.8, 0.8),
    "grayscale": (0.2, 0.2),
    "blur": (1.0, 0.1),
    "solarize": (0.0, 0.2),
}


@pytest.mark.parametrize("blur", [True, False])
@pytest.mark.parametrize("which", [0, 1])
def test_probabilities_are_the_paper_s(which: int, blur: bool) -> None:
    found = frequencies(views.barlow_twins(blur=blur)[which])
    for name, both in TABLE.items():
        p = both[which] if blur or name != "blur" else 0.0
        # Five standard deviations; exact at 0 and 1.
        assert abs(found.get(name, 0.0) - p) <= 5 * math.sqrt(p * (1 - p) / NUM_DRAWS), name
    assert found.keys() <= TABLE.keys()


@pytest.mark.parametrize("view", views.barlow_twins())
def test_ranges_are_the_paper_s(view: views.View) -> None:
    ranges = {"brightness": (0.6, 1.4), "contrast": (0.6, 1.4), "saturation": (0.8, 1.2), "hue": (-0.1, 0.1)}
    ranges["blur"] = (0.1, 2.0)
    seen: dict[str, list[float]] = {name: [] for name in ranges}
    for sample in range(NUM_DRAWS):
        drawn = draw(view, 1, 0, sample, 0, 500, 375)
        assert (drawn["size"], drawn["interpolation"]) == (224, "bicubic")
        for name, *values in drawn["operations"]:
            if name in seen:
                seen[name] += [float(value) for value in values]
            elif name == "solarize":
                assert values == [128]
    for name, (low, high) in ranges.items():
        # Within the range, and close to both ends of it (the extreme of n >= 300 uniform draws).
        assert low <= min(seen[name]) <= low + 0.05 * (high - low), name
        assert high >= max(seen[name]) >= high - 0.05 * (high - low), name


def test_evaluation_is_the_same_every_time() -> None:
    (view,) = views.evaluation(size=224, resize=256)
    drawn = [draw(view, seed, epoch, 3, 0, 500, 375) for seed in (0, 1) for epoch in (0, 1)]
    assert all(one == drawn[0] for one in drawn)
    assert drawn[0]["operations"] == []
    # torchvision: Resize(256) gives 341 x 256, CenterCrop(224) starts at round((341 - 224) / 2) and 16.
    assert drawn[0]["resized"] == (341, 256)
    assert drawn[0]["offset"] == (58, 16)


def test_the_linear_probe_crops_and_flips_only() -> None:
    (view,) = views.linear_probe(size=32)
    assert set(frequencies(view)) == {"flip"}
    assert draw(view, 0, 0, 0, 0, 64, 64)["interpolation"] == "bilinear"


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
