"""Extra members with each batch: those of its rows, for any number of threads and ranks, and any storage."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import torch

from barlow import _native as native
from barlow.data import Batch, DataError, Index, Loader, pack
from barlow.data.verify import damaged
from photos import NUM_IMAGES, loader, samples, write_folder, write_tar

ALL = ("json", "txt", "seg.bin")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Most images have json, some a caption, one of them an empty one, and one something of another size."""
    folder = tmp_path_factory.mktemp("members") / "photos"
    folder.mkdir()
    write_folder(folder)
    for number, image in enumerate(sorted(folder.rglob("*.*"))):
        if number % 7:
            image.with_suffix(".json").write_bytes(b'{"of": "%s"}' % image.name.encode())
        if number % 3 == 0:
            image.with_suffix(".txt").write_bytes(b"a photo\n" * (number % 5))
        if number == 4:
            image.with_suffix(".seg.bin").write_bytes(bytes(range(256)) * 1000)
    return folder


@pytest.fixture(scope="module")
def archive(folder: Path) -> Path:
    return write_tar(folder, folder.parent / "photos.tar")


def rows(batches: list[Batch]) -> list[tuple[int, tuple[bytes | None, ...]]]:
    """Id and extra members of each row, in order."""
    return [
        (int(i), members)
        for batch in batches
        for i, *members in zip(batch.ids, *batch.members.values(), strict=True)
        for members in [tuple(members)]
    ]


def wanted(index: Index, ids: list[int], names: tuple[str, ...] = ALL) -> list[object]:
    def read(i: int) -> tuple[bytes | None, ...]:
        here = index.members(i)
        return tuple(index.read_member(i, name) if name in here else None for name in names)

    return [(i, read(i)) for i in ids]


def test_they_are_those_of_the_rows_whatever_reads_them(folder: Path, archive: Path, tmp_path: Path) -> None:
    index = Index.scan(folder)
    assert sum(len(index.members(i)) for i in range(len(index))) == 39 + 16 + 1
    plain = list(loader(archive))
    ids = [int(i) for batch in plain for i in batch.ids]
    oracle = wanted(index, ids)
    pack(folder, tmp_path / "shards", min_shards=3)
    for source in (folder, archive, tmp_path / "shards"):
        for threads in (1, 2, 4):
            with loader(source, members=ALL, threads=threads) as batches:
                got = list(batches)
            assert rows(got) == oracle
            assert list(got[0].members) == list(ALL)
            # The rest of the batch is what it is without them.
            assert samples(got) == samples(plain)
    assert all(batch.members == {} for batch in plain)


def test_ranks_and_resumption_give_the_same_rows(archive: Path) -> None:
    index = Index.scan(archive)
    with loader(index, members=ALL, drop_last=False) as batches:
        whole = [rows([batch]) for batch in batches]
        assert rows(list(batches)) != [row for step in whole for row in step]
    assert sorted(row for step in whole for row, _ in step) == list(range(NUM_IMAGES))
    for world in (2, 4, 8):
        parts = [
            [rows([batch]) for batch in Loader(
                index, views=loader(index).views, batch_size=8, seed=5, threads=1,
                rank=rank, world_size=world, drop_last=False, members=ALL,
            )]
            for rank in range(world)
        ]  # fmt: skip
        assert [[row for part in step for row in part] for step in zip(*parts, strict=True)] == whole
    with loader(index, members=ALL, drop_last=False) as batches:
        batches.load_state_dict({"epoch": 0, "step": 3})
        assert [rows([batch]) for batch in batches] == whole[3:]


def test_only_what_was_asked_for_comes_and_in_that_order(archive: Path) -> None:
    index = Index.scan(archive)
    for names in (("txt",), ("seg.bin", "json"), ["json"]):
        batch = next(iter(loader(index, members=names)))
        assert list(batch.members) == list(names)
        assert rows([batch]) == wanted(index, batch.ids.tolist(), tuple(names))
    # A part of which no sample has it still knows the name.
    part = index.subset([0, 7])
    with loader(part, members=("json",), batch_size=2) as batches:
        assert next(iter(batches)).members == {"json": [None, None]}


