"""What the loader hands over when a device stage does the rest: the same draws, the same pixels, row by
row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from barlow import _native
from barlow.data import Batch, DataError, Index, Loader, View, apply, decode, draw, pack, views
from photos import NUM_IMAGES, loader, passes, write_folder, write_tar

NAMES = ["", "flip", "brightness", "contrast", "saturation", "hue", "grayscale", "blur", "solarize"]
MANY = views.parse(
    "crop 24 area 0.2..1 bicubic | blur 0..3 p 0.5 | solarize 90 p 0.5 | jitter brightness 0.4 p 0.7"
    "| flip p 0.5 | jitter brightness 0.9 contrast 0.9 saturation 0..3 hue 0.5 p 1 | blur 0.1..9 p 0.5"
    "| grey p 0.3; resize 30 centre 20 bilinear"
)
"""Operations in an unusual order, two of a kind among them, and a view without any."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index.scan(write_folder(tmp_path_factory.mktemp("photos")))


def folder_in(root: Path) -> Path:
    (root / "images").mkdir()
    return write_folder(root / "images")


def batches(photos: Index, hand_over: str, **settings: Any) -> list[Batch]:
    with loader(photos, **{"drop_last": False, "views": MANY, **settings}, hand_over=hand_over) as opened:
        return list(opened)


def drawn(photos: Index, batch: Batch, row: int, view: View, number: int, seed: int = 5) -> dict[str, Any]:
    """The parameters, by the function that the CPU path draws with."""
    sample = int(batch.ids[row])
    height, width = photos.shape(sample)
    return dict(draw(view, seed, batch.epoch, sample, number, width, height))


def as_step(row: Sequence[float]) -> tuple[str] | tuple[str, float]:
    """A code and a value as `apply` takes them."""
    name, value = NAMES[int(row[0])], float(row[1])
    if name in ("flip", "grayscale"):
        return (name,)
    return name, value / 255 if name == "hue" else value


def test_crops_and_steps_give_the_views_of_the_cpu_path(photos: Index) -> None:
    finished, crops = batches(photos, "views"), batches(photos, "crops")
    assert [len(batch.ids) for batch in crops] == [8, 8, 8, 8, 8, 6]
    taken = set()
    for whole, part in zip(finished, crops, strict=True):
        assert torch.equal(whole.ids, part.ids)
        assert torch.equal(whole.labels, part.labels)
        assert [tuple(steps.shape) for steps in part.steps] == [(len(part.ids), 13, 2), (len(part.ids), 0, 2)]
        for number, view in enumerate(MANY):
            for row in range(len(part.ids)):
                parameters = drawn(photos, part, row, view, number)
                cut = (*parameters["window"], *parameters["resized"], *parameters["offset"])
                assert tuple(part.cuts[number][row].tolist()) == cut
                steps = [as_step(step) for step in part.steps[number][row].tolist() if step[0] > 0]
                assert [step[0] for step in steps] == [step[0] for step in parameters["operations"]]
                taken |= {step[0] for step in steps}
                square: Any = {**parameters, "operations": []}
                crop = apply(decode(photos.read(int(part.ids[row]))), square)
                assert np.array_equal(part.views[number][row], crop)
                # The rest of the work, done from what was handed over alone, on the crop as it is.
                size = view.size
                rest: Any = {
                    **square, "window": (0, 0, size, size), "resized": (size, size), "offset": (0, 0),
                    "operations": steps,
                }  # fmt: skip
                planar = part.views[number][row].permute(1, 2, 0).contiguous().numpy()
                assert np.array_equal(apply(planar, rest), whole.views[number][row])
    assert taken == set(NAMES[1:])


def test_columns_belong_to_operations_in_the_order_stated(photos: Index) -> None:
    allowed = [{7}, {8}, *[{2}] * 4, {1}, *[{2, 3, 4, 5}] * 4, {7}, {6}]
    for batch in batches(photos, "crops"):
        for column, codes in enumerate(allowed):
            assert set(batch.steps[0][:, column, 0].tolist()) <= {0.0, *map(float, codes)}


def test_encoded_images_come_with_the_windows_of_the_cpu_path(photos: Index) -> None:
    with (
        loader(photos, views=MANY, hand_over="encoded", batch_size=23) as encoded,
        loader(photos, views=MANY, hand_over="crops", batch_size=23) as crops,
    ):
        for epoch in range(2):
            for ours, theirs in zip(list(encoded), list(crops), strict=True):
                assert (ours.views, ours.epoch) == ([], epoch)
                assert torch.equal(ours.ids, theirs.ids)
                for mine, other in zip((*ours.cuts, *ours.steps), (*theirs.cuts, *theirs.steps), strict=True):
                    assert torch.equal(mine, other)
                files = [file.tobytes() for file in ours.encoded]
                assert files == [photos.read(sample) for sample in ours.ids.tolist()]


