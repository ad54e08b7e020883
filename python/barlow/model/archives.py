"""Here: files that torch.save wrote, read without running anything in them.

Not here: what such a file means (foreign.py, official/). The only file that reads what pickle wrote, by
torch's reader that builds tensors and plain containers and runs nothing (`weights_only=True`).
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch


def read_archive(path: Path, stand_ins: Sequence[tuple[Callable[..., Any], str]] = ()) -> Any:
    """What the file holds, tensors on the CPU.

    `stand_ins`: (function of ours, full name that takes its place) for functions to which the file refers.
    `OSError`; `ValueError` for a file that refers to anything else, is damaged or unpacks to more
    than itself.
    """
    _check_size(path)
    try:
        # Allowed by name, and bound to our own function: nothing of the file's author is imported.
        with torch.serialization.safe_globals(list(stand_ins)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a hostile or broken file fails in as many ways as torch has readers
        raise ValueError(
            f"{path} is no file that torch reads without running code from it: {error}"
        ) from error


def _check_size(path: Path) -> None:
    """`ValueError` for an archive whose entries are larger than itself: a small file may not fill the memory.

    torch writes them uncompressed. What is no archive is left to torch's reader.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"{path} is a damaged archive: {error}") from error
    if unpacked > path.stat().st_size:
        raise ValueError(f"{path} unpacks to {unpacked} bytes, more than it has: torch didn't write it")
