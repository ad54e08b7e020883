"""The device stage by DALI on its CPU backend: image by image the floats of the CPU path.

It needs `barlow[dali]`. tests/test_gpu_dali.py is its twin on a GPU; docs/dali.md has the tolerances as a
table.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from barlow.config import IMAGENET_MEAN, IMAGENET_STD
from barlow.data import Batch, DataError, Index, Loader, StagedLoader, View, staged, to_float, views
from barlow.data.choice import fastest
from barlow.data.dali.installed import missing
from barlow.data.staged import endless
from photos import NUM_IMAGES, loader, num_threads, photo, write_folder, write_tar
from test_hand_over import MANY, as_step

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

CPU = torch.device("cpu")
ALONE = [
    "flip p 1", "jitter brightness 0..2 p 1", "jitter contrast 0..2 p 1", "jitter saturation 0..2 p 1",
    "jitter hue 0.5 p 1", "grey p 1", "blur 0.1..2 p 1", "blur 0..9 p 1", "solarize 0 p 1",
    "solarize 128 p 1", "solarize 255 p 1",
]  # fmt: skip
"""Each operation by itself, over its whole range."""


def norms(dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    return {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "dtype": dtype}


def dali(source: Path | Index, hand_over: str = "crops", **settings: Any) -> StagedLoader:
    dtype = settings.pop("dtype", torch.float32)
    made = staged(loader(source, hand_over=hand_over, **settings), **norms(dtype), threads=2)
    assert isinstance(made, StagedLoader)
    return made


def plain(source: Path | Index, dtype: torch.dtype = torch.float32, **settings: Any) -> Iterator[Batch]:
    """The batches of the CPU path, views as floats."""
    with loader(source, **settings) as batches:
        for batch in endless(batches):
            floats = to_float(batch.views, **norms(dtype))
            yield Batch(floats, batch.labels, batch.ids, batch.epoch, batch.step)


def assert_same(ours: Batch, theirs: Batch) -> None:
    assert (ours.epoch, ours.step) == (theirs.epoch, theirs.step)
    assert torch.equal(ours.ids, theirs.ids)
    assert torch.equal(ours.labels, theirs.labels)
    assert len(ours.views) == len(theirs.views)
    for number, (mine, other) in enumerate(zip(ours.views, theirs.views, strict=True)):
        assert mine.dtype == other.dtype
        assert mine.shape == other.shape
        assert mine.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(mine, other), f"view {number} differs by {(mine - other).abs().max()}"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index.scan(write_folder(tmp_path_factory.mktemp("photos")))


def test_each_operation_alone_gives_the_bits_of_the_cpu_path(photos: Index) -> None:
    recipe = views.parse("\n".join(f"crop 32 area 0.2..1 bicubic | {step}" for step in ALONE))
    settings = {"views": recipe, "batch_size": 23}
    expected = plain(photos, **settings)
    with dali(photos, **settings) as batches:
        for batch in batches:
            assert_same(batch, next(expected))


def test_every_order_of_a_jitter_and_every_type_gives_them(photos: Index) -> None:
    """In one batch samples take the same steps in different orders; a table rounds as `normalise` does."""
    recipe = [*views.barlow_twins(size=24), *MANY]
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        settings = {"views": recipe, "batch_size": 16, "drop_last": False, "dtype": dtype}
        expected = plain(photos, **settings)
        with dali(photos, **settings) as batches:
            for batch in batches:
                assert_same(batch, next(expected))
    with loader(photos, views=recipe, batch_size=46, hand_over="crops") as crops:
        orders = {tuple(row) for row in next(iter(crops)).steps[0][:, 1:5, 0].tolist()}
    assert len(orders) > 10


def test_memory_is_lent_to_dali_not_copied(photos: Index) -> None:
    """What is written after `feed_input` and before the run is what the run sees."""
    from barlow.data.dali.graph import Plan, pipeline

    plan = Plan(tuple(views.mae(24)), IMAGENET_MEAN, IMAGENET_STD, torch.float32, None, decodes=False)
    graph = pipeline(plan, batch_size=2, threads=1, depth=1)
    graph.build()
    crops = torch.zeros((2, 3, 24, 24), dtype=torch.uint8)
    graph.feed_input("crop0", crops.numpy())
    graph.feed_input("codes0", np.zeros((2, 1), np.int32))
    crops.fill_(255)
    graph.schedule_run()
    (found,) = graph.share_outputs()
    made = found.as_tensor()
    x = torch.from_dlpack(made)
    assert x.data_ptr() == made.data_ptr()
    assert torch.equal(x.permute(0, 3, 1, 2), to_float([crops], IMAGENET_MEAN, IMAGENET_STD)[0])


def test_images_are_decoded_whole_and_once() -> None:
    """By the graph as DALI has it: no decoder of regions, which crashes on some GPUs, for any number of
    views."""
    from barlow.data.dali.graph import Plan, pipeline

    recipe = tuple(views.dino(local_crops=2, size=32, local_size=24))
    plan = Plan(recipe, IMAGENET_MEAN, IMAGENET_STD, torch.float32, None, decodes=True)
    graph = pipeline(plan, batch_size=2, threads=1, depth=1)
    decoders = re.findall(rb"decoders__\w+|\w*ImageDecoder\w*|\w*Random\w*", graph.serialize())
    assert set(decoders) == {b"decoders__Image"}
    assert graph.serialize().count(b"decoders__Image") == len(decoders)
    assert len(decoders) == 1


def levels(x: Tensor) -> Tensor:
    """Normalised floats as levels of 0 to 255 again."""
    mean, std = (
        torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return (x.double() * std + mean) * 255


def differences(source: Path | Index, recipe: Sequence[View], batches: int, **settings: Any) -> Tensor:
    """How far DALI's decoded and resized squares are from ours, in levels, sorted."""
    settings = {"views": recipe, "shrink_on_load": False, **settings}
    expected = plain(source, **settings)
    found = []
    with dali(source, "encoded", **settings) as ours:
        for batch, other in zip(islice(ours, batches), expected, strict=False):
            assert torch.equal(batch.ids, other.ids)
            found += [
                (levels(mine) - levels(theirs)).abs().flatten()
                for mine, theirs in zip(batch.views, other.views, strict=True)
            ]
    return torch.cat(found).sort().values


