"""The write protocol: what survives a death at any step, what a flipped bit does, what pruning keeps."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from barlow import durable

FILES = {"a.bin": bytes(range(256)) * 40, "b.json": b'{"step": 3}\n'}


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_write_file_replaces_the_whole_content(tmp_path: Path) -> None:
    target = tmp_path / "new" / "x.json"
    durable.write_file(target, "long content, \u00e9")
    durable.write_file(target, b"short")
    assert target.read_bytes() == b"short"
    assert names(target.parent) == ["x.json"]


def test_manifest_holds_sizes_and_sha256(tmp_path: Path) -> None:
    durable.write_folder(tmp_path / "f", FILES)
    manifest = json.loads((tmp_path / "f" / durable.MANIFEST).read_text())
    assert manifest["files"] == {
        name: {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()} for name, raw in FILES.items()
    }
    durable.verify_folder(tmp_path / "f")
    assert {name: (tmp_path / "f" / name).read_bytes() for name in FILES} == FILES


@pytest.mark.parametrize("name", [durable.MANIFEST, "../up", "a/b", "", "."])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name"):
        durable.write_folder(tmp_path / "f", {name: b""})
    assert names(tmp_path) == []


def test_every_single_bit_flip_is_detected(tmp_path: Path) -> None:
    """One bit of every byte of the manifest, and bits anywhere in the other files."""
    folder = tmp_path / "f"
    durable.write_folder(folder, FILES)
    draw = random.Random(0)
    manifest_bytes = (folder / durable.MANIFEST).stat().st_size
    places = [(durable.MANIFEST, 8 * i + draw.randrange(8)) for i in range(manifest_bytes)]
    places += [("b.json", 8 * i + draw.randrange(8)) for i in range(len(FILES["b.json"]))]
    places += [("a.bin", draw.randrange(8 * len(FILES["a.bin"]))) for _ in range(50)]
    for name, bit in places:
        path = folder / name
        good = path.read_bytes()
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(durable.Damaged, match="f: "):
            durable.verify_folder(folder)
        path.write_bytes(good)
    durable.verify_folder(folder)


@pytest.mark.parametrize("name", ["a.bin", durable.MANIFEST])
def test_missing_and_cut_files_are_damage(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "f"
    durable.write_folder(folder, FILES)
    raw = (folder / name).read_bytes()
    (folder / name).write_bytes(raw[:-1] if name == "a.bin" else raw[:-9])
    with pytest.raises(durable.Damaged, match=name):
        durable.verify_folder(folder)
    (folder / name).unlink()
    with pytest.raises(durable.Damaged, match=name):
        durable.verify_folder(folder)


def test_a_manifest_must_name_what_it_proves(tmp_path: Path) -> None:
    durable.write_folder(tmp_path / "step-1", FILES)
    durable.write_folder(tmp_path / "step-2", {"b.json": b""})
    durable.write_folder(tmp_path / "step-3", {})
    with pytest.raises(durable.Damaged, match="does not name any file"):
        durable.verify_folder(tmp_path / "step-3")
    with pytest.raises(durable.Damaged, match=r"does not name a\.bin"):
        durable.verify_folder(tmp_path / "step-2", FILES)
    with pytest.warns(UserWarning, match="does not name"):
        assert durable.newest_valid(tmp_path, "step-*", FILES) == tmp_path / "step-1"
    assert durable.prune(tmp_path, 1, "step-*", FILES) == []  # the damaged ones do not count


def test_a_folder_comes_back_when_its_successor_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both renames of a replacement are made to matter: an error at the second, and a death between them."""
    durable.write_folder(tmp_path / "f", FILES)
    rename, calls = os.rename, []

    def second_fails(*args: object, **kwargs: object) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(*args, **kwargs)  # pyright: ignore

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", second_fails)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            durable.write_folder(tmp_path / "f", {"c": b"new"})
    assert names(tmp_path) == ["f"]
    durable.verify_folder(tmp_path / "f", FILES)

    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    aside = tmp_path / f"f.old-{child.pid}"
    (tmp_path / "f").rename(aside)
    durable.remove_leftovers(tmp_path)
    assert names(tmp_path) == ["f"]
    durable.verify_folder(tmp_path / "f", FILES)

    # What is only half there, or has a successor, goes.
    shutil.copytree(tmp_path / "f", aside)
    durable.remove_leftovers(tmp_path)
    assert names(tmp_path) == ["f"]
    (tmp_path / "f").rename(aside)
    (aside / "a.bin").unlink()
    durable.remove_leftovers(tmp_path)
    assert names(tmp_path) == []


def test_newest_valid_skips_damage_and_says_which_and_why(tmp_path: Path) -> None:
    assert durable.newest_valid(tmp_path / "absent") is None
    for step in (1, 2, 10):
        durable.write_folder(tmp_path / f"step-{step:08d}", FILES)
    (tmp_path / "step-99999999").write_text("a file, no folder")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert durable.newest_valid(tmp_path, "step-*") == tmp_path / "step-00000010"
    (tmp_path / "step-00000010" / "a.bin").write_bytes(b"cut")
    with pytest.warns(UserWarning, match=r"step-00000010: a.bin has 3 bytes, not 10240"):
        assert durable.newest_valid(tmp_path, "step-*") == tmp_path / "step-00000002"


