"""benches/packing.py: the whole of it on a few images, what it writes, and that it tells lost files."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from commands import ROOT
from sources import class_folders, write_tree


@pytest.fixture(scope="module")
def packing() -> ModuleType:
    folder = ROOT / "benches"
    spec = importlib.util.spec_from_file_location("packing_bench", folder / "packing.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(folder), *sys.path])
        spec.loader.exec_module(module)
    return module


def test_all_lanes_are_measured(
    packing: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_tree(tmp_path / "images", class_folders(8))
    saved = tmp_path / "out.json"
    arguments = [
        str(images),
        "--most",
        "16",
        "--rounds",
        "2",
        "--folder",
        str(tmp_path),
        "--json",
        str(saved),
    ]
    assert packing.main(arguments) == 0
    found = json.loads(saved.read_text())
    shown = capsys.readouterr().out
    assert "16 files" in shown
    assert set(found["lanes"]) == {line[:28].strip() for line in shown.splitlines()[1:]}
    assert len(found["lanes"]) == 8
    assert found["lanes"][packing.BESIDE]["x_decode"] == 1
    for row in found["lanes"].values():
        assert 0 < row["least_mb_per_s"] <= row["mb_per_s"] <= row["most_mb_per_s"]
    assert 1 < found["grown"] < 1.5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out.json"]


def test_ratios_are_those_of_a_round(packing: ModuleType) -> None:
    row = packing.summary([2.0, 8.0, 2.0], [1.0, 4.0, 1.0], 10.0)
    assert row == {"mb_per_s": 5, "least_mb_per_s": 1.25, "most_mb_per_s": 5, "x_decode": 0.5}


def test_files_that_are_lost_are_told(packing: ModuleType, tmp_path: Path) -> None:
    for kind in ("plain", "recoded"):
        write_tree(tmp_path / f"{kind}-0", {"a.jpg": b"1"})
        write_tree(tmp_path / kind, {"shard-00000.tar": b"12" if kind == "recoded" else b"1"})
    assert packing.check({"a.jpg": b"1"}, tmp_path) == 2
    with pytest.raises(ValueError, match="did not give"):
        packing.check({"a.jpg": b"2"}, tmp_path)
