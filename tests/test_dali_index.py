"""DALI's own index of a tar: by hand, and read by DALI's WebDataset reader where that is installed."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from barlow import _native
from barlow.data import Index, index_source
from barlow.data.dali.installed import missing
from barlow.data.dali.wds_index import lines, write_indexes
from commands import barlow_here
from sources import image_bytes, numbered_samples, read_tar, write_tar, write_tree

Capture = pytest.CaptureFixture[str]


def test_every_member_stands_where_it_lies() -> None:
    """Runs of one stem are samples; extensions begin at the first dot; hidden files, and names without an
    extension, belong to none; white space ends no field."""
    members = [
        (b"a/1.jpg", 512, 10), (b"a/1.seg.npy", 1536, 20), (b"a/.hidden.jpg", 2560, 1),
        (b"a/README", 3584, 5), (b"a/2.jpg", 4608, 30), (b"b/2.jpg", 5632, 40), (b"b.c/2 3.jpg", 6656, 0),
        (b"b.c/2 3.a b", 7168, 7), (b"a/1.jpg", 8192, 50),
    ]  # fmt: skip
    assert lines(members) == (
        b"v1.2 5\n"
        b"jpg 512 10 a/1.jpg seg.npy 1536 20 a/1.seg.npy\n"
        b"jpg 4608 30 a/2.jpg\n"
        b"jpg 5632 40 b/2.jpg\n"
        b"jpg 6656 0 b.c/2_3.jpg\n"
        b"jpg 8192 50 a/1.jpg\n"
    )
    assert lines([]) == b"v1.2 0\n"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tars: numbered samples, and names too long for a header, which tar keeps in members before it."""
    folder = tmp_path_factory.mktemp("shards")
    write_tar(folder / "000.tar", numbered_samples())
    files: dict[str, bytes] = {}
    for stem in (*(f"{'deep/' * 30}{number}" for number in range(3)), "last"):
        files |= {f"{stem}.jpg": image_bytes(len(files)), f"{stem}.cls": b"1"}
    with tarfile.open(folder / "001.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return folder


def test_barlow_index_writes_it_beside_the_tars(shards: Path, tmp_path: Path, capfd: Capture) -> None:
    result = barlow_here(capfd, "index", shards)
    written = [shards / name for name in ("barlow.index", "000.idx", "001.idx")]
    assert (result.code, result.out) == (0, "".join(f"{path}\n" for path in written))
    for path in written[1:]:
        head, *samples = path.read_text().splitlines()
        assert head == f"v1.2 {len(samples)}"
        data, files = path.with_suffix(".tar").read_bytes(), read_tar(path.with_suffix(".tar"))
        for sample in samples:
            words = sample.split(" ")
            for _, offset, size, name in zip(*(iter(words),) * 4, strict=True):
                assert data[int(offset) : int(offset) + int(size)] == files.pop(name)
        assert not files
    assert len(Index.scan(shards)) == 16, "the new files are no shards"
    (tmp_path / "here").mkdir()
    elsewhere = barlow_here(capfd, "index", shards, "--out", tmp_path / "here" / "x.index")
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["000.idx", "001.idx", "x.index"]
    assert elsewhere.out.count("\n") == 3


def test_loose_images_have_none(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a/1.jpg": image_bytes(1)})
    assert write_indexes(Index.open(index_source(tmp_path))) == []


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_dali_reads_the_archives_by_it(shards: Path, tmp_path: Path) -> None:
    """Every component of every sample, byte for byte; also of samples that lack one."""
    from nvidia.dali import fn, pipeline_def, types  # pyright: ignore[reportMissingImports]

    index = Index.scan(shards)
    paths = write_indexes(index, tmp_path)
    tars = [str(shards / path.with_suffix(".tar").name) for path in paths]

    @pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def read() -> Any:
        parts = fn.readers.webdataset(
            paths=tars, index_paths=[str(path) for path in paths], ext=["jpg", "json"],
            missing_component_behavior="empty", dtypes=[types.UINT8, types.UINT8],
        )  # fmt: skip
        return tuple(parts)

    graph: Any = read()
    graph.build()
    found = [[np.array(part[0]).tobytes() for part in graph.run()] for _ in range(len(index))]
    expected = [
        [index.read(i), b"{}" if str(index.shard(i)).endswith("000.tar") else b""] for i in range(len(index))
    ]
    assert found == expected
    assert len(_native.members(tars[0])) == 36