def test_prune_keeps_the_newest_that_verify(tmp_path: Path) -> None:
    for step in range(5):
        durable.write_folder(tmp_path / f"step-{step}", FILES)
    (tmp_path / "step-3" / "a.bin").write_bytes(b"")
    removed = durable.prune(tmp_path, keep=2, pattern="step-*")
    assert names(tmp_path) == ["step-2", "step-3", "step-4"]
    assert removed == [tmp_path / "step-1", tmp_path / "step-0"]
    for step in (2, 4):
        (tmp_path / f"step-{step}" / "a.bin").write_bytes(b"")
    assert durable.prune(tmp_path, keep=1, pattern="step-*") == []
    with pytest.raises(ValueError, match="at least 1"):
        durable.prune(tmp_path, keep=0)


def test_pruning_spares_what_it_is_told_to(tmp_path: Path) -> None:
    for step in range(7):
        durable.write_folder(tmp_path / f"step-{step}", FILES)
    removed = durable.prune(tmp_path, 2, "step-*", spare=lambda path: path.name in ("step-0", "step-3"))
    assert [path.name for path in removed] == ["step-4", "step-2", "step-1"]
    assert names(tmp_path) == ["step-0", "step-3", "step-5", "step-6"]


def test_pruning_lets_go_of_what_only_passes(tmp_path: Path) -> None:
    """Odd ones pass: the newest of all stays, and until something newer verifies so do the others."""

    def prune() -> list[str]:
        odd = durable.prune(tmp_path, 2, "step-*", FILES, passing=lambda path: int(path.name[5:]) % 2 == 1)
        return [path.name for path in odd]

    for step in range(1, 6):
        durable.write_folder(tmp_path / f"step-{step}", FILES)
    (tmp_path / "step-5" / "a.bin").write_bytes(b"")
    assert prune() == ["step-3", "step-1"]  # by 4
    assert names(tmp_path) == ["step-2", "step-4", "step-5"]
    durable.write_folder(tmp_path / "step-5", FILES)
    assert prune() == []  # it doesn't count: 2 is the second of those that do
    durable.write_folder(tmp_path / "step-6", FILES)
    (tmp_path / "step-6" / "a.bin").write_bytes(b"")
    assert prune() == []  # 5 is the newest that verifies
    durable.write_folder(tmp_path / "step-6", FILES)
    assert prune() == ["step-5", "step-2"]


def test_files_may_come_in_parts(tmp_path: Path) -> None:
    """They are asked for while the folder is written, and the manifest is that of the whole."""
    whole = bytes(range(256)) * 9
    parts = (memoryview(whole)[:700], b"", whole[700:])
    durable.write_folder(tmp_path / "f", {"a": iter(parts), "b": whole})
    entries = json.loads((tmp_path / "f" / durable.MANIFEST).read_text())["files"]
    assert entries["a"] == entries["b"] == {"bytes": 2304, "sha256": hashlib.sha256(whole).hexdigest()}
    assert (tmp_path / "f" / "a").read_bytes() == whole


def test_a_damaged_folder_is_replaced(tmp_path: Path) -> None:
    durable.write_folder(tmp_path / "f", FILES)
    (tmp_path / "f" / "a.bin").write_bytes(b"")
    durable.write_folder(tmp_path / "f", {"c": b"new"})
    durable.verify_folder(tmp_path / "f")
    assert names(tmp_path) == ["f"]
    assert names(tmp_path / "f") == [durable.MANIFEST, "c"]


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    for name in (
        f"step-1.tmp-{child.pid}",
        f"step-2.old-{child.pid}",
        f"step-3.tmp-{os.getpid()}",  # of a predecessor with this process's id: it writes nothing yet
        f"step-4.tmp-{os.getppid()}",
        "x.tmp-y",
    ):
        (tmp_path / name).mkdir()
    (tmp_path / f"file.tmp-{child.pid}").write_text("half")
    durable.remove_leftovers(tmp_path)
    assert names(tmp_path) == [f"step-4.tmp-{os.getppid()}", "x.tmp-y"]
    durable.remove_leftovers(tmp_path / "absent")


def test_a_full_disk_is_an_error_with_a_name_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on file sizes stands for the disk: the kernel refuses in the middle of a write."""
    durable.write_folder(tmp_path / "step-1", FILES)
    fork = multiprocessing.get_context("fork")
    child = fork.Process(target=write_with_little_room, args=(tmp_path,))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert names(tmp_path) == ["step-1"]
    durable.verify_folder(tmp_path / "step-1")


def write_with_little_room(directory: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    for write in (
        lambda: durable.write_folder(directory / "step-2", FILES),
        lambda: durable.write_folder(directory / "step-1", FILES),
        lambda: durable.write_file(directory / "a.bin", FILES["a.bin"]),
    ):
        with pytest.raises(OSError, match=r"File too large: .*a.bin"):
            write()
