"""Extra members of samples: which there are, packing, unpacking and reading them; tarfile is the oracle."""

from __future__ import annotations

import io
import os
import random
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from barlow import _native as native
from barlow.data import Index, index_source, open_index, pack, unpack
from sources import image_bytes, read_tar, read_tree, refused, write_tar, write_tree

IMAGES = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
MIB = 1 << 20


def captioned(count: int = 12, folder: str = "") -> dict[str, bytes]:
    """Samples in WebDataset's order: some have a caption, some json, one nothing, one an empty file."""
    files = {}
    for number in range(count):
        stem = f"{folder}{number:04}"
        files[f"{stem}.jpg"] = image_bytes(number)
        if number % 4 != 3:
            files[f"{stem}.json"] = b'{"number": %d}' % number
        if number % 3 == 0:
            files[f"{stem}.TXT"] = b"" if number == 6 else b"caption %d\n" % number
        if number == 5:
            files[f"{stem}.bbox.npy"] = bytes(range(256)) * 5
    return files


def members_of(index: Index) -> list[dict[str, bytes]]:
    return [{name: index.read_member(i, name) for name in index.members(i)} for i in range(len(index))]


def expected(files: dict[str, bytes]) -> list[dict[str, bytes]]:
    """The samples of `captioned`, each stem of which is there once."""
    samples: dict[str, dict[str, bytes]] = {}
    for name, data in files.items():
        stem, extension = name.split(".", 1)
        samples.setdefault(stem, {})[extension.lower()] = data
    for sample in samples.values():
        del sample["jpg"]
        sample.pop("cls", None)
    return list(samples.values())


@dataclass
class Found:
    """What is in an archive, by a reader of its own."""

    images: list[tuple[str, dict[str, bytes]]]
    """Name and extra members of each."""
    ignored: int
    twice: str | None
    """The first extra member whose name its sample has already."""


def by_tarfile(path: Path) -> Found:
    """A stem ends at the first dot of the last component; neighbours of one stem are a sample."""
    groups: list[tuple[str, list[tuple[str, str, bytes]]]] = []
    found = Found([], 0, None)
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() else None
            if file is None or re.search(r"(^|/)\.[^/]", member.name):
                continue
            match = re.fullmatch(r"((?:.*/)?[^./]+)\.([^/]+)", member.name)
            if match is None:
                found.ignored += 1
                continue
            if not groups or groups[-1][0] != match[1]:
                groups.append((match[1], []))
            groups[-1][1].append((member.name, match[2].lower(), file.read()))
    for _, group in groups:
        images = [name for name, extension, _ in group if extension.split(".")[-1] in IMAGES]
        found.images += [(name, {}) for name in images]
        for name, extension, data in group:
            if name in images:
                continue
            if len(images) > 1 or not images:
                found.ignored += 1
            elif extension in found.images[-1][1]:
                found.twice = found.twice or name
            else:
                found.images[-1][1][extension] = data
    return found


