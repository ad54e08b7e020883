"""Every single call of the write protocol goes wrong once: death before and after it, errors, short writes.

`BARLOW_EXHAUSTIVE=1` also takes all pairs of a death and a death during the recovery from it.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from barlow import durable
from disk import DEATHS, ERRORS, Call, Died, Disk, relative

FILES = {"a.bin": bytes(range(256)) * 8, "b.json": b'{"step": 3}\n'}
ONE = {"a": b"some bytes"}
EXHAUSTIVE = bool(os.environ.get("BARLOW_EXHAUSTIVE"))
DEAD_PIDS = (2**22 + 1, 2**22 + 2, 2**22 + 3)
"""Above Linux's largest id, so nobody has them."""
Capture = pytest.CaptureFixture[str]


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def save_and_prune(directory: Path, step: int = 3, files: dict[str, bytes] = FILES) -> None:
    """What every checkpoint does: a folder, then the removal of an older one."""
    durable.write_folder(directory / f"step-{step}", files)
    durable.prune(directory, 1, "step-*", files)


def recover(directory: Path, files: dict[str, bytes] = FILES) -> Path | None:
    """What every resumption does."""
    durable.remove_leftovers(directory)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return durable.newest_valid(directory, "step-*", files)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Steps 1 and 2 valid, step 3 damaged, so that replacing a folder is among the calls."""
    folder = tmp_path_factory.mktemp("template")
    for step in (1, 2, 3):
        durable.write_folder(folder / f"step-{step}", FILES)
    (folder / "step-3" / "a.bin").write_bytes(b"damaged")
    return folder


def calls_of(template: Path, directory: Path) -> list[Call]:
    """All calls of an undisturbed save."""
    disk = Disk()
    shutil.copytree(template, directory)
    with disk.calls():
        save_and_prune(directory)
    return disk.made


def test_files_reach_the_disk_before_their_names_do(tmp_path: Path) -> None:
    """The exact order (R16), a first save and one that replaces a folder and removes an older one."""
    disk = Disk()
    with disk.calls():
        save_and_prune(tmp_path / "new")
    write = [
        "mkdir step-3.tmp-PID",
        *(f"{call} step-3.tmp-PID/{name}"
          for name in ("a.bin", "b.json", durable.MANIFEST) for call in ("open", "write", "fsync", "close")),
        "fsync step-3.tmp-PID",
    ]  # fmt: skip
    into = ["rename step-3.tmp-PID -> step-3", "fsync ."]
    made = relative(disk.made, tmp_path / "new", os.getpid())
    above = str(tmp_path)
    assert made == ["mkdir .", f"fsync {above}", *write, *into]

    durable.write_folder(tmp_path / "new" / "step-2", ONE)
    (tmp_path / "new" / "step-3" / "a.bin").write_bytes(b"damaged")
    with (disk := Disk()).calls():
        save_and_prune(tmp_path / "new")
    made = relative(disk.made, tmp_path / "new", os.getpid())
    head = [*write, "rename step-3 -> step-3.old-PID", *into]
    assert made[: len(head)] == head
    rest = made[len(head) :]
    assert [call.split()[0] for call in rest[:4]] == ["unlink", "unlink", "unlink", "rmdir"]
    assert rest[4:6] == ["rename step-2 -> step-2.old-PID", "fsync ."]
    assert [call.split()[0] for call in rest[6:]] == ["unlink", "unlink", "rmdir"]


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_the_kernel_sees_the_same_order(tmp_path: Path) -> None:
    """The same by the system calls of a real process."""
    program = (
        "import sys; from barlow.durable import *; write_folder(sys.argv[1], {'a.bin': b'1', 'b': b'2'})"
    )
    target, trace = tmp_path / "step-3", tmp_path / "trace"
    watched = "openat,write,fsync,fdatasync,rename,renameat,renameat2,mkdir,mkdirat"
    done = subprocess.run(
        ["strace", "-y", "-o", trace, "-e", f"trace={watched}", sys.executable, "-c", program, target],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    if "ptrace" in done.stderr.lower() and done.returncode:
        pytest.skip(f"strace may not trace here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    lines = [line for line in trace.read_text().splitlines() if str(target) in line or "fsync(" in line]
    seen = [line.partition("(")[0] for line in lines if not re.search(r"openat.*O_RDONLY|= -1 ", line)]
    assert [re.sub(r"at2?$", "", name) for name in seen] == [
        "mkdir", *["open", "write", "fsync"] * 3, "fsync", "rename", "fsync",
    ]  # fmt: skip
    fsynced = [re.search(r"fsync\(\d+<(.*?)>\)", line) for line in lines if "fsync(" in line]
    names_of = [re.sub(r"\.tmp-\d+", "", Path(match[1]).name) for match in fsynced if match]
    assert names_of == ["a.bin", "b", durable.MANIFEST, "step-3", tmp_path.name]


@pytest.mark.parametrize("fault", DEATHS)
def test_death_around_every_call(template: Path, tmp_path: Path, fault: str) -> None:
    """Death at call n for all n (R11); the recovery leaves no litter and needs nobody's help."""
    total = len(calls_of(template, tmp_path / "count"))
    assert total > 30
    for at in range(1, total + 1):
        directory = shutil.copytree(template, tmp_path / str(at))
        with pytest.raises(Died), Disk(at, fault, pid=DEAD_PIDS[0]).calls():
            save_and_prune(directory)
        recovered(directory, at)


