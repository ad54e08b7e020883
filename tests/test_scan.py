"""Scanning and the index on real files: torchvision, Pillow and tarfile are the oracles."""

from __future__ import annotations

import os
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from barlow import _native as native
from sources import (
    CLASSES,
    class_folders,
    contents,
    image_bytes,
    numbered_samples,
    refused,
    write_tar,
    write_tree,
)


def test_a_folder_is_indexed_as_torchvision_has_it(tmp_path: Path) -> None:
    files = class_folders()
    files |= {
        f"bee/{name}": image_bytes(n) for n, name in enumerate(["z/1.jpg", "z-1/1.jpg", "z.jpg", "A.jpg"])
    }
    folder = write_tree(tmp_path / "images", files)
    index, oracle = native.Index.scan(folder), ImageFolder(folder)
    assert index.class_names == oracle.classes
    assert index.labels.dtype == np.int64
    assert index.labels.tolist() == oracle.targets
    assert [str(folder / index.name(i)) for i in range(len(index))] == [path for path, _ in oracle.samples]
    assert contents(index) == files
    for i, (path, _) in enumerate(oracle.samples):
        with Image.open(path) as image:
            assert index.shape(i) == (image.height, image.width)


def test_a_tar_and_its_shards_hold_the_same_data_as_the_folder(tmp_path: Path) -> None:
    files = class_folders()
    folder = write_tree(tmp_path / "images", files)
    tar = write_tar(tmp_path / "images.tar", {f"./{name}": data for name, data in files.items()})
    index = native.Index.scan(tar)
    assert index.class_names == CLASSES
    assert contents(index) == {f"./{name}": data for name, data in files.items()}
    plain = native.Index.scan(write_tar(tmp_path / "plain.tar", files))
    assert plain.digest() == native.Index.scan(folder).digest()
    native.pack(folder, tmp_path / "out", min_shards=3)
    assert native.Index.open(tmp_path / "out").digest() == plain.digest()


def test_one_folder_around_everything_in_a_tar_is_no_class(tmp_path: Path) -> None:
    files = {f"data/images/{name}": data for name, data in class_folders().items()}
    assert native.Index.scan(write_tar(tmp_path / "a.tar", files)).class_names == ["images"]
    files = {name.removeprefix("data/"): data for name, data in files.items()}
    assert native.Index.scan(write_tar(tmp_path / "b.tar", files)).class_names == CLASSES


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    folder = write_tree(tmp_path, {f"{n}.jpg": image_bytes(n) for n in range(3)})
    index = native.Index.scan(folder)
    assert (index.labels.tolist(), index.class_names, index.num_shards) == ([-1, -1, -1], [], 3)


def test_webdataset_labels_come_from_cls_members(tmp_path: Path) -> None:
    files = numbered_samples()
    for shard in range(3):
        names = list(files)[12 * shard : 12 * shard + 12]
        write_tar(tmp_path / "w" / f"{shard}.tar", {name: files[name] for name in names})
    index = native.Index.scan(tmp_path / "w")
    assert index.labels.tolist() == [n * 7 % 5 for n in range(12)]
    assert index.class_names == ["0", "1", "2", "3", "4"]
    assert (index.num_ignored, index.member_names) == (0, ["json"])
    assert native.Index.scan(tmp_path / "w", members=False).num_ignored == 12
    assert contents(index) == {name: data for name, data in files.items() if name.endswith("jpg")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"000003.cls": b"seven"}, "000003.cls.*is no number"),
        ({"000003.cls": b"-1"}, "is no number"),
        ({"000003.cls": b"1048576"}, "below 1048576"),
        ({"000003.cls": None}, "000003.jpg.*no .cls next to it"),
        ({"000003.jpg": None}, "a label without a JPEG"),
        ({"000003.jpg": None, "000003.gif": b"GIF89a"}, "000003.cls.*a label without"),
        ({"000011.png": image_bytes(1, "PNG")}, "000011.png.*a second image"),
    ],
)
def test_samples_that_do_not_fit_together(
    change: dict[str, bytes | None], message: str, tmp_path: Path
) -> None:
    files: dict[str, bytes | None] = {**numbered_samples(), **change}
    tar = write_tar(tmp_path / "x.tar", {name: data for name, data in files.items() if data is not None})
    with pytest.raises(native.DataError, match=message):
        native.Index.scan(tar)


def test_content_decides_what_is_an_image_and_names_may_not_lie(tmp_path: Path) -> None:
    files = {
        "a/png-in-truth.JPEG": image_bytes(1, "PNG"),
        "a/no-extension": image_bytes(2),
        "a/notes.txt": b"about the images",
        "a/empty.txt": b"",
        "a/.DS_Store": b"x",
        ".hidden/x.jpg": b"x",
        "__MACOSX/a/._x.jpg": b"x",
    }
    for source in (write_tree(tmp_path / "folder", files), write_tar(tmp_path / "x.tar", files)):
        index = native.Index.scan(source)
        assert sorted(contents(index)) == ["a/no-extension", "a/png-in-truth.JPEG"]
        assert index.num_ignored == 2
    for name, data in {"b/page.jpg": b"<html>", "b/empty.png": b"", "b/cut.jpg": image_bytes(3)[:20]}.items():
        error = refused("image", native.Index.scan, write_tar(tmp_path / "y.tar", {**files, name: data}))
        assert (error.shard, error.member) == (str(tmp_path / "y.tar"), name)
        loose = write_tree(tmp_path / Path(name).stem, {**files, name: data})
        assert refused("image", native.Index.scan, loose).shard == str(loose / name)


