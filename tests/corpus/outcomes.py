"""Here: the table of outcomes, read and written, and the outcome of one file in this build.
Not here: the files, any judgement about an outcome (test_corpus.py compares with Pillow and tarfile).

A line is `path | outcome | detail | reason`. The outcome is `ok` or the kind of the error; the detail is what
was decoded or listed, or the words that the error must contain.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from barlow import _native as native

FOLDER = Path(__file__).parent
TABLE = FOLDER / "outcomes.txt"
OPENING = """\
# What becomes of each file: `ok`, or the kind of the error. Written by make.py --pin, read by all tests.
# images:   ok = width x height, and the sha256 of the RGB bytes;
# archives: ok = number of members, and the sha256 of a line "name NUL offset NUL length" for each;
# else the words of the error, and where.
"""


class Outcome(NamedTuple):
    """`kind` is "ok" or that of the error; `detail` as in the table."""

    kind: str
    detail: str


def table() -> dict[str, tuple[Outcome, str]]:
    """Path -> what is pinned, and the reason of the file."""
    found = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            path, kind, detail, reason = (field.strip() for field in line.split(" | "))
            found[path] = (Outcome(kind, detail), reason)
    return found


def outcome(path: Path) -> Outcome:
    """What this build makes of a file, by the folder it lies in."""
    try:
        return Outcome("ok", image(path) if path.parent.name == "images" else archive(path))
    except native.DataError as error:
        # A decoder's own words end where it begins to describe its types.
        text = (
            str(error).removeprefix(f"{path}: ").partition(" while decoding")[0].partition(": ChunkType")[0]
        )
        return Outcome(error.kind, text)


def image(path: Path) -> str:
    pixels = native.decode(path.read_bytes())
    height, width, _ = pixels.shape
    return f"{width} x {height} {hashlib.sha256(pixels.tobytes()).hexdigest()[:16]}"


def archive(path: Path) -> str:
    members = native.members(path)
    lines = b"".join(b"%s\0%d\0%d\n" % member for member in members)
    return f"{len(members)} members {hashlib.sha256(lines).hexdigest()[:16]}"


def pin() -> None:
    """Writes the table as this build behaves."""
    from corpus import make

    lines = []
    for path, (reason, _) in sorted(make.files().items()):
        kind, detail = outcome(FOLDER / path)
        lines.append(f"{path:<50} | {kind:<7} | {detail:<75} | {reason}\n")
    TABLE.write_text(OPENING + "".join(lines), encoding="utf-8")
