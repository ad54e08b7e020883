"""Here: the sections that need a run's images or its network: views, matrix, spectrum, map, neighbours.

Not here: how each is computed (gallery.py, matrices.py, spectra.py, maps.py) or written.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from barlow.config import Config
from barlow.data import Index, open_index
from barlow.evaluate import partition
from barlow.model import Twins
from barlow.report import exhibits, gallery, maps, matrices, page, spectra
from barlow.report.record import Record

_EXPECTED = (OSError, ValueError)
"""What missing or damaged images and checkpoints raise; anything else is a bug and must surface as one."""
VIEWS, MATRIX, SPECTRUM, MAP, NEIGHBOURS = (
    "What the network is shown",
    "Cross-correlation of the two views",
    "Spectrum",
    "Map of the features",
    "Nearest neighbours",
)
_ANCHORS = {VIEWS: "views", MATRIX: "matrix", SPECTRUM: "spectrum", MAP: "map", NEIGHBOURS: "neighbours"}


class _Portrait:
    """What could be drawn of one run: by title what was found, or in `gaps` the reason why not."""

    def __init__(self, rec: Record, tell: Callable[[str], None]) -> None:
        self.rec, self._tell = rec, tell
        self.found: dict[str, Any] = {}
        self.gaps: dict[str, str] = {}
        self.held_out = False

    def draw(self) -> None:
        """Everything that this run has what is needed for."""
        config = self.rec.config
        if config is None:
            self._all_absent("config.json is missing", VIEWS, MATRIX, SPECTRUM, MAP, NEIGHBOURS)
            return
        try:
            train, held_out = _images(self.rec)
        except _EXPECTED as error:
            reason = f"The images of this run cannot be read: {error}"
            self._all_absent(reason, VIEWS, MATRIX, SPECTRUM, MAP, NEIGHBOURS)
            return
        self.held_out = held_out is not None
        self._try(VIEWS, lambda: gallery.contact_sheet(train, config))
        try:
            model = gallery.newest_model(self.rec.folder, config)
        except _EXPECTED as error:
            self._all_absent(f"The checkpoint cannot be loaded: {error}", MATRIX, SPECTRUM, MAP, NEIGHBOURS)
            return
        if model is None:
            self._all_absent("This run has no valid checkpoint yet.", MATRIX, SPECTRUM, MAP, NEIGHBOURS)
            return
        self._of_model(model, train, held_out, config)

    def _of_model(self, model: Twins, train: Index, held_out: Index | None, config: Config) -> None:
        shown = train if held_out is None else held_out
        z = self._try(MATRIX, lambda: gallery.embeddings(model, shown, config))
        if z is not None:
            self._try(MATRIX, lambda: matrices.matrix_of(z[0], z[1], config))
        features = self._try(NEIGHBOURS, lambda: gallery.features_of(model, train, held_out, config))
        if features is not None:
            self._try(NEIGHBOURS, lambda: gallery.nearest(features))
            self._try(MAP, lambda: maps.map_of(features))
        if z is not None and features is not None:
            self._try(SPECTRUM, lambda: (spectra.spectrum_of(z[0]), spectra.spectrum_of(features.bank_NF)))
        self._all_absent(
            "The images cannot be embedded.", *(t for t in (SPECTRUM, MAP) if t not in self.found)
        )

    def _try(self, title: str, draw: Callable[[], Any]) -> Any:
        if title not in self.found:
            self._tell(title)
        try:
            self.found[title] = draw()
        except _EXPECTED as error:
            self.found.pop(title, None)
            self.gaps[title] = f"This part cannot be drawn: {error}"
        return self.found.get(title)

    def _all_absent(self, reason: str, *titles: str) -> None:
        for title in titles:
            self.gaps.setdefault(title, reason)


def sections_of(records: list[Record], tell: Callable[[str], None]) -> list[str]:
    """The sections of all runs; what cannot be drawn of a run says why."""
    portraits = [_Portrait(rec, tell) for rec in records]
    for portrait in portraits:
        portrait.draw()
    several = len(records) > 1

    def together(title: str, write: Callable[[list[_Portrait]], str]) -> list[str]:
        having = [portrait for portrait in portraits if title in portrait.found]
        return ([write(having)] if having else []) + _gaps(title, portraits)

    held_out = all(portrait.held_out for portrait in portraits)
    sections = together(
        MATRIX, lambda p: matrices.section_of([(q.rec.name, q.found[MATRIX]) for q in p], held_out=held_out)
    )
    sections += together(
        SPECTRUM, lambda p: spectra.section_of([(q.rec.name, *q.found[SPECTRUM]) for q in p])
    )
    sections += together(MAP, lambda p: maps.section_of([(q.rec.name, q.found[MAP]) for q in p]))
    for portrait in portraits:
        name = portrait.rec.name if several else ""
        if NEIGHBOURS in portrait.found:
            hood = portrait.found[NEIGHBOURS]
            sections.append(exhibits.neighbours(hood, held_out=portrait.held_out, of=name))
    sections += _gaps(NEIGHBOURS, portraits)
    drawn: list[Any] = []
    for portrait in portraits:
        sheet, config = portrait.found.get(VIEWS), portrait.rec.config
        if sheet is None or config is None or sheet in drawn:  # the same images under the same views
            continue
        drawn.append(sheet)
        name = portrait.rec.name if several else ""
        sections.append(exhibits.contact_sheet(sheet, view_px=config.data.image_size, of=name))
    return sections + _gaps(VIEWS, portraits)


def _gaps(title: str, portraits: list[_Portrait]) -> list[str]:
    lacking = [portrait for portrait in portraits if title not in portrait.found]
    if len(portraits) == 1:
        return [page.absent(title, p.gaps[title], anchor=_ANCHORS[title]) for p in lacking]
    return [page.absent(f"{title}: {p.rec.name}", p.gaps[title]) for p in lacking]


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
