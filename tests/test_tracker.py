"""Weights & Biases, offline, for real where the package is installed; without it a run is refused at once."""

from __future__ import annotations

import importlib.util
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from barlow.train import tracker
from commands import TINY, barlow_here, make_images

Capture = pytest.CaptureFixture[str]


def test_without_the_package_nothing_is_started(
    tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else find(name))
    data = make_images(tmp_path / "images", num_images=8)
    result = barlow_here(capfd, "train", data, "--run", tmp_path / "run", *TINY, "--train.wandb", "x")
    assert result.code == 2
    assert "--train.wandb needs the package wandb: pip install wandb" in result.err
    assert not (tmp_path / "run").exists()
    tracker.check("")


def records_of(raw: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format after a header of 7 bytes, in blocks of 32 KiB."""
    offset, record = 7, b""
    while offset + 7 <= len(raw):
        left = 32768 - offset % 32768
        if left < 7:  # too little for a header: zeros up to the next block
            offset += left
            continue
        _, length, kind = struct.unpack_from("<IHB", raw, offset)
        record += raw[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def test_a_run_and_its_continuation_are_one_offline_run(
    tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    records = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    monkeypatch.setenv("WANDB_MODE", "offline")
    data, run = make_images(tmp_path / "images", num_images=16), tmp_path / "run"
    for steps in (2, 4):
        flags = (*TINY, "--train.log_every", 1, "--train.steps", steps, "--train.wandb", "barlow-tests")
        result = barlow_here(capfd, "train", data, "--run", run, *flags)
        assert result.code == 0, result.err
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    logged: dict[int, dict[str, float]] = {}
    ids = set()
    for path in (run / "wandb").glob("offline-run-*/*.wandb"):
        for raw in records_of(path.read_bytes()):
            record = records.Record()
            record.ParseFromString(raw)
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
                assert record.run.project == "barlow-tests"
            if record.WhichOneof("record_type") == "history":
                items = {
                    (i.key or ".".join(i.nested_key)): json.loads(i.value_json) for i in record.history.item
                }
                logged[items["step"]] = items
    assert ids == {json.loads((run / "wandb.json").read_text())["id"]}
    assert sorted(logged) == [1, 2, 3, 4]
    for line in lines:
        assert logged[line["step"]]["loss"] == pytest.approx(line["loss"])
        assert logged[line["step"]]["rank_me"] == pytest.approx(line["rank_me"])
        assert logged[line["step"]]["_step"] == line["step"]
