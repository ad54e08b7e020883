"""Packing with recoding: shards that any tool lists, that train as plain ones do and give every file back."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from barlow import _native as native
from barlow.data import Index, decode, pack, recode, restore, unpack
from commands import barlow_here
from photos import loader, samples, write_folder
from pictures import encode, synthetic
from sources import (
    class_folders,
    contents,
    numbered_samples,
    read_tar,
    read_tree,
    refused,
    write_tar,
    write_tree,
)


def jpegs(files: dict[str, bytes]) -> int:
    return sum(name.endswith(".jpg") for name in files)


def packed(files: dict[str, bytes], tmp_path: Path, **options: Any) -> tuple[Path, dict[str, Any]]:
    tar = write_tar(tmp_path / "source.tar", files)
    return tmp_path / "out", pack(tar, tmp_path / "out", recode=True, **options)


def test_shards_give_every_file_back_and_are_the_same_each_time(tmp_path: Path) -> None:
    files = class_folders(12)
    folder = write_tree(tmp_path / "images", files)
    found = set()
    for threads in (1, 2, 3):
        out = tmp_path / f"out-{threads}"
        report = pack(
            folder,
            out,
            recode=True,
            prove="strict" if threads == 2 else "rewrite",
            threads=threads,
            min_shards=3,
        )
        assert (report["images"], report["recoded"], report["shards"]) == (36, jpegs(files), 3)
        sizes = [len(data) for name, data in files.items() if name.endswith(".jpg")]
        assert report["recoded_from_bytes"] == sum(sizes)
        found.add(tuple(path.read_bytes() for path in sorted(out.iterdir())))
    assert len(found) == 1
    members = {name: data for shard in out.glob("*.tar") for name, data in read_tar(shard).items()}
    assert members.keys() == {name + ".bjc" * name.endswith(".jpg") for name in files}
    recoded = {name.removesuffix(".bjc"): data for name, data in members.items() if name.endswith(".bjc")}
    assert report["recoded_to_bytes"] == sum(map(len, recoded.values()))
    assert {name: restore(data) for name, data in recoded.items()}.items() <= files.items()
    assert contents(Index.open(out)) == members
    assert Index.open(out).recoded().tolist() == [i for i, name in enumerate(files) if name.endswith(".jpg")]
    index = Index.open(out)
    assert {name: index.read(i, original=True) for i, name in enumerate(files)} == files
    unpacked = unpack(out, tmp_path / "back")
    assert (unpacked["files"], unpacked["restored"]) == (36, jpegs(files))
    assert read_tree(tmp_path / "back") == files
    # The tars alone are enough.
    assert Index.scan(out).digest() == Index.open(out).digest()
    (out / "barlow.index").unlink()
    unpack(out, tmp_path / "again")
    assert read_tree(tmp_path / "again") == files


def test_samples_keep_their_labels_and_members(tmp_path: Path) -> None:
    files = numbered_samples()
    out, report = packed(files, tmp_path)
    assert (report["recoded"], report["extra_members"]) == (12, 12)
    index = Index.open(out)
    assert index.labels.tolist() == [n * 7 % 5 for n in range(12)]
    assert [index.read_member(i, "json") for i in range(12)] == [b"{}"] * 12
    assert Index.scan(out).labels.tolist() == index.labels.tolist()
    unpack(out, tmp_path / "back")
    labels = {name: data.strip() for name, data in files.items() if name.endswith(".cls")}
    assert read_tree(tmp_path / "back") == {**files, **labels}


def test_recoded_shards_are_packed_again(tmp_path: Path) -> None:
    files = class_folders(6)
    out, report = packed(files, tmp_path)
    for recoding in (False, True):
        again = tmp_path / f"again-{recoding}"
        repacked = pack(out, again, min_shards=2, recode=recoding)
        assert (repacked["images"], repacked["recoded"]) == (report["images"], 0)
        assert contents(Index.open(again)) == contents(Index.open(out))
    unpack(again, tmp_path / "back")
    assert read_tree(tmp_path / "back") == files
    # Plain shards become recoded ones.
    pack(write_tar(tmp_path / "plain.tar", files), tmp_path / "plain")
    assert pack(tmp_path / "plain", tmp_path / "recoded", recode=True)["recoded"] == jpegs(files)
    assert contents(Index.open(tmp_path / "recoded")) == contents(Index.open(out))


def test_the_loader_sees_the_same_pixels(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    folder = write_folder(tmp_path / "images")
    seen = []
    for recoding in (False, True):
        out = tmp_path / f"out-{recoding}"
        assert (pack(folder, out, recode=recoding)["recoded"] > 0) == recoding
        with loader(out) as batches:
            seen.append(samples(batches))
    assert seen[0] == seen[1]
    assert len(seen[0]) == 40


def test_shards_stay_below_their_size(tmp_path: Path) -> None:
    files = {name: data for name, data in class_folders(30).items() if name.endswith(".jpg")}
    limit = 12_000
    out, report = packed(files, tmp_path, shard_bytes=limit)
    assert report["recoded"] == len(files)
    sizes = [path.stat().st_size for path in out.glob("*.tar")]
    assert len(sizes) > 4
    assert max(sizes) <= limit + 1024


def test_what_cannot_be_recoded_is_counted_and_kept(tmp_path: Path) -> None:
    files = class_folders(3)
    cut = files["ape/000.jpg"] + b"\xff\xd9"
    names = {"a/long" + "x" * 245 + ".jpg": files["bee/000.jpg"]}
    out, report = packed({"a/1.jpg": cut, **names}, tmp_path)
    assert (report["recoded"], report["not_recoded"]) == (1, {"a name that is too long for a suffix": 1})
    unpack(out, tmp_path / "back")
    assert read_tree(tmp_path / "back") == {"a/1.jpg": cut, **names}


def test_names_that_would_collide_are_refused(tmp_path: Path) -> None:
    data = class_folders(3)["ape/000.jpg"]
    member = recode(data)
    assert member is not None
    tar = write_tar(tmp_path / "x.tar", {"a/1.jpg": data, "a/1.jpg.bjc": member})
    assert "collides" in str(refused("source", pack, tar, tmp_path / "out"))


def flipped(shard: Path, name: str, at: int) -> None:
    """Damages a byte of a member, whose checksum in the index is made to agree by indexing anew."""
    with tarfile.open(shard) as archive:
        offset = archive.getmember(name).offset_data
    data = bytearray(shard.read_bytes())
    data[offset + at] ^= 4
    shard.write_bytes(data)


def test_verify_finds_what_only_unpacking_would_meet(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, _ = packed(class_folders(4), tmp_path)
    assert "12 images, 0 damaged" in barlow_here(capfd, "verify", out).out
    shard = out / "shard-00000.tar"
    # In the skeleton, which pixels do not need; the index is made of what is there.
    flipped(shard, "bee/001.jpg.bjc", 60)
    Index.scan(out).write(out)
    image = Index.open(out)
    decode(image.read(5))
    found = barlow_here(capfd, "verify", out, "--json")
    assert found.code == 1
    damaged = json.loads(found.out)["damaged"]
    assert [(entry["id"], entry["member"]) for entry in damaged] == [(5, "bee/001.jpg.bjc")]
    error = refused("image", unpack, out, tmp_path / "back")
    assert error.member == "bee/001.jpg.bjc"
    assert not (tmp_path / "back").exists()


def test_damage_is_left_out_of_what_is_unpacked_and_never_packed_anew(tmp_path: Path) -> None:
    files = class_folders(4)
    out, _ = packed(files, tmp_path)
    flipped(out / "shard-00000.tar", "bee/001.jpg.bjc", 60)  # in the skeleton
    flipped(out / "shard-00000.tar", "cat/002.PNG", 40)
    for indexed in (True, False):
        if not indexed:
            (out / "barlow.index").unlink()
        assert refused("checksum" if indexed else "image", unpack, out, tmp_path / "no").member
        back = tmp_path / f"back-{indexed}"
        report = unpack(out, back, on_error="skip")
        # Without an index nobody knows what a PNG was.
        lost = ["bee/001.jpg.bjc", *(["cat/002.PNG"] * indexed)]
        assert [entry["member"] for entry in report["skipped"]] == lost
        assert (report["files"], report["restored"]) == (12 - len(lost), 5)
        kept = {name for name in files if name not in {"bee/001.jpg", "cat/002.PNG"}}
        assert {name: data for name, data in read_tree(back).items() if name in kept} == {
            name: files[name] for name in kept
        }
        assert len(read_tree(back)) == report["files"]
    # Its pixels are whole; with a new checksum nobody would find it any more.
    assert refused("image", pack, out, tmp_path / "again").member == "bee/001.jpg.bjc"
    report = pack(out, tmp_path / "again", on_error="skip")
    assert "bee/001.jpg.bjc" in {entry["member"] for entry in report["skipped"]}
    assert "bee/001.jpg.bjc" not in contents(Index.open(tmp_path / "again"))


def test_archives_that_others_made(tmp_path: Path) -> None:
    data = recode(class_folders(1)["ape/000.jpg"])
    assert data is not None
    tar = write_tar(tmp_path / "a.tar", {"a/1.jpg.bjc": data[:-1], "a/2.jpg.bjc": data[:30]})
    assert "damaged" in str(refused("empty", unpack, tar, tmp_path / "back", on_error="skip"))
    # Other files may begin like that.
    notes = {"a/1.jpg": class_folders(1)["ape/000.jpg"], "a/1.txt": b"BARLOWJC is what they begin with." * 9}
    unpack(write_tar(tmp_path / "c.tar", notes), tmp_path / "of-notes")
    assert read_tree(tmp_path / "of-notes") == notes
    renamed = write_tar(tmp_path / "d.tar", {"a/1.jpg": data})
    unpack(renamed, tmp_path / "renamed")
    assert read_tree(tmp_path / "renamed") == {"a/1.jpg": notes["a/1.jpg"]}
    newer = write_tar(tmp_path / "b.tar", {"a/1.jpg.bjc": data[:8] + b"\2" + data[9:]})
    assert "upgrade" in str(refused("version", unpack, newer, tmp_path / "back", on_error="skip"))
    assert not (tmp_path / "back").exists()


def test_what_would_grow_too_much_stays_as_it_is(tmp_path: Path) -> None:
    """A blank image has hardly any codes to undo; recoded shards have 1.45 times the bytes at most."""
    plain, blank = encode(synthetic(90, 70, 1), "JPEG"), encode(Image.new("RGB", (900, 700)), "JPEG")
    member = recode(blank)
    assert member is not None
    assert len(member) > 1.45 * len(blank)
    _, report = packed({"a/1.jpg": plain, "a/2.jpg": blank}, tmp_path)
    reason = "a recoded image of more than 1.45 times the bytes"
    assert (report["recoded"], report["not_recoded"]) == (1, {reason: 1})
    assert read_tar(tmp_path / "out" / "shard-00000.tar")["a/2.jpg"] == blank


def test_an_index_for_dali_is_replaced_with_its_shard(tmp_path: Path) -> None:
    out, _ = packed(class_folders(2), tmp_path)
    (out / "shard-00000.idx").write_bytes(b"v1.2 0\n")
    pack(tmp_path / "source.tar", out, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["barlow.index", "shard-00000.tar"]
    (out / "shard-00001.idx").write_bytes(b"of nothing here")
    with pytest.raises(ValueError, match="something else"):
        pack(tmp_path / "source.tar", out, overwrite=True)


def test_the_command_shows_bytes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = write_tree(tmp_path / "images", class_folders(4))
    result = barlow_here(capfd, "pack", folder, tmp_path / "out", "--recode")
    shown = dict(line.split(": ", 1) for line in result.out.splitlines())
    images, *sizes = (int(number) for number in re.findall(r"\d+", shown["recoded"].replace(",", "")))
    assert (images, len(sizes)) == (6, 2)
    assert set(shown) == {"images", "shards", "bytes", "classes", "recoded", "time"}
    assert re.fullmatch(r"\d+\.\d s", shown["time"])
    assert sizes[0] == sum(len(data) for name, data in class_folders(4).items() if name.endswith(".jpg"))
    assert native.Index.open(tmp_path / "out").recoded().size == 6
    plain = barlow_here(capfd, "pack", folder, tmp_path / "plain").out
    assert [line.split(":")[0] for line in plain.splitlines()] == [
        "images", "shards", "bytes", "classes", "time",
    ]  # fmt: skip
    assert "restored: 6" in barlow_here(capfd, "unpack", tmp_path / "out", tmp_path / "back").out
    assert read_tree(tmp_path / "back") == class_folders(4)
