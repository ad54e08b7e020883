"""The device stage on a GPU: its floats against the CPU path's, memory that is used again, no waiting.

Written without a GPU at hand; the tolerances are those of docs/dali.md. tests/test_dali_stage.py is its
twin on the CPU backend.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from barlow.config import IMAGENET_MEAN, IMAGENET_STD
from barlow.data import Index, staged, to_float, views
from barlow.data.dali.installed import missing
from photos import loader, write_folder
from test_dali_stage import ALONE, check_squares, levels
from test_hand_over import MANY

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.filterwarnings("default"),  # see test_gpu.py
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index.scan(write_folder(tmp_path_factory.mktemp("photos")))


def difference(source: Index, hand_over: str, recipe: list[views.View], **settings: Any) -> list[Tensor]:
    """For each view how far levels are from the CPU path's."""
    settings = {"views": recipe, "shrink_on_load": False, "batch_size": 23, **settings}
    norms: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    found: list[list[Tensor]] = [[] for _ in recipe]
    made = loader(source, hand_over=hand_over, pin_memory=True, **settings)
    with staged(made, **norms, device="cuda") as batches, loader(source, **settings) as reference:
        for batch, other in zip(batches, reference, strict=True):
            assert torch.equal(batch.ids, other.ids)
            for number, (mine, bytes_) in enumerate(zip(batch.views, other.views, strict=True)):
                assert mine.is_cuda
                assert mine.is_contiguous(memory_format=torch.channels_last)
                (theirs,) = to_float([bytes_], **norms)
                found[number].append((levels(mine.cpu()) - levels(theirs)).abs().flatten())
    return [torch.cat(of_view) for of_view in found]


def test_each_operation_alone_is_within_its_tolerance(photos: Index) -> None:
    """A GPU may contract a product and a sum to one rounding: a level now and then, before anything
    amplifies it."""
    recipe = views.parse("\n".join(f"crop 32 area 0.2..1 bicubic | {step}" for step in ALONE))
    for step, found in zip(ALONE, difference(photos, "crops", recipe), strict=True):
        assert found.max() < (7 if "hue" in step else 1.01), step
        assert (found > 0.01).double().mean() < 0.01, step


def test_whole_recipes_are_close(photos: Index) -> None:
    for found in difference(photos, "crops", [*views.barlow_twins(size=24), *MANY]):
        assert (found > 1.01).double().mean() < 0.01


def test_squares_that_nvjpeg_decodes_are_close(photos: Index, tmp_path: Path) -> None:
    recipe = views.parse("crop 48 area 0.08..1 bicubic; resize 40 centre 32 bilinear")
    for found in difference(photos, "encoded", recipe):
        check_squares(found.sort().values)


def test_memory_is_not_used_again_while_it_is_read(photos: Index) -> None:
    """Many batches without waiting for any: each must hold its own images in the end."""
    settings: dict[str, Any] = {"views": views.mae(96), "batch_size": 46, "epochs": 60, "prefetch": 2}
    norms: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    sums = []
    made = loader(photos, hand_over="crops", pin_memory=True, **settings)
    with staged(made, **norms, device="cuda") as batches:
        for _ in range(60):
            sums += [batch.views[0].double().sum((1, 2, 3)) for batch in batches]
    with loader(photos, **settings) as reference:
        for found in sums:
            (batch,) = reference
            (theirs,) = to_float(batch.views, **norms)
            torch.testing.assert_close(found.cpu(), theirs.double().sum((1, 2, 3)), rtol=1e-4, atol=1e-2)


def test_the_host_does_not_wait_for_the_gpu(photos: Index) -> None:
    made = loader(photos, hand_over="crops", pin_memory=True, epochs=3)
    with staged(made, mean=IMAGENET_MEAN, std=IMAGENET_STD, device="cuda") as batches:
        list(batches)
        torch.cuda.set_sync_debug_mode("error")
        try:
            list(batches)
        finally:
            torch.cuda.set_sync_debug_mode("default")
