"""Small sources of real images for the tests of scan, pack and loader: trees, tars, and what is in them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from barlow import _native as native

CLASSES = ["ape", "bee", "cat"]


def image_bytes(seed: int, format: str = "JPEG") -> bytes:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(8, 40, 2))
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(buffer, format)
    return buffer.getvalue()


def write_tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def read_tar(path: Path) -> dict[str, bytes]:
    with tarfile.open(path, "r:") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # pyright: ignore


def read_tree(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


def class_folders(per_class: int = 7) -> dict[str, bytes]:
    formats = {"jpg": "JPEG", "PNG": "PNG", "webp": "WEBP"}
    files = {}
    for label, name in enumerate(CLASSES):
        for number in range(per_class):
            extension = ["jpg", "jpg", "PNG", "webp"][number % 4]
            files[f"{name}/{number:03}.{extension}"] = image_bytes(100 * label + number, formats[extension])
    return files


def numbered_samples(count: int = 12) -> dict[str, bytes]:
    files = {}
    for number in range(count):
        files[f"{number:06}.jpg"] = image_bytes(number)
        files[f"{number:06}.json"] = b"{}"
        files[f"{number:06}.cls"] = b"%d\n" % (number * 7 % 5)
    return files


def contents(index: native.Index) -> dict[str, bytes]:
    return {index.name(i): index.read(i) for i in range(len(index))}


def refused(kind: str, call, *arguments, **keywords) -> native.DataError:
    with pytest.raises(native.DataError) as caught:
        call(*arguments, **keywords)
    assert caught.value.kind == kind, caught.value
    return caught.value
