"""Here: the one write protocol, for files and for folders that a manifest proves; finding and pruning those.

Not here: what is written (checkpoints, configs, reports), formats, anything that decides when to write.

Every write goes to a temporary name beside its target, is flushed to the disk, renamed over the target, and
the rename is flushed too: a reader sees the old content or the new, whenever the process or the machine dies.
A folder carries MANIFEST.json (names, sizes, SHA-256), so damage that comes later is seen as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

MANIFEST = "MANIFEST.json"
_FORMAT = 1
_LEFTOVER = re.compile(r"(?P<name>.+)\.(?P<kind>tmp|old)-(?P<pid>\d+)")
_CHUNK_BYTES = 1 << 20


class Damaged(ValueError):
    """A folder is not what its manifest says; the message names the folder, the file and the fault."""


def write_file(path: Path | str, content: bytes | str) -> None:
    """Replaces the file at `path` by `content` (text as UTF-8); makes missing parent folders. `OSError`."""
    path = Path(path)
    raw = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        _write_through(temporary, raw)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def write_folder(path: Path | str, files: Mapping[str, bytes]) -> None:
    """Makes the folder `path` of these files and their manifest; it appears complete or not at all.

    A folder already at `path` is replaced. Raises `OSError` and leaves no temporary folder behind.
    """
    path = Path(path)
    for name in files:
        if name in ("", MANIFEST) or name != Path(name).name:
            raise ValueError(f"{name!r} cannot be the name of a file in {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    # A dead predecessor may have had this process's id: containers hand out the same few.
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        for name, raw in files.items():
            _write_through(temporary / name, raw)
        _write_through(temporary / MANIFEST, _manifest(files))
        _flush_folder(temporary)
        discarded = _move_aside(path) if path.exists() else None  # no rename replaces a folder with content
        try:
            temporary.rename(path)
        except BaseException:
            if discarded and not path.exists():
                discarded.rename(path)
            raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _flush_folder(path.parent)
    if discarded:
        shutil.rmtree(discarded)


def read_json(path: Path | str) -> dict[str, Any]:
    """The object in a JSON file; `OSError`, or a `ValueError` that names the file for anything else in it."""
    try:
        content = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a JSON object")
    return content


def verify_folder(path: Path | str, required: Collection[str] = ()) -> None:
    """Raises `Damaged` unless every file of the manifest is there with its size and SHA-256.

    The manifest must name a file, and those that are `required`: an emptied one proves nothing.
    """
    path = Path(path)
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
        known = manifest["format"] == _FORMAT
    except FileNotFoundError:
        raise Damaged(f"{path}: {MANIFEST} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{path}: {MANIFEST} cannot be read ({error})") from error
    if not known:
        raise Damaged(f"{path}: {MANIFEST} has format {manifest['format']!r}, not {_FORMAT}")
    for name in required if expected else ("any file",):
        if name not in expected:
            raise Damaged(f"{path}: {MANIFEST} does not name {name}")
    for name, (size, digest) in expected.items():
        try:
            found = size_and_digest(path / name)
        except OSError as error:
            raise Damaged(f"{path}: {name} cannot be read ({error.strerror or error})") from error
        if found != (size, digest):
            what = f"has {found[0]} bytes, not {size}" if found[0] != size else "has changed"
            raise Damaged(f"{path}: {name} {what}")


def newest_valid(directory: Path | str, pattern: str = "*", required: Collection[str] = ()) -> Path | None:
    """The last folder by name that verifies, or None; a `UserWarning` for each damaged one passed over."""
    for path in _newest_first(Path(directory), pattern):
        try:
            verify_folder(path, required)
        except Damaged as error:
            warnings.warn(f"skipping a damaged folder: {error}", stacklevel=2)
        else:
            return path
    return None


def prune(directory: Path | str, keep: int, pattern: str = "*", required: Collection[str] = ()) -> list[Path]:
    """Removes every folder older (by name) than the `keep` newest that verify; returns what it removed.

    Damaged folders do not count among those kept, so pruning never trades a good folder for a bad one.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, not {keep}")
    removed, num_valid = [], 0
    for path in _newest_first(Path(directory), pattern):
        if num_valid == keep:
            remove_folder(path)
            removed.append(path)
            continue
        with contextlib.suppress(Damaged):
            verify_folder(path, required)
            num_valid += 1
    return removed


def remove_folder(path: Path) -> None:
    """Removes a folder; a death in the middle leaves a leftover, never half a folder under its name."""
    discarded = _move_aside(path)
    _flush_folder(path.parent)
    shutil.rmtree(discarded)


def remove_leftovers(directory: Path | str) -> None:
    """Removes the temporary files and folders that dead processes left in `directory` (if there is one).

    A folder that was moved aside for a successor that never came goes back to its name, if it verifies.
    """
    directory = Path(directory)
    for path in list(directory.iterdir()) if directory.is_dir() else []:
        match = _LEFTOVER.fullmatch(path.name)
        if not match or _alive(int(match["pid"])):
            continue
        if match["kind"] == "old" and not path.with_name(match["name"]).exists() and _verifies(path):
            path.rename(path.with_name(match["name"]))
            _flush_folder(directory)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.tmp-{os.getpid()}")


def _move_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.old-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    return path.rename(aside)


def _verifies(path: Path) -> bool:
    try:
        verify_folder(path)
    except Damaged:
        return False
    return True


def _newest_first(directory: Path, pattern: str) -> list[Path]:
    found = [p for p in directory.glob(pattern) if p.is_dir() and not _LEFTOVER.fullmatch(p.name)]
    return sorted(found, key=lambda p: p.name, reverse=True)


def _manifest(files: Mapping[str, bytes]) -> bytes:
    entries = {
        name: {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()} for name, raw in files.items()
    }
    return (json.dumps({"format": _FORMAT, "files": entries}, indent=2) + "\n").encode()


def _write_through(path: Path, raw: bytes) -> None:
    try:
        with path.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = str(path)  # writing knows the fault ("No space left on device") but not the place
        raise


def _flush_folder(path: Path) -> None:
    """A rename is durable only when the folder that holds the name is."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def size_and_digest(path: Path) -> tuple[int, str]:
    """Bytes and SHA-256 (hex) of a file of any size."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
