"""Large JPEGs decoded at a fraction of their size, and only as far down as the views reach.

The reference is Pillow: `draft` for the decode, `resize` with a `box` for the crop.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import plain_pixels
from barlow.data import Index, Loader, decode, draw, pack, views

WIDTH, HEIGHT = 1501, 1203
SIZE = 96


def _photo(seed: int) -> bytes:
    """A JPEG with structure at every scale: noise of many sizes, enlarged and added up."""
    rng = np.random.default_rng(seed)
    total = np.zeros((HEIGHT, WIDTH, 3))
    for cells in (4, 16, 64, 256):
        noise = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        layer = Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        total += np.asarray(layer, dtype=np.float64) / 4
    out = io.BytesIO()
    Image.fromarray(total.astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    """A packed data set of large images, and their bytes in the order of ids."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "in").mkdir()
    data = [_photo(seed) for seed in range(3)]
    for i, photo in enumerate(data):
        (folder / "in" / f"{i}.jpg").write_bytes(photo)
    pack(folder / "in", folder / "shards")
    return folder / "shards", data


@pytest.mark.parametrize("shrink", [2, 4, 8])
def test_decoding_at_a_fraction_is_pillows_draft(shrink: int) -> None:
    data = _photo(7)
    assert np.array_equal(decode(data, shrink=shrink), np.asarray(plain_pixels.draft(data, shrink)))


@pytest.mark.parametrize("shrink", [0, 3, 16])
def test_other_fractions_are_refused(shrink: int) -> None:
    with pytest.raises(ValueError, match="1, 2, 4 or 8"):
        decode(_photo(7), shrink=shrink)


def _crop(scale: tuple[float, float]) -> list[views.View]:
    return [views.View(views.RandomResizedCrop(SIZE, scale=scale))]


def _loaded(source: Path, recipe: list[views.View], *, shrink_on_load: bool) -> dict[int, NDArray[np.uint8]]:
    with Loader(
        source, views=recipe, batch_size=3, seed=5, epochs=1, shrink_on_load=shrink_on_load
    ) as loader:
        batches = list(loader)
    return {
        int(i): view.numpy() for batch in batches for i, view in zip(batch.ids, batch.views[0], strict=True)
    }


@pytest.mark.parametrize(("scale", "shrink"), [((0.9, 1.0), 8), ((0.2, 0.22), 4), ((0.05, 0.06), 2)])
def test_views_are_cut_from_the_smallest_image_that_has_their_pixels(
    photos: tuple[Path, list[bytes]], scale: tuple[float, float], shrink: int
) -> None:
    source, data = photos
    recipe = _crop(scale)
    found = _loaded(source, recipe, shrink_on_load=True)
    for i, photo in enumerate(data):
        parameters = draw(recipe[0], 5, 0, i, 0, WIDTH, HEIGHT)
        x, y, width, height = parameters["window"]
        # The smallest that is never enlarged, by the definition.
        enough = [by for by in (1, 2, 4, 8) if min(width, height) >= by * SIZE]
        assert max(enough) == shrink
        expected = plain_pixels.drafted_cut(photo, parameters, shrink)
        difference = np.abs(found[i].transpose(1, 2, 0).astype(int) - np.asarray(expected))
        # Older Pillows fix the order of the two passes: see plain_pixels.py.
        assert difference.max() == 0 or (not plain_pixels.SAME_PASS_ORDER and difference.mean() < 1)
        # And it is close to what the whole image gives; the frequencies that differ are above the view's.
        full = Image.open(io.BytesIO(photo)).crop((x, y, x + width, y + height))
        full = np.asarray(full.resize((SIZE, SIZE), Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(found[i].transpose(1, 2, 0) - full).mean() < 4


def test_whole_images_on_request_and_for_small_crops(photos: tuple[Path, list[bytes]]) -> None:
    source, data = photos
    for scale, shrink_on_load in (((0.9, 1.0), False), ((0.01, 0.012), True)):
        recipe = _crop(scale)
        found = _loaded(source, recipe, shrink_on_load=shrink_on_load)
        for i, photo in enumerate(data):
            x, y, width, height = draw(recipe[0], 5, 0, i, 0, WIDTH, HEIGHT)["window"]
            image = Image.open(io.BytesIO(photo)).crop((x, y, x + width, y + height))
            expected = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
            assert np.array_equal(found[i].transpose(1, 2, 0), expected)


def test_all_views_of_an_image_have_their_pixels(photos: tuple[Path, list[bytes]]) -> None:
    """One decode serves all: a small crop beside a large one keeps the whole image."""
    source, data = photos
    recipe = [*_crop((0.9, 1.0)), *_crop((0.01, 0.012))]
    with Loader(source, views=recipe, batch_size=3, seed=5, epochs=1) as loader:
        (batch,) = loader
    for row, i in enumerate(batch.ids.tolist()):
        x, y, width, height = draw(recipe[0], 5, 0, i, 0, WIDTH, HEIGHT)["window"]
        image = Image.open(io.BytesIO(data[i])).crop((x, y, x + width, y + height))
        expected = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        assert np.array_equal(batch.views[0][row].numpy().transpose(1, 2, 0), expected)


def test_damage_below_the_views_is_seen_where_nobody_has_looked_yet(tmp_path: Path) -> None:
    """`pack` decodes everything; an index of loose files has only seen headers."""
    photo = _photo(1)
    (tmp_path / "a.jpg").write_bytes(photo[: len(photo) * 3 // 4])
    recipe = [views.View(views.RandomResizedCrop(SIZE, scale=(0.001, 0.002)))]
    index = Index.scan(tmp_path)
    seen = 0
    for seed in range(8):
        _, y, _, height = draw(recipe[0], seed, 0, 0, 0, WIDTH, HEIGHT)["window"]
        seen += y + height < HEIGHT // 2
        with (
            Loader(index, views=recipe, batch_size=1, seed=seed, epochs=1) as loader,
            pytest.raises(ValueError, match=r"a\.jpg.*damaged"),
        ):
            next(iter(loader))
    assert seen > 0