def test_members_come_with_encoded_images(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    for path in list(folder.rglob("*.jpg")):
        path.with_suffix(".txt").write_text(path.name)
    with loader(folder, hand_over="encoded", members=("txt",)) as opened:
        for batch in opened:
            for sample, text, file in zip(
                batch.ids.tolist(), batch.members["txt"], batch.encoded, strict=True
            ):
                name = Path(opened.index.name(sample))
                assert text == (name.name.encode() if name.suffix == ".jpg" else None)
                assert file.tobytes() == opened.index.read(sample)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Three images whose headers are whole and whose pixels are not, unknown to the index."""
    root = tmp_path_factory.mktemp("broken")
    folder = write_folder(root)
    for number, path in enumerate(sorted(folder.rglob("*.jpg"))):
        if number in (3, 9, 20):
            path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    return Index.scan(write_tar(folder, root / "photos.tar"))


@pytest.mark.parametrize("hand_over", ["crops", "encoded"])
def test_damaged_images_are_replaced_as_on_the_cpu_path(broken: Index, hand_over: str) -> None:
    """Also those that are to be decoded elsewhere: nobody has proven them, so they are decoded here."""
    settings = {"on_error": "replace", "max_replaced": 0.2, "drop_last": False}
    with loader(broken, **settings) as whole, loader(broken, **settings, hand_over=hand_over) as part:
        for mine, theirs in zip(passes(whole, 2), passes(part, 2), strict=True):
            assert [batch.ids.tolist() for batch in mine] == [batch.ids.tolist() for batch in theirs]
        assert [sample for sample, _ in part.damaged] == [sample for sample, _ in whole.damaged]
        assert len(part.damaged) == 3
        assert part.stats().replaced == whole.stats().replaced == 6


def test_packed_images_are_proven_and_not_decoded_again(tmp_path: Path) -> None:
    pack(folder_in(tmp_path), tmp_path / "shards")
    for source, decoded in (("shards", False), ("images", True)):
        with loader(tmp_path / source, hand_over="encoded", on_error="replace", threads=1) as opened:
            assert sum(len(batch.ids) for batch in opened) == 40
            assert (opened.stats().stages["decode"].bytes > 0) == decoded


def test_a_file_that_changed_fails_before_anybody_decodes_it(tmp_path: Path) -> None:
    archive = write_tar(folder_in(tmp_path), tmp_path / "photos.tar")
    index = Index.scan(archive)
    name, offset, size = max(_native.members(archive), key=lambda member: member[2])
    with archive.open("r+b") as file:
        file.seek(offset + size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 0x40]))
    with loader(index, hand_over="encoded", batch_size=NUM_IMAGES) as opened:
        with pytest.raises(DataError) as caught:
            list(opened)
        assert (caught.value.kind, caught.value.member) == ("checksum", name.decode())


def test_what_cannot_be_handed_over_is_refused(photos: Index) -> None:
    with pytest.raises(ValueError, match=r"hand_over must be one of .*'crops', 'encoded'.*, not 'files'"):
        Loader(photos, views=MANY, batch_size=8, hand_over="files")  # pyright: ignore[reportArgumentType]


def test_kernels_are_one_pass_of_the_blur() -> None:
    """Three passes over an impulse far from the border, both ways: what `apply` gives, but for its
    rounding."""
    sigmas = np.array([0.0, 0.4, 1.0, 2.0], np.float32)
    kernels = _native.blur_kernels(sigmas, 7)
    assert kernels.shape == (4, 7)
    image = np.zeros((31, 31, 3), np.uint8)
    image[15, 15] = 255
    place: Any = {"window": (0, 0, 31, 31), "resized": (31, 31), "offset": (0, 0), "size": 31}
    for sigma, kernel in zip(sigmas.tolist(), kernels, strict=True):
        thrice = np.convolve(np.convolve(kernel, kernel), kernel)
        expected = np.zeros((31, 31))
        expected[6:25, 6:25] = 255 * np.outer(thrice, thrice)
        parameters: Any = {**place, "interpolation": "bicubic", "operations": [("blur", sigma)]}
        found = apply(image, parameters)[0]
        assert np.abs(found - expected).max() < 3
        assert kernel.sum() == pytest.approx(1, abs=1e-6)
    with pytest.raises(ValueError, match="a blur of 2 pixels does not fit 3 weights"):
        _native.blur_kernels(sigmas, 3)
