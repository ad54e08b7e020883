"""Here: a whole measurement: lanes side by side, their rounds interleaved, and the result as a dictionary.

Not here: what a lane does in its round, laying out the result.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import statistics
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from barlow.bench import Settings, machine
from barlow.bench.images import Images, prepare
from barlow.bench.lanes import Failed, Lane
from barlow.bench.pipelines import DECODE, ENTRIES, OFFICIAL, OURS, RECODED
from barlow.bench.pipelines.job import Job
from barlow.bench.tasks import TASKS

FORMAT = 1


@dataclass
class Row:
    """One pipeline with one kind of output in one run."""

    name: str
    output: str
    workers: str = ""
    mean_rgb: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    """Images per second of each timed round."""
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds of work of all timed rounds."""
    images: int = 0
    """Of all timed rounds."""
    failed: str = ""


def measure(
    data: Path | str, settings: Settings, *, command: str, progress: Callable[[int, int], None] | None
) -> dict[str, Any]:
    """The result, all of it JSON: what was measured on what, and one of `runs` for each thread count."""
    for name, least in (("rounds", 1), ("images", 0), ("size", 0), ("batch_size", 0)):
        if getattr(settings, name) < least:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {least}")
    threads = _thread_counts(settings.threads)
    names = _names(settings)
    task = TASKS[settings.task]
    with _unwound_by_sigterm(), tempfile.TemporaryDirectory(prefix="barlow-bench-") as temporary:
        wanted = settings.images or task.images
        folder = Path(temporary) / "images"
        images = prepare(
            data, wanted, settings.batch_size, folder, threads=max(threads), recode=settings.recode
        )
        runs = []
        for i, count in enumerate(threads):

            def report(done: int, total: int, before: int = i) -> None:
                if progress is not None:
                    progress(before * total + done, len(threads) * total)

            runs.append(_run(images, settings, names, count, report))
    size = settings.size or task.size
    return {
        "format": FORMAT,
        "command": command,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine.facts(),
        "versions": machine.versions(),
        "data": images.facts | ({"recoded": images.recoded.facts} if images.recoded else {}),
        "task": settings.task,
        "title": task.title.format(size=size),
        "size": size,
        "views": [str(view) for view in task.views(size)],
        "rounds": settings.rounds,
        "batch_size": images.batch_size,
        "missing": [
            {"name": name, "title": ENTRIES[name].title, "install": ENTRIES[name].install}
            for name in names
            if not ENTRIES[name].installed
        ],
        "runs": runs,
    }


