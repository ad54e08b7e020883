"""What a run's ranks were given, step by step: ids in their order and a digest of each image's views.

As a program it is `barlow` itself, and each rank writes its trail into a folder:

    torchrun OPTIONS tests/trails.py -- FOLDER train …
"""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from barlow.data import AnyLoader, Batch
from barlow.train import loop

Trail = dict[int, tuple[list[int], list[str]]]
"""For each step the ids in their order, and a digest of each image's views."""
Sink = Callable[[int, list[int], list[str]], None]


@contextmanager
def followed(sink: Sink) -> Iterator[None]:
    """Inside, `sink` is told of each batch that a run of this process takes: its step, ids and digests."""

    def every_epoch(loader: AnyLoader) -> Iterator[Batch]:
        for batch in original(loader):
            rows = zip(*(view.numpy() for view in batch.views), strict=True)
            digests = [hashlib.sha256(b"".join(v.tobytes() for v in row)).hexdigest() for row in rows]
            sink(batch.epoch * len(loader) + batch.step + 1, batch.ids.tolist(), digests)
            yield batch

    original = loop.endless
    loop.endless = every_epoch
    try:
        yield
    finally:
        loop.endless = original


def joined(trails: list[Trail]) -> Trail:
    """The global batches, of what each rank had of them."""
    return {
        step: ([i for t in trails for i in t[step][0]], [d for t in trails for d in t[step][1]])
        for step in trails[0]
    }


def attempts(folder: Path) -> list[tuple[int, Trail]]:
    """Of each attempt that left a trail, in order: how many ranks it had, and what they had of a step."""
    by_attempt: dict[tuple[int, int], dict[int, Trail]] = {}
    for path in folder.glob("*.jsonl"):
        attempt, size, rank = map(int, path.stem.split("-"))
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        trail = {step: (ids, digests) for step, ids, digests in lines}
        by_attempt.setdefault((attempt, size), {})[rank] = trail
    found = []
    for (_, size), by_rank in sorted(by_attempt.items()):
        steps = set.intersection(*(set(trail) for trail in by_rank.values()))
        trails = [{step: trail[step] for step in sorted(steps)} for _, trail in sorted(by_rank.items())]
        found.append((size, joined(trails)))
    return found


def _main() -> None:
    if sys.argv[1] == "--":  # newer Pythons leave it there
        del sys.argv[1]
    folder = Path(sys.argv.pop(1))
    names = ("TORCHELASTIC_RESTART_COUNT", "WORLD_SIZE", "RANK")
    with (folder / f"{'-'.join(os.environ[name] for name in names)}.jsonl").open("a") as file:

        def write(*line: object) -> None:
            file.write(json.dumps(line) + "\n")
            file.flush()

        with followed(write):
            runpy.run_module("barlow", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
