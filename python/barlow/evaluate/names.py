"""Here: the names of images as they were before they were packed: what a list of names means, draws by name.

Not here: what the lists and the draws are for (labelled.py, benchmarks.py, partition.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from barlow.data import Index

_RECODED = ".bjc"  # what `barlow pack --recode` appends to a member's name


def plain_name(index: Index, i: int) -> str:
    """The name of image `i` as it was before it was packed; bytes that are no text as surrogates."""
    return index.name(i).removesuffix(_RECODED)


def ticket(index: Index, i: int, salt: str = "") -> bytes:
    """What to sort images by to draw some of them, whatever their order and however they are packed."""
    return hashlib.sha256(f"{salt}{plain_name(index, i)}".encode("utf-8", "surrogateescape")).digest()


def ids_of(index: Index, lines: Iterable[tuple[str, str]]) -> list[int]:
    """Positions in the index of the images that `lines` name, in their order.

    A line is where it stands, for errors, and a name: a member's whole name or the end of its path; or a path
    that ends in the member's whole name, as where the list was made a few folders above the images.
    `ValueError` for a name of no image or of several ones, and for an image that is named twice.
    """
    known: dict[str, list[int]] = {}
    for i in range(len(index)):
        known.setdefault(_last(plain_name(index, i)), []).append(i)
    ids: list[int] = []
    place_of: dict[int, str] = {}
    for place, name in lines:
        same = [(plain_name(index, i), i) for i in known.get(_last(name), ())]
        found = [i for member, i in same if member == name]
        found = found or [i for member, i in same if _ends(member, name) or _ends(name, member)]
        where = f"{place}: {ascii(name)[1:-1]}"
        if len(found) != 1:
            problem = f"is the name of {len(found)} images" if found else "is no image"
            raise ValueError(f"{where} {problem} of {index.source}")
        if found[0] in place_of:
            raise ValueError(f"{where} was named before, in {place_of[found[0]]}")
        place_of[found[0]] = place.rpartition(", ")[2]
        ids.append(found[0])
    return ids


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _ends(path: str, name: str) -> bool:
    """Whether the components of `name` are the last ones of the path's."""
    return f"/{path}".endswith(f"/{name}")
