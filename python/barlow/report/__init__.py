"""One HTML file that shows one run or several: results, curves, matrices, spectra, maps, views, settings.

Here: which sections a report has and what happens where a part of a run is missing. Not here: how a section
looks or is computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from barlow import durable
from barlow.report import curves, overview, page, paper, portrait, record, results, timeline
from barlow.report.record import Record

__all__ = ["write"]


def write(
    runs: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Writes the report of one run folder, or of several side by side, as one HTML file; returns its path.

    `out` defaults to `report.html`: of one run in its folder, of several in the working directory. The file
    loads nothing and runs nothing. Unfinished runs, runs without an evaluation and runs whose data have moved
    get a report too: it names what it had to leave out. A folder that is no run at all is a `ValueError`.
    `progress` is told the title of each part before it is drawn.
    """
    folders = [Path(run) for run in ([runs] if isinstance(runs, str | Path) else runs)]
    if not folders:
        raise ValueError("no run to report on")
    records = [record.read(folder) for folder in folders]
    _name(records)
    tell = progress or (lambda title: None)
    tell("Results and curves")
    first, several = records[0], len(records) > 1
    if several:
        learned = [overview.differences(records), results.comparison(records)]
    else:
        theirs = paper.published(first.config, first.run.get("num_samples"))
        learned = [results.section_of(first.evaluation, theirs, first.done_steps)]
    sections = [
        *learned,
        timeline.alarms(records),
        curves.section_of(records),
        timeline.times(records),
        timeline.matrices(records),
        *portrait.sections_of(records, tell),
        page.settings(records),
    ]
    nav = page.links(sections)
    if several:
        synthetic = any(map(record.is_synthetic, records))
        head, title = overview.header(records, nav, synthetic=synthetic), f"{len(records)} runs"
    else:
        head, title = page.header(first, synthetic=record.is_synthetic(first), nav=nav), first.name
    destination = Path("report.html") if several else first.folder / "report.html"
    destination = Path(out) if out is not None else destination
    durable.write_file(destination, page.page(f"{title} - barlow report", [head, *sections, page.footer()]))
    return destination


def _name(records: list[Record]) -> None:
    """Runs of the same folder name take that of the folder above in front, and then numbers."""
    taken = Counter(rec.name for rec in records)
    for rec in records:
        if taken[rec.name] > 1:
            rec.name = "/".join(rec.folder.resolve().parts[-2:])
    taken = Counter(rec.name for rec in records)
    for number, rec in enumerate(records, 1):
        if taken[rec.name] > 1:
            rec.name = f"{rec.name} ({number})"
