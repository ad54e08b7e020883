"""Every file of the corpus has its one outcome: pixels as Pillow has them, members as tarfile has them, or
the error that is pinned. Where we deviate from either, the reason stands here."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from barlow.data import decode
from corpus import make, outcomes
from tar_oracle import verdict

FILES = make.files()
PINNED = outcomes.table()
IMAGES = [path for path in FILES if path.startswith("images/")]
ARCHIVES = [path for path in FILES if path.startswith("archives/")]

OTHER_PIXELS = {
    "images/grey-16.png": "16-bit grey keeps its high byte; Pillow clips, so that all above 255 is white",
}
REFUSED_BY_PILLOW = {
    "images/profile-bomb.png": "profiles are skipped unread, Pillow inflates them and stops",
    "images/text-bomb.png": "texts are skipped unread, Pillow inflates them and stops",
    "images/text-crc.png": "a checksum of a chunk without pixels",
    "images/adler.png": "the chunk's own CRC holds, so the bytes are as they were written",
}


def test_the_corpus_is_what_its_script_writes() -> None:
    there = {
        path.relative_to(make.FOLDER).as_posix(): path.read_bytes()
        for folder in ("images", "archives")
        for path in (make.FOLDER / folder).iterdir()
    }
    assert there == {path: content for path, (_, content) in FILES.items()}
    assert {path: reason for path, (_, reason) in PINNED.items()} == {
        path: reason for path, (reason, _) in FILES.items()
    }
    assert len(IMAGES) >= 70
    assert len(ARCHIVES) >= 50
    assert sum(map(len, there.values())) < 1_000_000


@pytest.mark.parametrize("path", FILES)
def test_a_file_has_its_outcome(path: str) -> None:
    kind, detail = outcomes.outcome(make.FOLDER / path)
    pinned = PINNED[path][0]
    assert kind == pinned.kind, detail
    assert pinned.detail in detail


@pytest.mark.parametrize("path", [path for path in IMAGES if PINNED[path][0].kind == "ok"])
def test_what_decodes_has_the_pixels_of_pillow(path: str) -> None:
    content = FILES[path][1]
    with warnings.catch_warnings():
        # Pillow warns of broken EXIF, of truncated tags and of palettes with transparency.
        warnings.simplefilter("ignore")
        if path in REFUSED_BY_PILLOW:
            with pytest.raises((OSError, SyntaxError, ValueError)):
                Image.open(io.BytesIO(content)).convert("RGB")
            return
        expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert np.array_equal(decode(content), expected) != (path in OTHER_PIXELS)


@pytest.mark.parametrize("path", [path for path in IMAGES if PINNED[path][0].kind == "ok"])
def test_what_decodes_has_the_pixels_of_libjpeg_turbo(path: str) -> None:
    content = FILES[path][1]
    assert np.array_equal(decode(content), decode(content, library_codes=True))


@pytest.mark.parametrize("path", ARCHIVES)
def test_an_archive_is_listed_as_tarfile_lists_it_or_refused(path: str, tmp_path: Path) -> None:
    agreed = verdict(FILES[path][1], tmp_path / "x.tar") == "agreed"
    assert agreed == (PINNED[path][0].kind == "ok")
