"""`barlow embed`: rows in the index's order, unbroken or resumed the same bytes, nothing mixed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import time
import warnings
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

import tiny_run
from barlow.config import ModelConfig
from barlow.data import open_index, views
from barlow.embed import embed
from barlow.embed import write as writing
from barlow.evaluate import features as features_of
from barlow.evaluate.features import Passes, network
from barlow.model import load_backbone
from test_export import make_run

MODEL = ModelConfig(backbone="resnet10", width=4, stem="cifar", projector=(8,))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("embed") / "run", MODEL)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.write_pictures(tmp_path_factory.mktemp("embed") / "pictures", per_class=7)


def expected(run: Path, data: Path) -> np.ndarray:
    """By the evaluation's own way from images to features."""
    backbone, _, config = load_backbone(run)
    assert config is not None
    (view,) = views.evaluation(size=16, resize=16)
    with Passes(
        open_index(data), view, network(backbone, torch.float32), data=config.data, batch_size=4,
        device=torch.device("cpu"),
    ) as passes:  # fmt: skip
        return passes(0).numpy()


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_image_has_its_row(run: Path, pictures: Path, tmp_path: Path) -> None:
    out = embed(run, pictures, tmp_path / "e.npy", batch_size=4, quiet=True)
    found, index = np.load(out, mmap_mode="r"), open_index(pictures)
    assert isinstance(found, np.memmap)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected(run, pictures), rtol=1e-6)
    rows = [json.loads(line) for line in (tmp_path / "e.npy.rows.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == list(range(21))
    for row in rows:
        number = row["id"]
        assert row["member"] == index.name(number)
        assert (pictures / row["shard"]).is_file()
        assert row["label"] == index.labels[number]
        assert row["class"] == index.class_names[index.labels[number]]
        assert row["class"] in row["member"]
    assert content(tmp_path).keys() == {"e.npy", "e.npy.rows.jsonl", "e.npy.json"}
    described = json.loads((tmp_path / "e.npy.json").read_text())
    assert described["data_sha256"] == index.digest()
    assert described["weights_sha256"] == features_of.digest(load_backbone(run)[0])


class Stopped(Exception):
    pass


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_what_was_interrupted_ends_in_the_same_bytes(
    suffix: str, run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(writing, "_SAVED_IMAGES", 8)  # every second batch
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    settings: dict[str, Any] = {"batch_size": 4, "quiet": True}
    embed(run, pictures, whole / f"e{suffix}", **settings)
    good, seen = writing.network, []

    def counting(stop_at: int) -> Any:
        def network(*arguments: Any) -> Any:
            forward = good(*arguments)

            def counted(images: torch.Tensor) -> torch.Tensor:
                seen.append(len(images))
                if len(seen) == stop_at:
                    raise Stopped
                return forward(images)

            return counted

        return network

    monkeypatch.setattr(writing, "network", counting(stop_at=4))
    with pytest.raises(Stopped):
        embed(run, pictures, broken / f"e{suffix}", **settings)
    assert not (broken / f"e{suffix}").exists()
    partial = broken / f"e{suffix}.partial"
    assert json.loads((partial / "progress.json").read_text())["rows"] == 8
    # Rows that nobody vouches for may be anything after a power cut.
    with (partial / "features.npy").open("r+b") as file:
        file.seek(-16, os.SEEK_END)
        file.write(b"\xff" * 16)
    seen.clear()
    monkeypatch.setattr(writing, "network", counting(stop_at=0))
    embed(run, pictures, broken / f"e{suffix}", **settings)
    assert content(broken) == content(whole)
    assert sum(seen) == 21 - 8  # and none of the images before is embedded again


def _embed_until_rows_are_saved(run: Path, data: Path, out: Path) -> NoReturn:
    """In a child: ends by SIGKILL as soon as rows are saved."""
    try:
        torch.set_num_threads(1)
        writing._SAVED_IMAGES = 4
        good = writing.Store.advance

        def advance(store: Any, rows: int) -> None:
            good(store, rows)
            if rows:
                os.kill(os.getpid(), signal.SIGKILL)

        setattr(writing.Store, "advance", advance)  # noqa: B010 (typed as one)
        embed(run, data, out, batch_size=4, quiet=True)
    finally:
        os._exit(1)


def test_a_killed_process_loses_nothing_that_was_saved(run: Path, pictures: Path, tmp_path: Path) -> None:
    """SIGKILL at once after the first rows were saved, again and again."""
    embed(run, pictures, tmp_path / "whole" / "e.npy", batch_size=4, quiet=True)
    out = tmp_path / "killed" / "e.npy"
    saved = []
    for _ in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # of forks beside threads, of which it uses none
            child = os.fork()
        if child == 0:
            _embed_until_rows_are_saved(run, pictures, out)
        deadline = time.monotonic() + 120
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.02)
        saved.append(
            json.loads((tmp_path / "killed" / "e.npy.partial" / "progress.json").read_text())["rows"]
        )
    assert saved == [4, 8, 12]
    embed(run, pictures, out, batch_size=4, quiet=True)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_only_one_process_writes_an_array(
    run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one comes while the first has made nothing but its folder, and again in the middle."""
    out, good, refused = tmp_path / "e.npy", writing.network, []

    def second() -> None:
        with pytest.raises(ValueError, match="is in use by") as error:
            embed(run, pictures, out, batch_size=4, quiet=True)
        refused.append(str(error.value))

    def busy(*arguments: Any) -> Any:
        forward = good(*arguments)

        def watched(images: torch.Tensor) -> torch.Tensor:
            second()
            return forward(images)

        return watched

    made = writing.Store.begin

    def begin(store: Any) -> int:
        second()
        return made(store)

    monkeypatch.setattr(writing, "network", busy)
    monkeypatch.setattr(writing.Store, "begin", begin)
    embed(run, pictures, out, batch_size=4, quiet=True)
    told = f"{out}.partial is in use by process {os.getpid()} on {os.uname().nodename}"
    assert refused == [told] * 7
    np.testing.assert_allclose(np.load(out), expected(run, pictures), rtol=1e-6)
    assert content(tmp_path).keys() == {"e.npy", "e.npy.rows.jsonl", "e.npy.json"}


def test_what_another_process_finishes_in_between_is_known_as_done(
    run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, good, taken = tmp_path / "e.npy", writing.alone, []

    def late(folder: Path) -> Any:
        taken.append(folder)
        if len(taken) == 1:
            embed(run, pictures, out, quiet=True)
            monkeypatch.delattr(writing.Store, "begin")  # nothing is begun again
        return good(folder)

    monkeypatch.setattr(writing, "alone", late)
    embed(run, pictures, out, quiet=True)
    assert len(taken) == 2
    assert content(tmp_path).keys() == {"e.npy", "e.npy.rows.jsonl", "e.npy.json"}


def test_nothing_is_mixed(run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out" / "e.npy"

    def stop(*_: Any) -> None:
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(writing, "network", lambda *_: stop)
        with pytest.raises(Stopped):
            embed(run, pictures, out, quiet=True)
    other_run = make_run(
        tmp_path / "other", ModelConfig(backbone="resnet10", width=5, stem="cifar", projector=(8,))
    )
    other_data = tiny_run.write_pictures(tmp_path / "data", per_class=2)
    for change, message in (
        ({"target": other_run}, r"begun otherwise: (backbone .*)?other weights \(SHA-256 \w{8}\.\.\. there"),
        ({"data": other_data}, r"other images \(SHA"),
        ({"dtype": "float16"}, "dtype is float32 there and float16 here"),
        ({"normalised": True}, "normalised is False there and True here"),
    ):
        with pytest.raises(ValueError, match=message):
            embed(**{"target": run, "data": pictures, "out": out, "quiet": True, **change})  # pyright: ignore
    progress = out.parent / "e.npy.partial" / "progress.json"
    good = progress.read_text()
    for rows in ("-1", "22", '"x"'):
        progress.write_text(good.replace('"rows": 0', f'"rows": {rows}'))
        with pytest.raises(ValueError, match=r"progress\.json is damaged; remove .*e\.npy\.partial"):
            embed(run, pictures, out, quiet=True)
    progress.write_text(good)
    embed(run, pictures, out, quiet=True)
    before = content(out.parent)
    with pytest.raises(ValueError, match=r"is there already, made otherwise: dtype"):
        embed(run, pictures, out, dtype="float16", quiet=True)
    (out.parent / "e.npy.partial").mkdir()
    embed(run, pictures, out, quiet=True)  # it is done
    assert content(out.parent) == before
    with pytest.raises(ValueError, match=r"must end in \.npy or \.parquet"):
        embed(run, pictures, tmp_path / "e.csv", quiet=True)


def test_outputs_of_one_stem_share_nothing(run: Path, pictures: Path, tmp_path: Path) -> None:
    """An array and a table of other images: neither is taken for the other's, whichever came last."""
    pytest.importorskip("pyarrow")
    others = tiny_run.write_pictures(tmp_path / "others", per_class=2)
    array, table = tmp_path / "out" / "e.npy", tmp_path / "out" / "e.parquet"
    embed(run, pictures, array, quiet=True)
    before = content(array.parent)
    embed(run, others, table, quiet=True)
    assert {name: kept for name, kept in content(array.parent).items() if name in before} == before
    assert content(array.parent).keys() - before.keys() == {"e.parquet", "e.parquet.json"}
    embed(run, pictures, array, quiet=True)  # each is known as done
    embed(run, others, table, quiet=True)
    with pytest.raises(ValueError, match="is there already, made otherwise") as refused:
        embed(run, others, array, quiet=True)
    told = str(refused.value)
    digests = [index.digest()[:8] for index in map(open_index, (pictures, others))]
    assert f"other images (SHA-256 {digests[0]}... there and {digests[1]}... here)" in told
    assert "images is 21 there and 6 here" in told
    assert told.endswith("; name another OUT, or remove e.npy for it to be made anew")
    (array.parent / "e.npy.json").unlink()
    with pytest.raises(ValueError, match=r"already, and e\.npy\.json, which would say what made it, can't"):
        embed(run, pictures, array, quiet=True)


def test_what_was_damaged_since_is_not_taken_for_done(run: Path, pictures: Path, tmp_path: Path) -> None:
    array, table = tmp_path / "e.npy", tmp_path / "e.parquet"
    embed(run, pictures, array, quiet=True)
    good, rows = content(tmp_path), tmp_path / "e.npy.rows.jsonl"
    for damage in (rows.unlink, lambda: rows.write_bytes(good[rows.name][:-1])):
        damage()
        with pytest.warns(UserWarning, match=rf"{rows} was missing or damaged: it is written anew"):
            embed(run, pictures, array, quiet=True)
        assert content(tmp_path) == good
    pytest.importorskip("pyarrow")
    embed(run, pictures, table, quiet=True)
    for out in (array, table):
        whole = out.read_bytes()
        out.write_bytes(whole[:-1])
        message = (
            rf"already, and damaged: it has {len(whole) - 1} bytes, not {len(whole)}; .*remove {out.name} "
        )
        with pytest.raises(ValueError, match=message):
            embed(run, pictures, out, quiet=True)
        out.unlink()
        embed(run, pictures, out, quiet=True)
        assert out.read_bytes() == whole


def test_parquet_and_half_precision_and_no_labels(run: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    flat = tiny_run.write_pictures(tmp_path / "flat", per_class=3, flat=True)
    embed(run, flat, tmp_path / "e.parquet", dtype="float16", normalised=True, batch_size=4, quiet=True)
    table = parquet.read_table(tmp_path / "e.parquet")
    index = open_index(flat)
    assert table.column("member").to_pylist() == [index.name(i) for i in range(9)]
    assert table.column("label").to_pylist() == table.column("class").to_pylist() == [None] * 9
    found = np.stack(table.column("embedding").to_numpy())
    assert found.dtype == np.float16
    whole = expected(run, flat)
    np.testing.assert_allclose(found, whole / np.linalg.norm(whole, axis=1, keepdims=True), atol=1e-3)
    assert json.loads(table.schema.metadata[b"barlow"])["dtype"] == "float16"


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_a_full_disk_is_told_of_by_the_file_that_was_asked_for(
    suffix: str, run: Path, pictures: Path, tmp_path: Path
) -> None:
    """Whichever write is the first for which there is no room; with room the same call ends as ever."""
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    embed(run, pictures, tmp_path / "whole" / f"e{suffix}", quiet=True)
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(*options: str) -> int:
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(disk)]
        return subprocess.run(command, capture_output=True, check=False).returncode

    if os.geteuid() != 0 or mount("size=4k"):
        pytest.skip("only root can mount a small disk")
    try:
        out, errors = disk / f"e{suffix}", []
        for pages in range(1, 20):
            mount("remount", f"size={4 * pages}k")
            try:
                embed(run, pictures, out, quiet=True)
            except OSError as error:
                errors.append((error.filename, error.errno, error.strerror))
            else:
                break
        full = (errno.ENOSPC, os.strerror(errno.ENOSPC))
        assert {*errors} <= {(f"{out}{ending}", *full) for ending in ("", ".json", ".rows.jsonl")}
        assert len(errors) >= 4
        assert content(disk) == content(tmp_path / "whole")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_numbers_that_do_not_fit_are_refused(
    run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = writing.network
    monkeypatch.setattr(writing, "network", lambda *a: lambda x: good(*a)(x) + 1e6)
    with pytest.raises(ValueError, match="too large for float16: --dtype float32, or --normalise"):
        embed(run, pictures, tmp_path / "e.npy", dtype="float16", quiet=True)