@pytest.mark.parametrize("fault", DEATHS)
def test_death_of_a_real_process(template: Path, tmp_path: Path, fault: str) -> None:
    """The same by `_exit` of a forked child, so that nothing of this process can have helped."""
    total = len(calls_of(template, tmp_path / "count"))
    fork = multiprocessing.get_context("fork")
    for at in range(1, total + 1, 1 if EXHAUSTIVE else 11):
        directory = shutil.copytree(template, tmp_path / str(at))
        child = fork.Process(target=save_until_death, args=(directory, at, fault))
        child.start()
        child.join()
        assert child.exitcode == 9
        recovered(directory, at)


def save_until_death(directory: Path, at: int, fault: str) -> None:
    with Disk(at, fault, really=True).calls():
        save_and_prune(directory)


def recovered(directory: Path, at: int) -> None:
    assert recover(directory) is not None, (at, names(directory))
    assert all("." not in name for name in names(directory)), (at, names(directory))
    save_and_prune(directory)
    assert names(directory) == ["step-3"]
    durable.verify_folder(directory / "step-3", FILES)
    shutil.rmtree(directory)


def died(directory: Path, at: int, fault: str, pid: int, recovering: bool, files: dict[str, bytes]) -> bool:
    """Recovers (if so) and saves step 2 until the death at call `at`; False if all was done before."""
    try:
        with Disk(at, fault, pid=pid).calls():
            if recovering:
                recover(directory, files)
            save_and_prune(directory, 2, files)
    except Died:
        return True
    return False


def test_death_during_the_recovery_from_a_death(tmp_path: Path) -> None:
    """All pairs (R11, compound): killed at call n, killed again at call m while recovering and saving."""
    start = tmp_path / "start"
    durable.write_folder(start / "step-1", ONE)
    durable.write_folder(start / "step-2", ONE)
    (start / "step-2" / "a").write_bytes(b"damaged")
    faults, pairs = ("die before", "die torn") if EXHAUSTIVE else ("die before",), 0
    stride = 1 if EXHAUSTIVE else 3
    for fault in faults:
        for first in range(1, 1000, stride):
            once = shutil.copytree(start, tmp_path / "once")
            if not died(once, first, fault, DEAD_PIDS[0], False, ONE):
                shutil.rmtree(once)
                break
            for second in range(1, 1000):
                twice = shutil.copytree(once, tmp_path / "twice")
                still = died(twice, second, fault, DEAD_PIDS[1], True, ONE)
                found = recover(twice, ONE)
                assert found is not None, (fault, first, second, names(twice))
                assert all("." not in name for name in names(twice)), (first, second, names(twice))
                shutil.rmtree(twice)
                pairs += 1
                if not still:
                    break
            shutil.rmtree(once)
    assert pairs > (900 if EXHAUSTIVE else 150)
    print(f"{pairs} pairs")


@pytest.mark.parametrize("fault", [*ERRORS, "short"])
def test_an_error_of_every_call(template: Path, tmp_path: Path, fault: str) -> None:
    """R12: the error names a path of the run, what was valid stays so, and the next save needs no help."""
    calls = calls_of(template, tmp_path / "count")
    for at, call in enumerate(calls, start=1):
        if fault == "short" and call.name != "write":
            continue
        directory = shutil.copytree(template, tmp_path / str(at))
        error = None
        try:
            with Disk(at, fault).calls():
                save_and_prune(directory)
        except OSError as caught:
            error = caught
        if fault == "short":
            assert error is None, at
        elif error is None:  # a call that may fail: cleaning up what is in nobody's way
            assert call.name in ("unlink", "rmdir"), (at, call)
        else:
            assert error.errno == ERRORS[fault], at
            assert str(error.filename).startswith(f"{directory}/step-") or error.filename == str(directory)
            assert ".tmp-" not in str(error.filename)
        assert all(re.fullmatch(r"step-[123](\.old-\d+)?", name) for name in names(directory)), (at, call)
        found = recover(directory)
        assert found is not None, (at, call)
        assert error is not None or found.name == "step-3", (at, call)
        save_and_prune(directory)
        assert names(directory) == ["step-3"]
        shutil.rmtree(directory)


@pytest.mark.parametrize("fault", [*DEATHS, *ERRORS, "short"])
def test_a_file_is_the_old_one_or_the_new_one(tmp_path: Path, fault: str) -> None:
    """The same for `write_file`; every path of the sweep ends with what was there or what was to come."""
    at, target = 0, tmp_path / "run.json"
    while True:
        at += 1
        durable.write_file(target, "old")
        disk, error = Disk(at, fault, pid=DEAD_PIDS[0]), None
        try:
            with disk.calls():
                durable.write_file(target, "the new content")
        except (OSError, Died) as caught:
            error = caught
        assert target.read_text() in (("old", "the new content") if error else ("the new content",))
        if isinstance(error, OSError):
            assert error.filename in (str(target), str(tmp_path))
            assert names(tmp_path) == ["run.json"]
        durable.remove_leftovers(tmp_path)
        assert names(tmp_path) == ["run.json"]
        if at > len(disk.made):
            break
    assert at == len(disk.made) + 1 == 7
