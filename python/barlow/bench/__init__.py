"""The loader measured on this machine beside the peers that are installed: `barlow bench loader DATA`.

`loader` gives the result as a dictionary (its JSON form), `table` and `picture` lay it out. Everything heavy
is imported when it is needed: the command line imports this package for `Settings` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Task = Literal["views", "crops", "evaluation", "dino", "small"]


@dataclass(frozen=True)
class Settings:
    """What is measured, and how."""

    task: Task = "views"
    """views: both official views; crops: decode and two crops alone; evaluation: resize, centre crop;
    dino: 2 global and 8 local views; small: the official views of CIFAR-size images, without blur."""
    threads: str = ""
    """Numbers of threads, as in 1,2; each run is pinned to as many cores. Empty: one, and all cores."""
    rounds: int = 5
    """Timed rounds of each pipeline, after one to warm up."""
    images: int = 0
    """Images of a round, a multiple of the batch size; 0: 512, of task small 8192, or all there are."""
    size: int = 0
    """Side of the (global) views in pixels; 0: 224, of task small 32."""
    batch_size: int = 0
    """Images of a batch, of every pipeline; 0: 64, or less where a round would have under four a thread."""
    output: Literal["task", "float32", "uint8"] = "task"
    """Normalised floats or bytes; task: bytes for crops, else floats, and barlow in both."""
    only: str = ""
    """Names of the pipelines to run, as in barlow,official; empty: all that are installed."""
    recode: bool = False
    """Also pack the images recoded (`barlow pack --recode`) into temporary shards, and show barlow on them
    and bare decoding of them, with the bytes that each reads."""
    json: Path | None = None
    """File for the result, with all rounds, versions and the machine."""
    picture: Path | None = None
    """File for the result as bars with their spread: .svg or .png."""


def loader(
    data: Path | str,
    settings: Settings | None = None,
    *,
    command: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measures every installed pipeline on the images of `data`; see `contest.measure` for the result.

    `command` goes into the result as it is; `progress(done, total)` counts rounds. `ValueError` for settings
    that cannot work; a pipeline that fails is part of the result and stops nothing.
    """
    from barlow.bench import contest

    return contest.measure(data, settings or Settings(), command=command, progress=progress)


def run(
    data: Path | str,
    settings: Settings,
    *,
    command: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Measures, prints the tables, writes the files asked for; False if one failed that needs no extras."""
    import json

    from barlow.bench import picture, tables
    from barlow.bench.pipelines import ENTRIES
    from barlow.durable import write_file

    if settings.picture is not None:
        picture.check(settings.picture)
    result = loader(data, settings, command=command, progress=progress)
    print(tables.render(result), end="")
    if settings.json is not None:
        write_file(settings.json, json.dumps(result, indent=1) + "\n")
    if settings.picture is not None:
        picture.write(result, settings.picture)
    failed = {line["name"] for one in result["runs"] for line in one["failed"]}
    return all(ENTRIES[name].needs for name in failed)
