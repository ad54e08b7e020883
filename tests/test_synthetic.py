"""The synthetic shapes: the same on every run, balanced, and told apart by shape alone, not by colour."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from barlow import synthetic

NUM_CLASSES = len(synthetic.CLASSES)
SMALL = {"train": 3 * NUM_CLASSES, "held-out": NUM_CLASSES}


def test_is_as_large_as_promised() -> None:
    assert NUM_CLASSES >= 10
    assert synthetic.SPLITS["train"] >= 6000
    assert synthetic.SPLITS["held-out"] >= 1000
    assert all(count % NUM_CLASSES == 0 for count in synthetic.SPLITS.values())


def test_a_picture_is_a_function_of_seed_split_and_index() -> None:
    program = (
        "import sys, hashlib; from barlow import synthetic; h = hashlib.sha256();"
        "[h.update(synthetic.draw(7, 1, i)[0].tobytes()) for i in reversed(range(20))]; print(h.hexdigest())"
    )
    here = hashlib.sha256()
    for index in reversed(range(20)):
        here.update(synthetic.draw(7, 1, index)[0].tobytes())
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here.hexdigest()


def test_another_seed_split_or_index_is_another_picture() -> None:
    keys = [(0, 0, 5), (1, 0, 5), (0, 1, 5), (0, 0, 5 + NUM_CLASSES)]
    drawn = [synthetic.draw(*key) for key in keys]
    assert {name for _, name in drawn} == {synthetic.CLASSES[5]}
    for i, (first, _) in enumerate(drawn):
        assert first.shape == (synthetic.SIZE_PX, synthetic.SIZE_PX, 3)
        assert first.dtype == np.uint8
        for second, _ in drawn[i + 1 :]:
            assert np.abs(first.astype(int) - second.astype(int)).mean() > 5


@pytest.mark.parametrize("name", synthetic.CLASSES)
def test_the_figure_is_visible(name: str) -> None:
    start = synthetic.CLASSES.index(name)
    for index in range(start, start + 10 * NUM_CLASSES, NUM_CLASSES):
        pixels, drawn = synthetic.draw(3, 0, index)
        assert drawn == name
        luma = pixels @ np.array([0.299, 0.587, 0.114])
        low, high = np.percentile(luma, [2, 98])
        assert high - low > 25, f"picture {index} has next to no contrast"


def test_writes_balanced_folders_with_the_same_bytes_every_time(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    first = synthetic.write(tmp_path / "a", counts=SMALL, progress=lambda *call: calls.append(call))
    second = synthetic.write(tmp_path / "b", counts=SMALL)
    assert calls == [(i + 1, 4 * NUM_CLASSES) for i in range(4 * NUM_CLASSES)]
    for split, count in SMALL.items():
        paths = sorted((first / split).rglob("*.jpg"))
        assert Counter(path.parent.name for path in paths) == dict.fromkeys(
            synthetic.CLASSES, count // NUM_CLASSES
        )
        for path in paths:
            assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()
    pixels, name = synthetic.draw(0, 0, 6)
    with Image.open(first / "train" / name / "00006.jpg") as image:
        decoded = np.asarray(image)
    assert np.abs(decoded.astype(int) - pixels.astype(int)).mean() < 8  # JPEG's loss
    assert "Not photographs" in (first / "README.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthetic.write(tmp_path / "a", counts=SMALL, progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_a_complete_folder_is_kept(tmp_path: Path) -> None:
    out = synthetic.write(tmp_path / "a", counts=SMALL)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    synthetic.write(out, counts=SMALL)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


Pictures = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    """(training pictures, classes, test pictures, classes), pixels in [0, 1]."""
    train = np.stack([synthetic.draw(0, 0, i)[0] for i in range(100 * NUM_CLASSES)]) / 255
    test = np.stack([synthetic.draw(0, 1, i)[0] for i in range(50 * NUM_CLASSES)]) / 255
    return train, np.arange(len(train)) % NUM_CLASSES, test, np.arange(len(test)) % NUM_CLASSES


def linear_accuracy(features: NDArray[np.float64], labels: NDArray[np.int64], *test: NDArray) -> float:
    """Test accuracy of least squares onto one-hot labels: all that is linear in the features."""
    with_bias = np.column_stack([features, np.ones(len(features))])
    weights, *_ = np.linalg.lstsq(with_bias, np.eye(NUM_CLASSES)[labels], rcond=None)
    scores = np.column_stack([test[0], np.ones(len(test[0]))]) @ weights
    return float((scores.argmax(1) == test[1]).mean())


def test_mean_colour_does_not_tell_classes_apart(pictures: Pictures) -> None:
    train, train_labels, test, test_labels = pictures
    accuracy = linear_accuracy(train.mean((1, 2)), train_labels, test.mean((1, 2)), test_labels)
    chance = 1 / NUM_CLASSES
    # 4 standard deviations of 800 coin flips above chance: 9.7 %.
    assert accuracy < chance + 4 * np.sqrt(chance * (1 - chance) / len(test))


def test_place_does_not_tell_classes_apart(pictures: Pictures) -> None:
    """Least squares on an 8 x 8 thumbnail: where it is light or dark, and which colour is where."""
    train, train_labels, test, test_labels = pictures

    def thumbnails(images: NDArray[np.float64]) -> NDArray[np.float64]:
        return images.reshape(len(images), 8, 10, 8, 10, 3).mean((2, 4)).reshape(len(images), -1)

    accuracy = linear_accuracy(thumbnails(train), train_labels, thumbnails(test), test_labels)
    chance = 1 / NUM_CLASSES
    assert accuracy < chance + 4 * np.sqrt(chance * (1 - chance) / len(test))


def test_shape_does(pictures: Pictures) -> None:
    """The control of the two tests above: a texture statistic that ignores colour and place beats chance."""
    train, train_labels, test, test_labels = pictures

    def spectra(images: NDArray[np.float64]) -> NDArray[np.float64]:
        grey = images.mean(3)
        grey = (grey - grey.mean((1, 2), keepdims=True)) / grey.std((1, 2), keepdims=True)
        power = np.abs(np.fft.fft2(grey)) ** 2
        row, column = np.meshgrid(np.fft.fftfreq(80), np.fft.fftfreq(80), indexing="ij")
        ring = np.minimum(np.hypot(row, column) * 40, 15).astype(int)
        return np.log(np.stack([power[:, ring == k].mean(1) for k in range(16)], axis=1) + 1e-9)

    assert linear_accuracy(spectra(train), train_labels, spectra(test), test_labels) > 0.25
