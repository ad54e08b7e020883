"""The write protocol on a disk that forgets: at a power cut, what was not flushed may or may not be there.

The calls of a real save are recorded and played on a model of a file system that knows two things of every
file and folder: what it is, and what of it has been flushed. After each call the power is cut: content that
was not flushed is old, gone, or torn, and each name that was not flushed is as before or as after, in any
combination. What remains is put on a real folder, where the recovery has to find the checkpoint that it must.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from barlow import durable

FILES = {"a.bin": bytes(range(256)), "b.json": b'{"step": 3}\n'}
SOME = 8
"""Draws of what is left at each moment."""


@dataclass
class File:
    """Content now, and as last flushed (None: never)."""

    now: bytes = b""
    flushed: bytes | None = None


@dataclass
class Folder:
    """Names now, and as last flushed."""

    now: dict[str, File | Folder] = field(default_factory=dict)
    flushed: dict[str, File | Folder] = field(default_factory=dict)


class Model:
    """Records the calls of this process below `root` and keeps what each of them means."""

    def __init__(self, root: Path) -> None:
        self.root, self.top = root, Folder()
        self._open: dict[int, File | Folder] = {}
        self.moments: list[str] = []
        self.cut = lambda: None
        self._load(root, self.top)

    def _load(self, path: Path, folder: Folder) -> None:
        """What is there already is taken for flushed."""
        for child in path.iterdir():
            node = Folder() if child.is_dir() else File(child.read_bytes(), child.read_bytes())
            folder.now[child.name] = folder.flushed[child.name] = node
            if isinstance(node, Folder):
                self._load(child, node)

    def _parent(self, path: object) -> tuple[Folder, str]:
        parts = Path(str(path)).relative_to(self.root).parts
        folder = self.top
        for part in parts[:-1]:
            below = folder.now[part]
            assert isinstance(below, Folder)
            folder = below
        return folder, parts[-1]

    def _node(self, path: object) -> File | Folder:
        if Path(str(path)) == self.root:
            return self.top
        folder, name = self._parent(path)
        return folder.now[name]

    def install(self, patch: pytest.MonkeyPatch) -> None:
        real = {name: getattr(os, name) for name in ("open", "write", "fsync", "mkdir", "rename", "replace")}

        def opened(path: object, flags: int, *rest: object, **keywords: object) -> int:
            descriptor = real["open"](path, flags, *rest, **keywords)
            if str(path).startswith(str(self.root)):
                if flags & os.O_CREAT:
                    folder, name = self._parent(path)
                    folder.now[name] = File()
                    self._after(f"open {name}")
                self._open[descriptor] = self._node(path)
            return descriptor

        def written(descriptor: int, data: memoryview) -> int:
            file = self._open[descriptor]
            assert isinstance(file, File)
            file.now += bytes(data)
            self._after("write")
            return real["write"](descriptor, data)

        def flushed(descriptor: int) -> None:
            node = self._open.get(descriptor)
            if isinstance(node, File):
                node.flushed = node.now
            elif isinstance(node, Folder):
                node.flushed = dict(node.now)
            self._after("fsync")

        def made(path: object, *rest: object) -> None:
            folder, name = self._parent(path)
            folder.now[name] = Folder()
            real["mkdir"](path, *rest)
            self._after(f"mkdir {name}")

        def renamed(source: object, target: object) -> None:
            (old, before), (new, after) = self._parent(source), self._parent(target)
            new.now[after] = old.now.pop(before)
            real["rename"](source, target)
            self._after(f"rename {before} {after}")

        def tree_removed(path: object, ignore_errors: bool = False) -> None:
            if ignore_errors and not Path(str(path)).exists():
                return
            folder, name = self._parent(path)
            RMTREE(str(path))
            del folder.now[name]
            self._after(f"rmtree {name}")

        for name, call in (
            ("open", opened), ("write", written), ("fsync", flushed), ("mkdir", made),
            ("rename", renamed), ("replace", renamed),
        ):  # fmt: skip
            patch.setattr(os, name, call)
        patch.setattr(durable.shutil, "rmtree", tree_removed)

    def _after(self, what: str) -> None:
        self.moments.append(what)
        self.cut()

    def remains(self, draw: random.Random) -> dict[str, bytes]:
        """Path and content of every file that a power cut might leave, folders with a slash; one draw."""
        found: dict[str, bytes] = {}
        self._remains(self.top, "", draw, found, set())
        return found

    def _remains(
        self, folder: Folder, prefix: str, draw: random.Random, found: dict[str, bytes], seen: set[int]
    ) -> None:
        names = dict(folder.flushed)
        for name in folder.flushed.keys() | folder.now.keys():
            if folder.flushed.get(name) is folder.now.get(name) or draw.random() < 0.5:
                continue
            if name in folder.now:
                names[name] = folder.now[name]
            else:
                del names[name]
        for name, node in names.items():
            if id(node) in seen:  # a rename that is half there: one of its two names
                continue
            seen.add(id(node))
            if isinstance(node, Folder):
                found[f"{prefix}{name}/"] = b""
                self._remains(node, f"{prefix}{name}/", draw, found, seen)
                continue
            old = node.flushed if node.flushed is not None else b""
            torn = node.now[: draw.randrange(len(node.now) + 1)] if node.now else b""
            found[f"{prefix}{name}"] = (
                old if node.flushed == node.now else draw.choice((old, b"", torn, node.now))
            )


def put(remains: dict[str, bytes], folder: Path) -> None:
    folder.mkdir()
    for path, content in sorted(remains.items()):
        if path.endswith("/"):
            (folder / path).mkdir(parents=True)
        else:
            (folder / path).write_bytes(content)


def recovered(folder: Path) -> str | None:
    durable.remove_leftovers(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = durable.newest_valid(folder, "step-*", FILES)
    return found.name if found else None


@pytest.mark.parametrize("replaces", [False, True])
def test_the_power_may_fail_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaces: bool
) -> None:
    """Until `write_folder` has returned the one before is found or the new one, afterwards the new one."""
    root, draw = tmp_path / "checkpoints", random.Random(0)
    for step in (1, 2):
        durable.write_folder(root / f"step-{step}", FILES)
    if replaces:
        durable.write_folder(root / "step-3", FILES)
        (root / "step-3" / "a.bin").write_bytes(b"damaged")
    model, counter, found = Model(root), itertools.count(), set()
    monkeypatch.setattr(os, "kill", dead)
    allowed = {"step-2", "step-3"}

    def cut() -> None:
        with monkeypatch.context() as real:
            for name, call in REAL.items():
                real.setattr(os, name, call)
            real.setattr(durable.shutil, "rmtree", RMTREE)
            for _ in range(SOME):
                place = tmp_path / str(next(counter))
                put(model.remains(draw), place)
                newest = recovered(place)
                assert newest in allowed, (model.moments, sorted(path.name for path in place.iterdir()))
                found.add(newest)
                RMTREE(place)

    model.cut = cut
    with monkeypatch.context() as patch:
        model.install(patch)
        durable.write_folder(root / "step-3", FILES)
        allowed = {"step-3"}
        cut()
        durable.prune(root, 1, "step-*", FILES)
    assert found == {"step-2", "step-3"}
    assert len(model.moments) > 15
    assert sorted(path.name for path in root.iterdir()) == ["step-3"]


REAL = {name: getattr(os, name) for name in ("open", "write", "fsync", "mkdir", "rename", "replace")}
RMTREE = shutil.rmtree


def dead(pid: int, number: int) -> None:
    """After the power is back nobody of before lives."""
    raise ProcessLookupError


@pytest.mark.parametrize("forgotten", ["files", "folders"])
def test_a_protocol_that_forgets_to_flush_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: str
) -> None:
    """The model itself under test: without the flushes of files, or of folders, a checkpoint is lost."""
    root, draw = tmp_path / "checkpoints", random.Random(0)
    root.mkdir()
    model, lost = Model(root), 0
    with monkeypatch.context() as patch:
        model.install(patch)
        flush = os.fsync

        def forgets(descriptor: int) -> None:
            if isinstance(model._open.get(descriptor), Folder) == (forgotten == "files"):
                flush(descriptor)

        patch.setattr(os, "fsync", forgets)
        durable.write_folder(root / "step-3", FILES)
    for number in range(24):
        put(model.remains(draw), tmp_path / str(number))
        monkeypatch.setattr(os, "kill", dead)
        lost += recovered(tmp_path / str(number)) is None
    assert lost > 0