@pytest.mark.parametrize("seed", range(40))
def test_members_are_those_that_tarfile_finds_next_to_the_image(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    files: list[tuple[str, bytes]] = [("first/1.jpg", image_bytes(0))]
    for number in range(40):
        # Stems come back, near and far: only neighbours are a sample. Folders and shapes of names vary.
        stem = f"{rng.choice('ab')}/{rng.choice(['', 'x.y/'])}{rng.choice('012345')}"
        extensions = ["json", "TXT", "txt.gz", "left.jpg", "jpg", "png", "npy", "a b", "ö"]
        for extension in rng.sample(extensions, rng.randint(1, 4)):
            image = IMAGES.get(extension.rsplit(".")[-1])
            data = image_bytes(number, image) if image else rng.randbytes(rng.choice([0, 1, 511, 512, 999]))
            files.append((f"{stem}.{extension}", data))
        if rng.random() < 0.3:
            files.append(rng.choice([("a/README", b"x"), ("a/.hidden.txt", b"x"), ("b/._1.jpg", b"x")]))
    path = tmp_path / "x.tar"
    formats = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    with tarfile.open(path, "w", format=formats[seed % 3]) as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    found = by_tarfile(path)
    plain = Index.scan(path, members=False)
    assert [plain.name(i) for i in range(len(plain))] == [name for name, _ in found.images]
    if found.twice is not None:
        assert refused("source", Index.scan, path).member == found.twice
        return
    index = Index.scan(path)
    assert index.digest() == plain.digest()
    assert members_of(index) == [extras for _, extras in found.images]
    assert index.num_ignored == found.ignored
    assert plain.num_ignored == found.ignored + sum(len(extras) for _, extras in found.images)
    assert index.member_names == sorted({name for _, extras in found.images for name in extras})
    assert any(extras for _, extras in found.images)
    assert any(not extras for _, extras in found.images)
    assert found.ignored


def test_they_go_through_pack_and_unpack(tmp_path: Path) -> None:
    files = captioned()
    for number in range(12):
        files[f"{number:04}.cls"] = b"%d" % (number % 5)
    shards = tmp_path / "shards"
    for shard in range(3):
        part = {name: data for name, data in files.items() if int(name[:4]) % 3 == shard}
        write_tar(shards / f"{shard}.tar", dict(sorted(part.items())))
    index = Index.scan(shards)
    report = pack(shards, tmp_path / "out", min_shards=2)
    assert (report["extra_members"], report["ignored"], report["shards"]) == (14, 0, 2)
    assert read_tar(tmp_path / "out" / "shard-00000.tar") | read_tar(
        tmp_path / "out" / "shard-00001.tar"
    ) == dict(files.items())
    packed = Index.open(tmp_path / "out")
    # The label is no extra member; everything else is, under the same name whoever looks.
    assert packed.member_names == ["bbox.npy", "json", "txt"]
    assert members_of(packed) == members_of(index) == members_of(Index.scan(tmp_path / "out"))
    assert {index.name(i)[:4]: extras for i, extras in enumerate(members_of(index))} == {
        f"{number:04}": extras for number, extras in enumerate(expected(files))
    }
    assert packed.digest() == index.digest() == Index.scan(shards, members=False).digest()
    unpack(tmp_path / "out", tmp_path / "back")
    assert read_tree(tmp_path / "back") == files
    pack(shards, tmp_path / "held", held_out=0.25)
    parts = [Index.open(tmp_path / "held" / part) for part in ("train", "held-out")]
    assert [part.member_names for part in parts] == [packed.member_names] * 2
    by_name = {packed.name(i): extras for i, extras in enumerate(members_of(packed))}
    for part in parts:
        assert members_of(part) == [by_name[part.name(i)] for i in range(len(part))]
    # Left out on request: then they are files of no interest, as before there were any.
    report = pack(shards, tmp_path / "plain", members=False)
    assert (report["extra_members"], report["ignored"]) == (0, 14)
    plain = Index.open(tmp_path / "plain")
    assert (plain.member_names, plain.members(0)) == ([], [])
    assert plain.digest() == packed.digest()


def test_a_folder_has_them_beside_its_images(tmp_path: Path) -> None:
    files = captioned(folder="cat/") | captioned(5, folder="dog/x.y/")
    ignored = {
        "cat/0001.cls": b"7",
        "cat/away.txt": b"of no image",
        "cat/two.jpg": image_bytes(1),
        "cat/two.png": image_bytes(2, "PNG"),
        "cat/two.txt": b"of which?",
        "dog/LICENSE": b"text",
    }
    folder = write_tree(tmp_path / "images", files | ignored)
    index = Index.scan(folder)
    wanted = expected(captioned())
    assert members_of(index) == [*wanted, {}, {}, *wanted[:5]]
    assert (index.num_ignored, index.num_shards) == (4, len(files) + 2)
    # They are found from an index that lies elsewhere, and from a part of it.
    (tmp_path / "away").mkdir()
    away = Index.open(index_source(folder, tmp_path / "away"))
    assert members_of(away) == members_of(index)
    assert members_of(away.subset([13, 0, 3])) == [{}, wanted[0], {**wanted[3]}]
    pack(folder, tmp_path / "out", min_shards=2)
    packed = Index.open(tmp_path / "out")
    assert members_of(packed) == members_of(index) == members_of(Index.scan(tmp_path / "out"))
    assert packed.digest() == index.digest()
    unpack(tmp_path / "out", tmp_path / "back")
    left_out = {"cat/0001.cls", "cat/away.txt", "cat/two.txt", "dog/LICENSE"}
    assert read_tree(tmp_path / "back") == {
        name: data for name, data in (files | ignored).items() if name not in left_out
    }


def test_without_any_an_index_is_what_it_was(tmp_path: Path) -> None:
    files = {f"a/{n}.jpg": image_bytes(n) for n in range(3)} | {"a/LICENSE": b"x"}
    tar = write_tar(tmp_path / "x.tar", files)
    path = index_source(tar)
    assert path.read_bytes()[8:12] == b"\1\0\0\0"
    assert path.read_bytes()[80:124] == bytes(44)
    index = open_index(tar)
    assert (index.member_names, index.members(2)) == ([], [])
    with pytest.raises(KeyError, match="json"):
        index.read_member(0, "json")
    with pytest.raises(IndexError, match="no sample 3"):
        index.members(3)
    # With one it is another version, which others than this build refuse by its number.
    tar = write_tar(tmp_path / "y.tar", files | {"a/2.json": b"{}"})
    assert index_source(tar).read_bytes()[8:12] == b"\2\0\0\0"
    assert index_source(tar, members=False).read_bytes()[8:12] == b"\1\0\0\0"


def test_what_is_recorded_costs_the_reading_only_on_request(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", captioned())
    assert open_index(tar).member_names == []
    index = open_index(tar, members=True)
    assert index.member_names == ["bbox.npy", "json", "txt"]
    assert index.read_member(6, "txt") == b""
    for name in ("TXT", "npy", "", "jpg", "\udcff"):
        with pytest.raises(KeyError):
            index.read_member(0, name)


def test_names_need_not_be_text(tmp_path: Path) -> None:
    files = {"a.jpg": image_bytes(0), "a.\udcff\udcfe": b"1", "a.ö": b"2"}
    index = Index.scan(write_tree(tmp_path, files))
    assert index.members(0) == sorted(["\udcff\udcfe", "ö"], key=os.fsencode)
    assert index.read_member(0, "\udcff\udcfe") == b"1"
    assert index.read_member(0, "ö") == b"2"


def test_two_of_one_name_are_refused_by_name(tmp_path: Path) -> None:
    image = image_bytes(0)
    for second in ("0.json", "0.JSON"):
        with tarfile.open(tmp_path / "x.tar", "w") as tar:
            for name, data in [("0.json", b"1"), ("0.jpg", image), (second, b"2")]:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        for call in (Index.scan, lambda path: pack(path, tmp_path / "out", on_error="skip")):
            error = refused("source", call, tmp_path / "x.tar")
            assert (error.shard, error.member) == (str(tmp_path / "x.tar"), second)
            assert error.offset == native.members(tmp_path / "x.tar")[2][1]
            assert "a second member of this name in one sample" in str(error)
        assert len(Index.scan(tmp_path / "x.tar", members=False)) == 1
    folder = write_tree(tmp_path / "f", {"0.jpg": image, "0.json": b"1", "0.JSON": b"2"})
    assert refused("source", Index.scan, folder).shard == str(folder / "0.json")


def test_their_number_and_size_are_bounded(tmp_path: Path) -> None:
    image = image_bytes(0)
    many = {"0.jpg": image} | {f"0.{n:03}": b"" for n in range(257)} | {"1.jpg": image}
    tar = write_tar(tmp_path / "many.tar", many)
    error = refused("limit", Index.scan, tar)
    assert (error.member, "257, the limit is 256" in str(error)) == ("0.256", True)
    del many["0.000"]
    assert len(Index.scan(write_tar(tar, many)).members(0)) == 256

    large = {"0.jpg": image, "0.a": bytes(40 * MIB), "0.b": bytes(24 * MIB + 1), "1.jpg": image, "1.a": b"x"}
    tar = write_tar(tmp_path / "large.tar", large)
    error = refused("limit", Index.scan, tar)
    assert (error.shard, error.member) == (str(tar), "0.a")
    assert f"{64 * MIB + 1}, the limit is {64 * MIB}" in str(error)
    refused("limit", pack, tar, tmp_path / "out")
    report = pack(tar, tmp_path / "out", on_error="skip")
    assert (report["images"], report["extra_members"]) == (1, 1)
    assert [entry["member"] for entry in report["skipped"]] == ["0.a"]
    assert members_of(Index.open(tmp_path / "out")) == [{"a": b"x"}]
    assert len(Index.scan(tar, members=False)) == 2
    assert pack(tar, tmp_path / "plain", members=False)["images"] == 2
    large["0.b"] = bytes(24 * MIB)
    index = Index.scan(write_tar(tar, large))
    assert [len(index.read_member(0, name)) for name in ("a", "b")] == [40 * MIB, 24 * MIB]


def test_what_unpacking_could_not_give_back_is_not_packed(tmp_path: Path) -> None:
    image = image_bytes(0)
    shards = tmp_path / "shards"
    write_tar(shards / "0.tar", {"a/0.jpg": image, "a/0.json": b"1"})
    write_tar(shards / "1.tar", {"a/0.png": image_bytes(0, "PNG"), "a/0.json": b"2"})
    assert members_of(Index.scan(shards)) == [{"json": b"1"}, {"json": b"2"}]
    error = refused("source", pack, shards, tmp_path / "out")
    assert (error.shard, error.member) == (str(shards / "1.tar"), "a/0.json")
    assert "0.tar: a/0.json" in str(error)
    assert pack(shards, tmp_path / "out", members=False)["images"] == 2
    long = write_tar(tmp_path / "x.tar", {"0.jpg": image, f"0.{'x' * 254}": b""})
    assert "more than 255 bytes" in str(refused("source", pack, long, tmp_path / "no"))


def test_a_changed_bit_is_noticed_by_those_who_ask(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", captioned())
    index = Index.open(index_source(tar))
    good = tar.read_bytes()
    places = {name.decode(): (offset, length) for name, offset, length in native.members(tar)}
    rng = random.Random(0)
    for name, (offset, length) in places.items():
        if name.endswith("jpg") or not length:
            continue
        bad = bytearray(good)
        bad[offset + rng.randrange(length)] ^= 1 << rng.randrange(8)
        tar.write_bytes(bad)
        sample, kind = int(name[:4]), name[5:].lower()
        error = refused("checksum", index.read_member, sample, kind)
        assert (error.shard, error.member, error.offset) == (str(tar), f"{name[:4]}.{kind}", offset)
        assert index.read(sample)
    tar.write_bytes(good[:-512])
    refused("index", open_index(tar).read_member, 0, "txt")
    tar.write_bytes(good)
    # A packed one is not unpacked with it, either.
    pack(tar, tmp_path / "out")
    shard = tmp_path / "out" / "shard-00000.tar"
    bad = bytearray(shard.read_bytes())
    bad[next(offset for name, offset, _ in native.members(shard) if name == b"0005.json")] ^= 1
    shard.write_bytes(bad)
    assert refused("checksum", unpack, tmp_path / "out", tmp_path / "back").member == "0005.json"


def test_a_loose_file_that_changes_or_goes_is_noticed(tmp_path: Path) -> None:
    folder = write_tree(tmp_path, {"0.jpg": image_bytes(0), "0.txt": b"before", "0.json": b"{}"})
    index = Index.scan(folder)
    (folder / "0.txt").write_bytes(b"behind")
    assert refused("checksum", index.read_member, 0, "txt").shard == str(folder / "0.txt")
    (folder / "0.txt").write_bytes(b"longer than before")
    refused("index", index.read_member, 0, "txt")
    (folder / "0.txt").unlink()
    refused("io", index.read_member, 0, "txt")
    assert index.read_member(0, "json") == b"{}"
