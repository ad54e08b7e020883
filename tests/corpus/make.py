"""Here: the list of all corpus files, and the command that writes them.
Not here: their content (jpegs.py, other_images.py, archives.py), their outcomes (outcomes.txt).

From the folder `tests`:

    python -m corpus.make              # writes images/ and archives/; the same bytes on every machine
    python -m corpus.make --pin        # also writes outcomes.txt as this build behaves: read the difference!
"""

from __future__ import annotations

import argparse
from pathlib import Path

from corpus import archives, jpegs, other_images

FOLDER = Path(__file__).parent


def files() -> dict[str, tuple[str, bytes]]:
    """Path below the corpus -> reason and content."""
    found: dict[str, tuple[str, bytes]] = {}
    for folder, cases in (
        ("images", jpegs.cases()),
        ("images", other_images.cases()),
        ("archives", archives.cases()),
    ):
        for name, reason, content in cases:
            if f"{folder}/{name}" in found:
                raise ValueError(f"two files of the name {folder}/{name}")
            found[f"{folder}/{name}"] = (reason, content)
    return found


def write(folder: Path) -> None:
    """Replaces images/ and archives/ below `folder`."""
    for kind in ("images", "archives"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for old in (folder / kind).iterdir():
            old.unlink()
    for path, (_, content) in files().items():
        (folder / path).write_bytes(content)


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the corpus of hostile files.")
    parser.add_argument("--pin", action="store_true", help="write outcomes.txt as this build behaves")
    options = parser.parse_args()
    write(FOLDER)
    if options.pin:
        from corpus import outcomes

        outcomes.pin()
    sizes = [len(content) for _, content in files().values()]
    print(f"{len(sizes)} files, {sum(sizes)} bytes")


if __name__ == "__main__":
    main()
