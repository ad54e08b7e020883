"""One HTML file that shows a run: results, curves, views, cross-correlation, neighbours, settings.

Here: which sections a report has and what happens where a part of the run is missing. Not here: how a
section looks or is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from barlow import durable
from barlow.data import Index, open_index
from barlow.evaluate import partition
from barlow.report import curves, exhibits, gallery, page, record, results
from barlow.report.record import Record

__all__ = ["write"]

_EXPECTED = (OSError, ValueError)
"""What missing or damaged images and checkpoints raise; anything else is a bug and must surface as one."""
_VIEWS, _MATRIX, _NEIGHBOURS = (
    "What the network is shown",
    "Cross-correlation of the two views",
    "Nearest neighbours",
)


def write(
    run: str | Path, out: str | Path | None = None, *, progress: Callable[[str], None] | None = None
) -> Path:
    """Writes the report of a run folder as one self-contained HTML file; returns its path.

    `out` defaults to `report.html` in the run folder. Unfinished runs, runs without an evaluation and
    runs whose data have moved get a report too: it names what it had to leave out. A folder that is no
    run at all is a `ValueError`. `progress` is told the title of each part before it is drawn.
    """
    folder = Path(run).resolve()
    rec = record.read(folder)
    tell = progress or (lambda title: None)
    tell("Results and curves")
    sections = [
        page.header(rec, synthetic=record.is_synthetic(rec)),
        results.section_of(rec.evaluation),
        curves.section_of(rec),
        *_pictures(rec, tell),
        page.settings(rec),
        page.footer(),
    ]
    destination = Path(out) if out is not None else folder / "report.html"
    durable.write_file(destination, page.page(f"{folder.name} - barlow report", sections))
    return destination


def _pictures(rec: Record, tell: Callable[[str], None]) -> list[str]:
    """The sections that need images, and two of them the network; each that cannot be drawn says why."""
    config = rec.config
    if config is None:
        return [page.absent(title, "config.json is missing") for title in (_VIEWS, _MATRIX, _NEIGHBOURS)]
    try:
        train, held_out = _images(rec)
    except _EXPECTED as error:
        reason = f"The images of this run cannot be read: {error}"
        return [page.absent(title, reason) for title in (_VIEWS, _MATRIX, _NEIGHBOURS)]
    views_px = config.data.image_size
    sections = [
        _or_absent(
            _VIEWS,
            lambda: exhibits.contact_sheet(gallery.contact_sheet(train, config), view_px=views_px),
            tell,
        )
    ]
    try:
        model = gallery.newest_model(rec.folder, config)
    except _EXPECTED as error:
        reason = f"The checkpoint cannot be loaded: {error}"
        return sections + [page.absent(title, reason) for title in (_MATRIX, _NEIGHBOURS)]
    if model is None:
        reason = "This run has no valid checkpoint yet."
        return sections + [page.absent(title, reason) for title in (_MATRIX, _NEIGHBOURS)]
    matrix_images = train if held_out is None else held_out
    has_held_out = held_out is not None
    return [
        *sections,
        _or_absent(
            _MATRIX,
            lambda: exhibits.matrix(
                gallery.cross_correlation_matrix(model, matrix_images, config), held_out=has_held_out
            ),
            tell,
        ),
        _or_absent(
            _NEIGHBOURS,
            lambda: exhibits.neighbours(
                gallery.nearest(model, train, held_out, config), held_out=has_held_out
            ),
            tell,
        ),
    ]


def _or_absent(title: str, draw: Callable[[], str], tell: Callable[[str], None]) -> str:
    tell(title)
    try:
        return draw()
    except _EXPECTED as error:
        return page.absent(title, f"This part cannot be drawn: {error}")


def _images(rec: Record) -> tuple[Index, Index | None]:
    """The training images, and the held-out ones where the run's evaluation or its data folder names them."""
    source = rec.run.get("data")
    if not isinstance(source, str):
        raise ValueError("run.json does not say which images they are")
    _, test = partition.find(Path(source))
    parts = (rec.evaluation or {}).get("data") or {}
    tested = parts.get("test")
    if isinstance(tested, str) and tested != parts.get("train") and Path(tested).exists():
        test = Path(tested)
    # The very source that was trained on: the numbers of its samples decide their views.
    return open_index(source), None if test is None else open_index(test)
