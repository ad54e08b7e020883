"""DALI on recoded shards: both stages give the floats of plain ones, and what DALI's own reader finds there.

It needs `barlow[dali]`.
"""

# The package is optional.
# pyright: reportMissingImports=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from barlow.data import DataError, Index, index_source, pack, restore, views
from barlow.data.dali.installed import missing
from barlow.data.dali.wds_index import write_indexes
from photos import write_folder
from sources import numbered_samples, write_tar
from test_dali_stage import assert_same, dali
from test_recode_shards import flipped

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """The same images as plain shards and as recoded ones."""
    root = tmp_path_factory.mktemp("shards")
    (root / "photos").mkdir()
    folder = write_folder(root / "photos")
    reports = {recoding: pack(folder, root / str(recoding), recode=recoding) for recoding in (False, True)}
    assert (reports[False]["recoded"], reports[True]["recoded"]) == (0, 36)
    return {recoding: root / str(recoding) for recoding in reports}


@pytest.mark.parametrize("hand_over", ["crops", "encoded"])
def test_both_stages_give_the_floats_of_plain_shards(shards: dict[bool, Path], hand_over: str) -> None:
    """In "encoded" DALI decodes the originals, which Rust has made again."""
    settings: dict[str, Any] = {"views": views.barlow_twins(size=24), "batch_size": 8}
    with (
        dali(shards[False], hand_over, **settings) as plain,
        dali(shards[True], hand_over, **settings) as ours,
    ):
        count = 0
        for batch, other in zip(ours, plain, strict=True):
            assert_same(batch, other)
            count += 1
    assert count == 5


def test_an_image_whose_original_is_lost_is_named_or_replaced(
    shards: dict[bool, Path], tmp_path: Path
) -> None:
    """Its pixels are there for whoever decodes them in Rust; its file, which DALI would have, is not."""
    shard = tmp_path / "shard-00000.tar"
    shard.write_bytes((shards[True] / shard.name).read_bytes())
    flipped(shard, "class1/001.jpg.bjc", 60)
    index = Index.open(index_source(shard))
    settings: dict[str, Any] = {"views": views.mae(24), "batch_size": 8, "shuffle": False}
    with dali(index, "crops", **settings) as batches:
        assert len(list(batches)) == 5
    with dali(index, "encoded", **settings) as batches, pytest.raises(DataError) as caught:
        list(batches)
    assert (caught.value.kind, caught.value.member) == ("image", "class1/001.jpg.bjc")
    with dali(index, "encoded", on_error="replace", **settings) as batches:
        assert sum(len(batch.ids) for batch in batches) == 40
        assert [error.member for _, error in batches.damaged] == ["class1/001.jpg.bjc"]


def test_dalis_own_reader_finds_members_by_their_longer_extension(tmp_path: Path) -> None:
    """As docs/dali.md says: nothing under "jpg", and under "jpg.bjc" what `restore` gives the file of."""
    from nvidia.dali import fn, pipeline_def

    files = numbered_samples(4)
    pack(write_tar(tmp_path / "source.tar", files), tmp_path / "out", recode=True)
    (idx,) = write_indexes(Index.open(tmp_path / "out"))

    @pipeline_def(batch_size=4, num_threads=1, device_id=None)
    def reader() -> tuple[Any, ...]:
        paths = {"paths": [str(idx.with_suffix(".tar"))], "index_paths": [str(idx)]}
        return tuple(fn.readers.webdataset(**paths, ext=["jpg", "jpg.bjc", "json"]))

    graph: Any = reader()
    graph.build()
    found = [[np.asarray(output.at(i)).tobytes() for i in range(4)] for output in graph.run()]
    assert found[0] == [b""] * 4
    assert [restore(member) for member in found[1]] == [files[f"{n:06}.jpg"] for n in range(4)]
    assert found[2] == [b"{}"] * 4