def check_squares(found: Tensor) -> None:
    """The tolerance of "dali_decode" in docs/dali.md."""
    assert found.mean() < 0.3
    assert found[int(0.999 * len(found))] < 2.5
    assert found[-1] < 24


def test_dali_decodes_to_the_same_pixels(tmp_path: Path) -> None:
    """A square that needs no resize is what was decoded."""
    image = photo(3, 64, 64)
    image.save(tmp_path / "a.jpg", subsampling="4:2:0")
    image.save(tmp_path / "b.jpg", subsampling="4:4:4", progressive=True)
    image.convert("L").save(tmp_path / "c.jpg")
    image.save(tmp_path / "d.png")
    image.convert("P").save(tmp_path / "e.png")
    image.save(tmp_path / "f.webp", lossless=True)
    image.save(tmp_path / "g.webp", quality=60)
    recipe = views.parse("resize 64 centre 64 bilinear")
    found = differences(tmp_path, recipe, 1, batch_size=7, shuffle=False)
    assert found[-1] < 0.01


CROPS = "crop 48 area 0.08..1 bicubic; crop 32 area 0.3..1 bilinear; resize 40 centre 32 bilinear"


def test_squares_that_dali_decodes_and_resizes_are_close(tmp_path: Path) -> None:
    for number in range(8):
        photo(number, 120 + 7 * number, 200 - 9 * number).save(
            tmp_path / f"{number}.{['jpg', 'png', 'webp'][number % 3]}", quality=92
        )
    check_squares(differences(tmp_path, views.parse(CROPS), 1))


def test_squares_of_real_images_are_close(shared_data: Path) -> None:
    index = Index.scan(shared_data / "imagenet-sample.tar").subset(range(0, 1000, 21))
    recipe = views.parse("crop 224 area 0.08..1 bicubic; resize 256 centre 224 bilinear")
    check_squares(differences(index, recipe, 3, batch_size=16))


