"""Ten thousand flipped bits in an index or a shard: every one that could change a sample is found.

The index has a checksum over all of itself. Of a shard the index knows where the samples are and the checksum
of each; a bit between them (a tar header, padding) is nothing that reading by the index ever looks at.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from barlow.data import DataError, Index, pack
from sources import class_folders, contents, refused, write_tree

FLIPS = 5000


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flips")
    pack(write_tree(folder / "source", class_folders()), folder / "packed", min_shards=2)
    # pack makes splits of its own accord; one of them is enough.
    (index,) = list((folder / "packed").rglob("barlow.index"))[:1]
    return index.parent


def test_every_flipped_bit_of_an_index_is_found(packed: Path, tmp_path: Path) -> None:
    whole = (packed / "barlow.index").read_bytes()
    path = tmp_path / "x.index"
    path.write_bytes(whole)
    rng = random.Random(1)
    with path.open("r+b", buffering=0) as file:
        for _ in range(FLIPS):
            bit = rng.randrange(8 * len(whole))
            os.pwrite(file.fileno(), bytes([whole[bit // 8] ^ 1 << bit % 8]), bit // 8)
            refused("index", Index.open, path)
            os.pwrite(file.fileno(), whole[bit // 8 : bit // 8 + 1], bit // 8)
    assert len(Index.open(path)) > 0


def test_every_flipped_bit_of_a_sample_is_found(packed: Path, tmp_path: Path) -> None:
    shutil.copytree(packed, tmp_path / "copy")
    index = Index.open(tmp_path / "copy")
    good = list(contents(index).values())
    shards = [Path(index.shard(i)) for i in range(len(index))]
    # Where a sample is, the error of a missing shard would say; its bytes are found in the shard as easily.
    places = [shard.read_bytes().index(data) for shard, data in zip(shards, good, strict=True)]
    rng = random.Random(2)
    for _ in range(FLIPS):
        i = rng.randrange(len(index))
        bit = rng.randrange(8 * len(good[i]))
        with shards[i].open("r+b") as file:
            file.seek(places[i] + bit // 8)
            file.write(bytes([good[i][bit // 8] ^ 1 << bit % 8]))
            file.flush()
            assert refused("checksum", index.read, i).offset == places[i]
            other = rng.randrange(len(index))
            assert other == i or index.read(other) == good[other]
            file.seek(places[i] + bit // 8)
            file.write(good[i][bit // 8 : bit // 8 + 1])
    assert list(contents(index).values()) == good


@pytest.mark.parametrize("size", [-1, 1, -512, 10_240])
def test_a_shard_of_another_length_is_found(packed: Path, tmp_path: Path, size: int) -> None:
    shutil.copytree(packed, tmp_path / "copy")
    index = Index.open(tmp_path / "copy")
    shard = Path(index.shard(0))
    content = shard.read_bytes()
    shard.write_bytes(content[:size] if size < 0 else content + bytes(size))
    refused("index", index.read, 0)


def test_an_index_that_is_older_than_its_shard_is_found(packed: Path, tmp_path: Path) -> None:
    """The same length, other pictures: what `ShardChanged` cannot see, the checksums do."""
    shutil.copytree(packed, tmp_path / "copy")
    index = Index.open(tmp_path / "copy")
    shard = Path(index.shard(0))
    shard.write_bytes(bytes(reversed(shard.read_bytes())))
    found = 0
    for i in range(len(index)):
        if Path(index.shard(i)) == shard:
            refused("checksum", index.read, i)
            found += 1
    assert found > 1


def test_the_index_of_another_data_set_reads_nothing(packed: Path, tmp_path: Path) -> None:
    files = {name: data + b"\0" for name, data in class_folders(per_class=3).items()}
    pack(write_tree(tmp_path / "source", files), tmp_path / "other")
    shutil.copytree(packed, tmp_path / "copy")
    (foreign,) = list((tmp_path / "other").rglob("barlow.index"))[:1]
    shutil.copy(foreign, tmp_path / "copy" / "barlow.index")
    index = Index.open(tmp_path / "copy")
    for i in range(len(index)):
        with pytest.raises(DataError):
            index.read(i)


@pytest.mark.parametrize("length", [0, 1, 127, 128, 500, -1])
def test_a_cut_index_is_found(packed: Path, tmp_path: Path, length: int) -> None:
    (tmp_path / "x.index").write_bytes((packed / "barlow.index").read_bytes()[:length])
    refused("index", Index.open, tmp_path / "x.index")
