"""Here: the one write protocol, for files and for folders that a manifest proves; finding and pruning those.

Not here: what is written (checkpoints, configs, reports), formats, anything that decides when to write.

Every write goes to a temporary name beside its target, is flushed to the disk, renamed over the target, and
the rename is flushed too: a reader sees the old content or the new, whenever the process or the machine dies.
A folder carries MANIFEST.json (names, sizes, SHA-256), so damage that comes later is seen as well.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

MANIFEST = "MANIFEST.json"
_FORMAT = 1
_LEFTOVER = re.compile(r"(?P<name>.+)\.(?P<kind>tmp|old)-(?P<pid>\d+)")
_CHUNK_BYTES = 1 << 20

Content = bytes | Iterable[bytes | memoryview]
"""Of a file: bytes, or parts that are asked for one after the other while the file is written."""


class Damaged(ValueError):
    """A folder is not what its manifest says; the message names the folder, the file and the fault."""


def write_file(path: Path | str, content: bytes | str) -> None:
    """Replaces the file at `path` by `content` (text as UTF-8); makes missing parent folders. `OSError`."""
    path = Path(path)
    raw = content.encode() if isinstance(content, str) else content
    make_folder(path.parent)
    temporary = _temporary(path)
    try:
        _write_through(temporary, raw, path)
        with naming(path):
            temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            temporary.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def move_file(source: Path, path: Path) -> None:
    """Gives a finished file its name, in place of what had it, once its bytes are on the disk. `OSError`."""
    with naming(path):
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        source.replace(path)
    _flush_folder(path.parent)
    _flush_folder(source.parent)


def write_folder(path: Path | str, files: Mapping[str, Content]) -> None:
    """Makes the folder `path` of these files and their manifest; it appears complete or not at all.

    A folder already at `path` is replaced. Raises `OSError` that names what could not be written, and leaves
    no temporary folder behind (if that can be removed: a reader takes it for nothing anyway).
    """
    path = Path(path)
    for name in files:
        if name in ("", MANIFEST) or name != Path(name).name:
            raise ValueError(f"{name!r} cannot be the name of a file in {path}")
    temporary = begin_folder(path)
    try:
        written = {name: _write_through(temporary / name, of, path / name) for name, of in files.items()}
        _finish_folder(temporary, path, written)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def begin_folder(path: Path) -> Path:
    """An empty folder for files that are written bit by bit and become `path` by `finish_folder`. `OSError`.

    Its name says whose it is: what a dead process left behind, `remove_leftovers` removes.
    """
    make_folder(path.parent)
    temporary = _temporary(path)
    # A dead predecessor may have had this process's id: containers hand out the same few.
    shutil.rmtree(temporary, ignore_errors=True)
    with naming(path):
        temporary.mkdir()
    return temporary


def finish_folder(temporary: Path, path: Path) -> None:
    """Makes the folder, whose files are on the disk, the folder `path`, as `write_folder` would.

    `OSError`: what could not be done; the folder is then still there.
    """
    with naming(path):
        written = {file.name: size_and_digest(file) for file in temporary.iterdir()}
    _finish_folder(temporary, path, written)


def _finish_folder(temporary: Path, path: Path, written: Mapping[str, tuple[int, str]]) -> None:
    """Proves what was written to `temporary` by a manifest and gives the folder its name."""
    _write_through(temporary / MANIFEST, _manifest(written), path / MANIFEST)
    _flush_folder(temporary, path)
    discarded = _move_aside(path) if path.exists() else None  # no rename replaces a folder with content
    try:
        with naming(path):
            temporary.rename(path)
    except BaseException:
        if discarded and not path.exists():
            discarded.rename(path)
        raise
    _flush_folder(path.parent)
    if discarded:
        _remove_tree(discarded)


def make_folder(path: Path) -> None:
    """Makes the folder and those above it that are missing, and flushes every new name. `OSError`."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        _flush_folder(folder.parent)