@contextlib.contextmanager
def _unwound_by_sigterm() -> Iterator[None]:
    """SIGTERM ends what runs inside as Ctrl-C does: processes and files of the measurement go with it."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # others get no signals
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """SIGINT and SIGTERM wait until the block ends: between a fork and the note of whose child it is, an
    exception would leave a process behind that nobody knows."""
    if threading.current_thread() is not threading.main_thread():  # others get no signals
        yield
        return
    came: list[int] = []
    # Handlers and not a mask: a mask would pass on to the child.
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def job(name: str, output: str, images: Images, settings: Settings, threads: int) -> Job:
    """What the pipeline `name` is asked for; `ValueError` if there are fewer cores than threads."""
    images = _read_by(name, images)
    return Job(
        pipeline=name,
        task=settings.task,
        size=settings.size or TASKS[settings.task].size,
        output=output,
        threads=threads,
        cpus=machine.cores(threads),
        batch_size=images.batch_size,
        index=str(images.index),
        files=[str(file) for file in images.files],
    )


def _read_by(name: str, images: Images) -> Images:
    return images.recoded if ENTRIES[name].recoded and images.recoded else images


def _run(
    images: Images, settings: Settings, names: list[str], threads: int, report: Callable[[int, int], None]
) -> dict[str, Any]:
    installed = [name for name in names if ENTRIES[name].installed]
    rows = [Row(name, output) for name in installed for output in _outputs(name, settings)]
    with contextlib.ExitStack() as stack:
        # All processes first: they import side by side.
        lanes = []
        for row in rows:
            with _signals_held():
                lane = stack.enter_context(Lane(job(row.name, row.output, images, settings, threads)))
            lanes.append((row, lane))
        for row, lane in lanes:
            with _reason_kept(row):
                lane.start()
        # Turn 0 warms up: page cache, code, allocators; and it looks at what is made.
        for turn in range(settings.rounds + 1):
            # Whoever comes first finds other caches than the last one: everyone gets to.
            shift = turn % len(lanes)
            for row, lane in lanes[shift:] + lanes[:shift]:
                if not row.failed:
                    with _reason_kept(row):
                        _one_round(row, lane, turn)
            report(turn + 1, settings.rounds + 1)
        for row, lane in lanes:
            row.workers = lane.workers
    return {
        "threads": threads,
        "cpus": machine.cores(threads),
        "pipelines": [_as_json(row, rows, settings, images) for row in rows if not row.failed],
        "failed": [
            {"name": row.name, "output": row.output, "reason": row.failed} for row in rows if row.failed
        ],
    }


def _one_round(row: Row, lane: Lane, turn: int) -> None:
    answer = lane.round(turn, check=turn == 0)
    if turn == 0:
        row.mean_rgb = answer["mean_rgb"]
        return
    row.rates.append(answer["images"] / answer["seconds"])
    row.images += answer["images"]
    for stage, seconds in answer["stages"].items():
        row.stages[stage] = row.stages.get(stage, 0.0) + seconds


@contextlib.contextmanager
def _reason_kept(row: Row) -> Iterator[None]:
    try:
        yield
    except Failed as reason:
        row.failed = str(reason)


def _as_json(row: Row, rows: list[Row], settings: Settings, images: Images) -> dict[str, Any]:
    def ratio(name: str) -> float | None:
        """Against that pipeline's first row, which has the task's own output."""
        other = next((other for other in rows if other.name == name and not other.failed), None)
        return statistics.median(row.rates) / statistics.median(other.rates) if other else None

    entry = ENTRIES[row.name]
    task = TASKS[settings.task]
    colour = any(view.operations for view in task.views(task.size))
    notes = (entry.note, entry.colour_note if colour else "")
    return {
        "name": row.name,
        "title": entry.title,
        "output": row.output,
        "makes": entry.makes,
        "note": ", ".join(filter(None, notes)),
        "workers": row.workers,
        "mean_bytes": _read_by(row.name, images).facts["mean_bytes"],
        "mean_rgb": row.mean_rgb,
        "images_per_s": {
            "median": statistics.median(row.rates),
            "min": min(row.rates),
            "max": max(row.rates),
            "rounds": row.rates,
        },
        "x_official": ratio(OFFICIAL),
        "x_decode": ratio(DECODE),
        "stage_ms_per_image": {name: 1e3 * seconds / row.images for name, seconds in row.stages.items()},
    }


def _outputs(name: str, settings: Settings) -> list[str]:
    """What a pipeline is asked to hand over; barlow also its bytes, which a GPU would normalise."""
    possible = ENTRIES[name].outputs
    wanted = TASKS[settings.task].output if settings.output == "task" else settings.output
    first = wanted if wanted in possible else possible[0]
    ours = name in (OURS, RECODED)
    return [first, "uint8"] if ours and settings.output == "task" and first != "uint8" else [first]


def _names(settings: Settings) -> list[str]:
    able = [
        name
        for name, entry in ENTRIES.items()
        if settings.task in entry.tasks and (settings.recode or not entry.recoded)
    ]
    if not settings.only:
        return able
    chosen = [name.strip() for name in settings.only.split(",")]
    for name in chosen:
        if name not in able:
            raise ValueError(f"--only: task {settings.task} has no pipeline {name!r}, only {', '.join(able)}")
    return [name for name in able if name in chosen]


def _thread_counts(text: str) -> list[int]:
    """In ascending order; every count is checked before anything runs."""
    available = len(os.sched_getaffinity(0))
    try:
        counts = sorted({int(count) for count in text.split(",")}) if text else sorted({1, available})
    except ValueError:
        raise ValueError(f"--threads must be whole numbers and commas, not {text!r}") from None
    for count in counts:
        machine.cores(count)
    return counts