def test_names_are_checked_before_anything_starts(archive: Path, tmp_path: Path) -> None:
    index = Index.scan(archive)
    with pytest.raises(ValueError, match=r'no sample .* member "jsn": it has json, seg.bin, txt'):
        loader(index, members=("json", "jsn"))
    for wrong in ("json", ("json", "json")):
        with pytest.raises(ValueError, match="must be different extensions in a tuple or list"):
            loader(index, members=wrong)
    without = Index.scan(archive, members=False)
    assert list(loader(without))
    with pytest.raises(ValueError, match="it knows no extra members"):
        loader(without, members=("json",))
    # A source without an index is read with them where they are asked for.
    assert loader(archive, members=("json",)).index.member_names == sorted(ALL)
    assert loader(archive).index.member_names == []


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> tuple[Index, int, tarfile.TarInfo]:
    """A caption of one sample changes after it was indexed."""
    index = Index.scan(write_tar(folder, tmp_path / "photos.tar"))
    sample = 9
    with tarfile.open(tmp_path / "photos.tar") as tar:
        member = tar.getmember(index.name(sample).rsplit(".", 1)[0] + ".txt")
    with (tmp_path / "photos.tar").open("r+b") as file:
        file.seek(member.offset_data + 2)
        file.write(b"X")
    return index, sample, member


def test_a_damaged_one_is_an_error_with_its_address(broken: tuple[Index, int, tarfile.TarInfo]) -> None:
    index, sample, member = broken
    with loader(index, members=("json",)) as batches:
        assert len(list(batches)) == NUM_IMAGES // 8
    with loader(index, members=("txt",), shuffle=False) as batches:
        stream = iter(batches)
        assert next(stream).ids.tolist() == list(range(8))
        with pytest.raises(DataError) as caught:
            next(stream)
    error = caught.value
    assert (error.kind, error.shard) == ("checksum", str(index.shard(sample)))
    assert (error.member, error.offset) == (member.name, member.offset_data)


def test_a_damaged_one_replaces_its_sample(broken: tuple[Index, int, tarfile.TarInfo]) -> None:
    index, sample, member = broken
    settings = {"members": ("txt", "json"), "shuffle": False, "on_error": "replace", "max_replaced": 0.1}
    got = []
    for threads in (1, 3):
        with loader(index, threads=threads, **settings) as batches:
            got.append(list(batches))
            assert [(i, error.member) for i, error in batches.damaged] == [(sample, member.name)]
    assert rows(got[0]) == rows(got[1])
    ids = torch.cat([batch.ids for batch in got[0]]).tolist()
    assert sample not in ids
    assert [i for row, i in enumerate(ids) if i != row] == [ids[sample]]
    assert rows(got[0]) == wanted(index, ids, ("txt", "json"))


def test_verify_reads_them_too(archive: Path, broken: tuple[Index, int, tarfile.TarInfo]) -> None:
    index, sample, member = broken
    found = damaged(index, threads=2)
    assert [(i, error.kind, error.member) for i, error in found] == [(sample, "checksum", member.name)]
    assert damaged(Index.scan(archive), threads=2) == []


def test_a_missing_file_is_no_damage(folder: Path, tmp_path: Path) -> None:
    for file in sorted(folder.rglob("*.*")):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    index = Index.scan(tmp_path)
    (tmp_path / "003.txt").unlink(missing_ok=True)
    for file in tmp_path.glob("*.json"):
        file.unlink()
    with (
        loader(index, members=("json",), on_error="replace", max_replaced=1) as batches,
        pytest.raises(DataError) as caught,
    ):
        list(batches)
    assert caught.value.kind == "io"
    assert str(caught.value.shard).endswith(".json")


def test_a_rank_without_rows_has_no_members(archive: Path) -> None:
    """46 samples in batches of 45: the last batch has one row, which one of three ranks gets."""
    last = []
    for rank in range(3):
        settings = {"batch_size": 45, "drop_last": False, "world_size": 3, "rank": rank}
        with loader(archive, members=("json",), **settings) as batches:
            last.append(list(batches)[-1])
    assert sorted(batch.ids.numel() for batch in last) == [0, 0, 1]
    assert [len(batch.members["json"]) for batch in last] == [batch.ids.numel() for batch in last]


def test_the_native_stream_gives_them_by_column(archive: Path) -> None:
    index = Index.scan(archive)
    order = native.Order(len(index), 4, shuffle=False)
    stream = native.Loader(
        index, (), order, native.Meter(1), epoch=0, step=0, end_epoch=1, shrink_on_load=False, replace=None,
        members=("txt", "json"),
    )  # fmt: skip
    labels, ids = (torch.empty(4, dtype=torch.int64).numpy() for _ in range(2))
    stream.lend((), labels, ids)
    taken = stream.take(10.0)
    stream.close(1.0)
    assert taken is not None
    txt, json = taken[2]
    assert [(i, row) for i, *row in zip(ids.tolist(), txt, json, strict=True)] == [
        (i, list(row))
        for i, row in wanted(index, [0, 1, 2, 3], ("txt", "json"))  # pyright: ignore
    ]
