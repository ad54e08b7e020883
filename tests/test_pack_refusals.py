"""What packing refuses so that nothing is lost: names that could not come back, links, its own source."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from barlow import _native as native
from sources import class_folders, image_bytes, read_tree, refused, write_tar, write_tree


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a/0.jpg", "/tmp/x.jpg"], "leads out of the folder"),
        (["a/0.jpg", "../x.jpg"], "leads out of the folder"),
        (["a/0.jpg", "a/../../x.jpg"], "leads out of the folder"),
        (["a/0.jpg", "b/0.jpg", "a/0.jpg"], "collides with an earlier one"),
        (["a/0.jpg", "b/0.jpg", "a//./0.jpg"], "collides with an earlier one"),
        (["a/0.jpg", "a/0.jpg/1.jpg"], "collides with an earlier one"),
        (["a/0.jpg", "a/" + "x" * 252 + ".jpg"], "more than 255 bytes"),
    ],
)
def test_what_could_not_be_unpacked_is_not_packed(names: list[str], words: str, tmp_path: Path) -> None:
    tar = tmp_path / "x.tar"
    with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as archive:
        for n, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size = len(image_bytes(n))
            archive.addfile(member, io.BytesIO(image_bytes(n)))
    error = refused("source", native.pack, tar, tmp_path / "out")
    assert words in str(error)
    assert (error.shard, error.member) == (str(tar), names[-1])
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]
    native.Index.scan(tar)  # in place they are no danger


def test_labels_of_two_samples_never_share_a_name(tmp_path: Path) -> None:
    """`1.jpg` here and `1.png` there would both be labelled by `1.cls`."""
    (tmp_path / "tars").mkdir()
    for n, name in enumerate(("1.jpg", "1.PNG")):
        write_tar(tmp_path / "tars" / f"{n}.tar", {name: image_bytes(n), "1.cls": b"%d" % n})
    assert native.Index.scan(tmp_path / "tars").labels.tolist() == [0, 1]
    error = refused("source", native.pack, tmp_path / "tars", tmp_path / "out")
    assert "collides" in str(error)
    assert error.member == "1.PNG"


def test_links_in_archives_are_counted(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", class_folders(2))
    with tarfile.open(tar, "a") as archive:
        for name, kind in (
            ("ant/h.jpg", tarfile.LNKTYPE),
            ("ant/s.jpg", tarfile.SYMTYPE),
            ("d", tarfile.DIRTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "ant/000.jpg"
            archive.addfile(member)
    assert native.pack(tar, tmp_path / "out")["ignored"] == 2
    assert native.Index.scan(tar).num_ignored == 2


def test_nothing_is_written_through_a_link_or_over_its_own_source(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "images", class_folders())
    native.pack(folder, tmp_path / "out", held_out=0.5)
    before = read_tree(tmp_path / "out")
    (tmp_path / "link").symlink_to("out")
    for link in (tmp_path / "link", f"{tmp_path}/link/"):
        with pytest.raises(ValueError, match="is a link"):
            native.pack(folder, link, overwrite=True)
    for source in (tmp_path / "out" / "train", tmp_path / "out" / "train" / "shard-00000.tar"):
        with pytest.raises(ValueError, match="the source lies in it"):
            native.pack(source, tmp_path / "out", overwrite=True)
    assert read_tree(tmp_path / "out") == before
    assert (tmp_path / "link").is_symlink()
    native.pack(folder, f"{tmp_path}/slash/")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "link", "out", "slash"]


def test_a_class_keeps_an_image_to_train_on(tmp_path: Path) -> None:
    files = {f"{name}/{n}.jpg": image_bytes(n) for name, count in (("a", 2), ("b", 12)) for n in range(count)}
    tar = write_tar(tmp_path / "x.tar", files)
    report = native.pack(tar, tmp_path / "out", held_out=0.8)
    train = native.Index.open(tmp_path / "out" / "train")
    assert set(train.labels.tolist()) == {0, 1}
    assert report["classes_without_training"] == 0


def test_the_index_of_both_parts_is_looked_for_in_vain_with_a_hint(tmp_path: Path) -> None:
    native.pack(write_tree(tmp_path / "images", class_folders()), tmp_path / "out", held_out=0.5)
    error = refused("empty", native.Index.scan, tmp_path / "out")
    assert "give train or held-out in it" in str(error)