def check_target(path: Path) -> None:
    """`OSError` that names the place where a file can't be written, before hours of work for it begin."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


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


def prune(
    directory: Path | str,
    keep: int,
    pattern: str = "*",
    required: Collection[str] = (),
    spare: Callable[[Path], bool] = lambda path: False,
    passing: Callable[[Path], bool] = lambda path: False,
) -> list[Path]:
    """Removes every folder older (by name) than the `keep` newest that verify; returns what it removed.

    Damaged folders do not count among those kept, so pruning never trades a good folder for a bad one. Those
    that `spare` says yes to stay as well, whatever their age. Those that are only `passing` do not count
    either, and go as soon as a newer one verifies.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, not {keep}")
    found = _newest_first(Path(directory), pattern)
    lasting = [path for path in found if not passing(path)]
    if all(map(spare, lasting[keep:])) and not any(map(passing, found[1:])):
        return []  # then nobody needs to read them all
    removed, num_valid, has_valid = [], 0, False
    for path in found:
        if has_valid if passing(path) else num_valid == keep and not spare(path):
            remove_folder(path)
            removed.append(path)
        elif num_valid < keep:
            with contextlib.suppress(Damaged):
                verify_folder(path, required)
                has_valid, num_valid = True, num_valid + (not passing(path))
    return removed


def remove_folder(path: Path) -> None:
    """Removes a folder; a death in the middle leaves a leftover, never half a folder under its name."""
    discarded = _move_aside(path)
    _flush_folder(path.parent)
    _remove_tree(discarded)


def is_leftover(name: str) -> bool:
    """Whether only something unfinished or replaced can have this name."""
    return _LEFTOVER.fullmatch(name) is not None


def remove_leftovers(directory: Path | str, of: Collection[str] | None = None) -> None:
    """Removes the temporary files and folders that dead processes left in `directory` (if there is one).

    `of`: only those that were to get one of these names, in a folder that may hold anything else as well.
    A folder that was moved aside for a successor that never came goes back to its name, if it verifies. This
    process itself must not be writing there: what bears its id is that of a predecessor with the same one.
    """
    directory = Path(directory)
    for path in list(directory.iterdir()) if directory.is_dir() else []:
        match = _LEFTOVER.fullmatch(path.name)
        if (
            not match
            or (of is not None and match["name"] not in of)
            or _belongs_to_another(int(match["pid"]))
        ):
            continue
        if match["kind"] == "old" and not path.with_name(match["name"]).exists() and _verifies(path):
            path.rename(path.with_name(match["name"]))
            _flush_folder(directory)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)  # what can't be removed is in nobody's way
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.tmp-{os.getpid()}")


def _move_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.old-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    with naming(path):
        return path.rename(aside)


def _remove_tree(path: Path) -> None:
    with naming(path):
        shutil.rmtree(path)


def _verifies(path: Path) -> bool:
    try:
        verify_folder(path)
    except Damaged:
        return False
    return True


def _newest_first(directory: Path, pattern: str) -> list[Path]:
    found = [p for p in directory.glob(pattern) if p.is_dir() and not is_leftover(p.name)]
    return sorted(found, key=lambda p: p.name, reverse=True)


def _manifest(written: Mapping[str, tuple[int, str]]) -> bytes:
    entries = {name: {"bytes": size, "sha256": digest} for name, (size, digest) in written.items()}
    return (json.dumps({"format": _FORMAT, "files": entries}, indent=2) + "\n").encode()


def _write_through(path: Path, content: Content, name: Path) -> tuple[int, str]:
    """Writes a file and flushes it; its bytes and SHA-256. Errors speak of `name`, which it is to have."""
    digest, size = hashlib.sha256(), 0
    with naming(name):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            for part in (content,) if isinstance(content, bytes) else content:
                rest = memoryview(part)
                digest.update(rest)
                size += rest.nbytes
                while rest:
                    written = os.write(descriptor, rest)  # may be less than asked for
                    if not written:
                        raise OSError(errno.EIO, "nothing is written any more")
                    rest = rest[written:]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return size, digest.hexdigest()


def _flush_folder(path: Path, name: Path | None = None) -> None:
    """A rename is durable only when the folder that holds the name is. Errors speak of `name`, if given."""
    with naming(name or path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors inside name the path: a call on a descriptor knows none, one on a temporary name its own."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def size_and_digest(path: Path) -> tuple[int, str]:
    """Bytes and SHA-256 (hex) of a file of any size."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def _belongs_to_another(pid: int) -> bool:
    """Whether a living process other than this one has the id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()
