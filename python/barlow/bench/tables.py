"""Here: a result as text: the tables, and under them what they rest on.

Not here: numbers; they come in and are only laid out.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH = 118
WIDTH_OF_BYTES = 18
"""More where two columns tell what is read."""


def render(result: dict[str, Any]) -> str:
    """One table for each thread count, then notes, data, machine and what is missing."""
    text = io.StringIO()
    width = WIDTH + WIDTH_OF_BYTES * ("recoded" in result["data"])
    console = Console(file=text, width=width, highlight=False, color_system=None)

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    notes: dict[str, str] = {}
    for run in result["runs"]:
        say(caption(result, run))
        console.print(_table(run, "recoded" in result["data"]))
        for failure in run["failed"]:
            say(f"{failure['name']} failed: {failure['reason']}")
        for line in _stages(run):
            say(line)
        say("")
        notes |= {line["title"]: line["note"] for line in run["pipelines"] if line["note"]}
    for line in (*(f"{title}: {note}" for title, note in notes.items()), *facts(result)):
        say(line)
    for missing in result["missing"]:
        say(f"not installed: {missing['title']} ({missing['install']})")
    return text.getvalue()


def facts(result: dict[str, Any]) -> list[str]:
    """What was measured and on what, in lines."""
    data, machine = result["data"], result["machine"]
    recoded = data.get("recoded")
    of_them = (
        "" if recoded is None else f"; recoded ({recoded['images']} of them) {recoded['mean_bytes']:,} bytes"
    )
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return [
        f"{data['images']} images of {Path(data['source']).name}, mean {data['mean_bytes']:,} bytes and "
        f"{data['mean_pixels']:,} pixels{of_them}; batches of {result['batch_size']}; page cache warm",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}",
        versions,
    ]


def caption(result: dict[str, Any], run: dict[str, Any]) -> str:
    """What a table or a panel of a picture shows."""
    pinned = "one core" if run["threads"] == 1 else f"{run['threads']} cores"
    rounds = result["rounds"]
    return f"{result['title']}, {pinned}; images/s, median [min-max] of {rounds} round{'s' * (rounds > 1)}"


def label(pipeline: dict[str, Any]) -> str:
    """A pipeline's name and its output."""
    return f"{pipeline['title']} ({pipeline['output']})"


def times(ratio: float | None) -> str:
    """A ratio in about three digits, or nothing."""
    return "" if ratio is None else f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}"


def _table(run: dict[str, Any], recoded: bool) -> Table:
    """With recoded images also what each pipeline reads: who has a slow disk pays for speed in bytes."""
    table = Table(box=None, pad_edge=False)
    table.add_column("pipeline")
    table.add_column("output")
    # Of a contestant that did not run (--only, or it failed) nobody is a multiple.
    ratios = {
        name: key
        for name, key in (("x official", "x_official"), ("x decoding", "x_decode"))
        if any(pipeline[key] is not None for pipeline in run["pipelines"])
    }
    for name in ("images/s", "min-max", *ratios, *(("kB/image", "MB/s") if recoded else ())):
        table.add_column(name, justify="right")
    table.add_column("by")
    for pipeline in run["pipelines"]:
        rate = pipeline["images_per_s"]
        size = pipeline["mean_bytes"]
        read = [number(size / 1e3), number(size * rate["median"] / 1e6)] if recoded else []
        table.add_row(
            pipeline["title"],
            pipeline["output"],
            number(rate["median"]),
            f"{number(rate['min'])}-{number(rate['max'])}",
            *(times(pipeline[key]) for key in ratios.values()),
            *read,
            pipeline["workers"],
        )
    return table


def number(rate: float) -> str:
    """A rate: three digits are enough, and more would lie."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def _stages(run: dict[str, Any]) -> list[str]:
    """Where our time goes, by the loader's own counters."""
    lines = []
    for pipeline in run["pipelines"]:
        stages = {k: v for k, v in pipeline["stage_ms_per_image"].items() if k != "waited"}
        if total := sum(stages.values()):
            shares = ", ".join(f"{name} {ms / total:.0%}" for name, ms in stages.items())
            waited = pipeline["stage_ms_per_image"].get("waited")
            wait = "" if waited is None else f"; the consumer waited {waited:.2f} ms an image"
            lines.append(f"{label(pipeline)}: {total:.2f} ms of work an image: {shares}{wait}")
    return lines