def test_real_images_give_the_bits_of_the_cpu_path(shared_data: Path) -> None:
    index = Index.scan(shared_data / "imagenet-sample.tar").subset(range(0, 1000, 40))
    settings = {"views": views.barlow_twins(size=160), "batch_size": 8}
    expected = plain(index, **settings)
    with dali(index, **settings) as batches:
        for batch in batches:
            assert_same(batch, next(expected))


def test_operations_after_dalis_decoding_are_the_same(photos: Index) -> None:
    """ "dali_decode" is its own square and then the steps drawn, by the kernels of the CPU path."""
    from barlow.data import apply

    squares = [View(view.crop) for view in MANY]
    with (
        dali(photos, "encoded", views=MANY) as whole,
        dali(photos, "encoded", views=squares) as bare,
        loader(photos, views=MANY, hand_over="encoded") as drawn,
    ):
        for done, square, batch in zip(whole, bare, drawn, strict=True):
            assert torch.equal(done.ids, square.ids)
            for number, view in enumerate(MANY):
                size = view.size
                for row in range(len(batch.ids)):
                    picture = levels(square.views[number][row : row + 1]).round().to(torch.uint8)[0]
                    parameters: Any = {
                        "window": (0, 0, size, size), "resized": (size, size), "offset": (0, 0), "size":
                        size, "interpolation": "bicubic", "operations": [as_step(step) for step in
                        batch.steps[number][row].tolist() if step[0] > 0],
                    }  # fmt: skip
                    expected = apply(picture.permute(1, 2, 0).contiguous().numpy(), parameters)
                    floats = to_float([torch.from_numpy(expected)[None]], **norms())[0]
                    assert torch.equal(done.views[number][row : row + 1], floats)


@pytest.mark.parametrize("hand_over", ["crops", "encoded"])
def test_position_and_order_are_those_of_the_loader(photos: Index, hand_over: str) -> None:
    """Two epochs with a short last batch, a break in the middle, a resumption from the state after it."""
    settings = {"drop_last": False, "epochs": 2, "views": views.mae(24)}
    with loader(photos, **settings) as reference:
        expected = [(batch.ids.tolist(), reference.state_dict()) for batch in endless(reference)]
    assert len(expected) == 12
    with dali(photos, hand_over, **settings) as batches:
        assert batches.state_dict() == {"epoch": 0, "step": 0}
        found = []
        for batch in batches:
            found.append((batch.ids.tolist(), batches.state_dict()))
            if len(found) == 3:
                break
        for batch in batches:
            found.append((batch.ids.tolist(), batches.state_dict()))
        assert (found, len(batches)) == (expected[:6], 6)
        state = batches.state_dict()
        assert batches.stats().images >= NUM_IMAGES
    with dali(photos, hand_over, **settings) as batches:
        batches.load_state_dict(state)
        found = [(batch.ids.tolist(), batches.state_dict()) for batch in endless(batches)]
        assert found == expected[6:]
        assert list(batches) == []
        batches.load_state_dict({"epoch": 1, "step": 4})
        assert [batch.ids.tolist() for batch in batches] == [ids for ids, _ in expected[10:]]


def test_a_ranks_empty_share_of_a_batch(photos: Index) -> None:
    with dali(
        photos.subset(range(9)), batch_size=8, rank=0, world_size=2, drop_last=False, epochs=2
    ) as batches:
        shapes = [[tuple(view.shape) for view in batch.views] for batch in endless(batches)]
    assert shapes == [[(4, 3, 24, 24)] * 2, [(0, 3, 24, 24)] * 2] * 2


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """One image in twenty whose header is whole and whose pixels are not, in the order of the files."""
    root = tmp_path_factory.mktemp("broken")
    folder = write_folder(root)
    path = sorted(folder.rglob("*.jpg"))[20]
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    return Index.scan(write_tar(folder, root / "photos.tar"))