def test_sources_that_contradict_themselves(tmp_path: Path) -> None:
    image = image_bytes(0)
    mixed = write_tree(tmp_path / "mixed", {"a/0.jpg": image, "1.jpg": image})
    assert refused("source", native.Index.scan, mixed).member == "1.jpg"
    both = write_tree(tmp_path / "both", {"a/0.jpg": image})
    write_tar(both / "x.tar", {"a/0.jpg": image})
    assert "archives (x.tar) and loose images (a/0.jpg)" in str(refused("source", native.Index.scan, both))
    write_tar(tmp_path / "deep" / "below" / "x.tar", {"a/0.jpg": image})
    assert "lie deeper" in str(refused("empty", native.Index.scan, tmp_path / "deep"))
    assert refused("empty", native.Index.scan, write_tar(tmp_path / "none.tar", {"a.txt": b"x"}))
    assert refused("io", native.Index.scan, tmp_path / "absent").shard == str(tmp_path / "absent")
    zipped = tmp_path / "x.tar.gz"
    with tarfile.open(zipped, "w:gz"):
        pass
    assert "a gzip file" in str(refused("source", native.Index.scan, zipped))
    os.mkfifo(tmp_path / "pipe")
    refused("archive", native.Index.scan, tmp_path / "pipe")


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    real = write_tree(tmp_path / "real", class_folders())
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "ape").symlink_to(real / "ape")
    (linked / "bee").mkdir()
    (linked / "bee" / "0.jpg").symlink_to(real / "bee" / "000.jpg")
    assert native.Index.scan(linked).labels.tolist() == [0] * 7 + [1]
    (linked / "bee" / "round").symlink_to(linked)
    assert "leads back" in str(refused("source", native.Index.scan, linked))


def test_an_index_is_written_beside_or_away_from_its_shards(tmp_path: Path) -> None:
    files = class_folders()
    tar = write_tar(tmp_path / "data" / "x.tar", files)
    index = native.Index.scan(tar)
    beside = native.index_path(tar)
    assert str(beside) == f"{tar}.index"
    assert str(index.write(beside)) == str(beside)
    (tmp_path / "away").mkdir()
    index.write(tmp_path / "away")
    moved = (tmp_path / "data").rename(tmp_path / "moved")
    # Relative paths move along with their shards, absolute ones do not.
    assert contents(native.Index.open(moved / "x.tar")) == files
    away = native.Index.open(tmp_path / "away")
    assert away.digest() == index.digest()
    assert refused("io", away.read, 0).shard == str(tar)
    assert [path.name for path in moved.iterdir()] == ["x.tar", "x.tar.index"] or len(
        list(moved.iterdir())
    ) == 2


def test_subsets_keep_order_labels_and_classes(tmp_path: Path) -> None:
    index = native.Index.scan(write_tree(tmp_path, class_folders()))
    ids = np.array([20, 3, 8], np.uint32)
    part = index.subset(ids)
    assert part.labels.tolist() == index.labels[ids].tolist()
    assert [part.read(i) for i in range(3)] == [index.read(i) for i in ids.tolist()]
    assert part.class_names == index.class_names
    for i in (3, -1, 2**32):
        with pytest.raises(IndexError):
            part.read(i)
    refused("empty", index.subset, np.array([], np.uint32))
    for i in (21, -1):
        with pytest.raises(IndexError, match=f"no sample {i}: there are 21"):
            index.subset(np.array([0, i]))


def test_every_flipped_bit_of_shard_or_index_is_noticed(tmp_path: Path) -> None:
    native.pack(write_tree(tmp_path / "images", class_folders(3)), tmp_path / "out")
    index = native.Index.open(tmp_path / "out")
    rng = random.Random(0)
    shard = tmp_path / "out" / "shard-00000.tar"
    good = shard.read_bytes()
    places = {name: (offset, length) for name, offset, length in native.members(shard)}
    for i in range(len(index)):
        offset, length = places[index.name(i).encode()]
        bad = bytearray(good)
        bad[offset + rng.randrange(length)] ^= 1 << rng.randrange(8)
        shard.write_bytes(bad)
        error = refused("checksum", index.read, i)
        assert (error.shard, error.member, error.offset) == (str(shard), index.name(i), offset)
    shard.write_bytes(good[:-512])
    refused("index", native.Index.open(tmp_path / "out").read, 0)
    path = tmp_path / "out" / "barlow.index"
    good = path.read_bytes()
    for _ in range(300):
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        (tmp_path / "bad.index").write_bytes(bad)
        refused("index", native.Index.open, tmp_path / "bad.index")