@pytest.mark.parametrize("hand_over", ["crops", "encoded"])
def test_a_damaged_image_is_an_error_with_its_address_and_only_its_own(broken: Index, hand_over: str) -> None:
    """When it is the turn of its batch; the position stays; what comes after it can be had."""
    settings = {"batch_size": 4, "shuffle": False, "views": views.mae(24)}
    with loader(broken, **settings) as reference:
        with pytest.raises(DataError) as caught:
            list(reference)
        before = reference.state_dict()["step"]
    with dali(broken, hand_over, **settings) as batches:
        for _ in range(2):
            with pytest.raises(DataError) as ours:
                list(batches)
            assert batches.state_dict() == {"epoch": 0, "step": before}
            assert (ours.value.kind, ours.value.member) == (caught.value.kind, caught.value.member)
            assert str(ours.value) == str(caught.value)
        batches.load_state_dict({"epoch": 0, "step": before + 1})
        assert len(list(batches)) == len(batches) - before - 1


def test_replaced_images_come_through_dalis_decoder(broken: Index) -> None:
    with dali(broken, "encoded", on_error="replace", views=views.mae(24)) as batches:
        assert sum(len(batch.ids) for batch in batches) == 40
        assert len(batches.damaged) == 1


def test_an_interruption_anywhere_leaves_the_position(photos: Index) -> None:
    """A signal whose handler raises, for each batch at ever later moments: none is lost, none comes twice."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    settings = {"views": views.mae(24), "epochs": 2}
    with loader(photos, **settings) as reference:
        expected = [batch.ids.tolist() for batch in endless(reference)]

    def place(number: int) -> dict[str, int]:
        return dict(zip(("epoch", "step"), divmod(number, len(batches)), strict=True))

    found: list[list[int]] = []
    before = signal.signal(signal.SIGALRM, stop)
    try:
        with dali(photos, **settings) as batches:
            next(iter(batches))
            batches.load_state_dict({"epoch": 0, "step": 0})
            delay_s, interruptions = 3e-4, 0
            while len(found) < len(expected):
                try:
                    signal.setitimer(signal.ITIMER_REAL, delay_s)
                    # The position moves with the batch: what was not handed over comes again.
                    for batch in batches:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                        found.append(batch.ids.tolist())
                        delay_s = 3e-4
                        break
                except KeyboardInterrupt:
                    interruptions += 1
                    if batches.state_dict() != place(len(found)):
                        found.append(expected[len(found)])  # it came between the batch and us
                    delay_s *= 2
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert found == expected
    assert interruptions > 2
    assert num_threads() == 0


def test_threads_end_with_the_last_reference_and_with_close(photos: Index) -> None:
    batches = dali(photos)
    kept = next(iter(batches))
    assert num_threads(2) == 2
    copy = kept.views[0].clone()
    del batches
    assert num_threads() == 0
    assert torch.equal(kept.views[0], copy), "tensors live on without the pipeline"
    batches = dali(photos)
    next(iter(batches))
    batches.close()
    batches.close()
    assert num_threads() == 0
    with pytest.raises(ValueError, match="the loader is closed"):
        next(iter(batches))


def test_auto_measures_all_stages_and_says_the_numbers(
    photos: Index, caplog: pytest.LogCaptureFixture
) -> None:
    much = views.parse("crop 512 area 0.9..1 bicubic | blur 99..100 p 1")
    for of_the_cpu in (views.mae(24), much):

        def make(hand_over: Any, of_the_cpu: list[View] = of_the_cpu) -> Loader:
            recipe = of_the_cpu if hand_over == "views" else views.mae(24)
            return loader(photos, hand_over=hand_over, views=recipe, batch_size=4)

        with caplog.at_level("INFO", logger="barlow.data"):
            name, reason = fastest(make, **norms(), device=CPU, seconds=0.2)
        rates = dict(part.split(" ") for part in reason.removeprefix("images/s: ").split(", "))
        assert list(rates) == ["none", "dali", "dali_decode"]
        numbers = {stage: float(rate) for stage, rate in rates.items()}
        assert min(numbers.values()) > 0
        best = max(numbers, key=lambda stage: numbers[stage])
        assert name == (best if numbers[best] > 1.06 * numbers["none"] else "none")
        # Hundreds of times the work; which of two cheap stages is faster is the machine's affair.
        if of_the_cpu is much:
            assert name != "none"
        assert f"device stage: {name}: {reason}" in caplog.text
        assert num_threads() == 0
