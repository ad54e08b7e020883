"""Here: views as text: `parse` and `describe`, inverse to each other, and `table`, as papers print them.

Not here: what a view is (`description.py`), what values can work (Rust says; `parse` asks).

A view is a crop, then operations, separated by `|`. An operation is a word, its values and `p`, its
probability; `a..b` is a range. Views stand on lines of their own or are separated by `;`, and `8 x` in front
of one stands for eight of it:

    crop 224 area 0.08..1 bicubic | flip p 0.5 | jitter brightness 0.4 hue 0.1 p 0.8 | blur 0.1..2 p 1
    8 x resize 256 centre 224 bilinear
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import groupby
from typing import TypeVar

from barlow import _native
from barlow.data.views.description import (
    USUAL_RATIO,
    ColorJitter,
    Crop,
    Flip,
    GaussianBlur,
    Grayscale,
    Interpolation,
    Operation,
    RandomResizedCrop,
    Range,
    ResizeCenterCrop,
    Solarize,
    View,
    number,
    words,
)

S = TypeVar("S", Crop, Operation)
T = TypeVar("T")

_SPELLINGS = {"gray": "grey", "center": "centre"}
_MOST_VIEWS = 1000
"""Of one line: a slip of the finger should not fill the memory."""


def describe(recipe: View | Sequence[View]) -> str:
    """The text of one view or of several, one a line; `parse` reads it back exactly."""
    recipe = [recipe] if isinstance(recipe, View) else recipe
    return "\n".join(f"{count} x {view}" if count > 1 else str(view) for view, count in _runs(recipe))


def parse(text: str) -> list[View]:
    """The views of a text. A `ValueError` shows the line and points at what it stumbled over."""
    recipe: list[View] = []
    for line in re.split(r"[;\n]", text):
        if line.strip():
            recipe += _Line(line.strip()).views()
    if not recipe:
        raise ValueError("no view: there is nothing but white space")
    return recipe


def table(recipe: Sequence[View]) -> str:
    """The recipe as papers print it, in Markdown: a row for each step, a column for each kind of view.

    A cell is the probability of that step. The steps of each view come in the order of the rows.
    """
    runs = _runs(recipe)
    rows: list[tuple[str, dict[int, str]]] = []
    for column, (view, _) in enumerate(runs):
        row = 0
        for step in (view.crop, *view.operations):
            row = _row_of(words(step), rows, row)
            rows[row][1][column] = number(getattr(step, "p", 1))
            row += 1
    cells = [["", *_numbers([count for _, count in runs])]]
    cells += [[name, *(of.get(column, "") for column in range(len(runs)))] for name, of in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _row_of(name: str, rows: list[tuple[str, dict[int, str]]], start: int) -> int:
    """The row with this name from `start` on; where there is none, a new one after those of its kind."""
    for row in range(start, len(rows)):
        if rows[row][0] == name:
            return row
    while start < len(rows) and rows[start][0].split()[0] == name.split()[0]:
        start += 1
    rows.insert(start, (name, {}))
    return start


def _runs(recipe: Sequence[View]) -> list[tuple[View, int]]:
    return [(view, len(list(equal))) for view, equal in groupby(recipe)]


def _numbers(counts: list[int]) -> Iterator[str]:
    """The heads of the columns, such as "view 1" and "views 2 to 9"; counted from 1, as papers do."""
    first = 1
    for count in counts:
        joint = "and" if count == 2 else "to"
        yield f"view {first}" if count == 1 else f"views {first} {joint} {first + count - 1}"
        first += count


class _Line:
    """The words of one line, each with its place, taken from left to right."""

    def __init__(self, line: str) -> None:
        self.line = line
        self.words = [(match[0], match.start()) for match in re.finditer(r"[^\s|]+|\|", line)]
        self.next = 0

    def views(self) -> list[View]:
        count = 1
        if len(self.words) > 1 and self.words[1][0] == "x":
            count = self.take(_count, f"a number of views from 1 to {_MOST_VIEWS}")
            self.word("x")
        crop = self.checked(self.crop, View)
        steps: list[Operation] = []
        while self.ahead is not None:
            self.word("|")
            steps.append(self.checked(self.operation, lambda step: View(crop, [step])))
        return [View(crop, steps)] * count

    def crop(self) -> Crop:
        if self.word("crop", "resize") == "resize":
            resize = self.take(_whole, "the shorter side in pixels")
            self.word("centre")
            return ResizeCenterCrop(resize, self.take(_whole, "a size in pixels"), self.filter())
        size = self.take(_whole, "a size in pixels")
        self.word("area")
        area, ratio = self.take(_range, "a range such as 0.08..1"), USUAL_RATIO
        if self.ahead == "ratio":
            self.word("ratio")
            ratio = self.take(_range, "a range such as 3/4..4/3")
        return RandomResizedCrop(size, area, ratio, self.filter())

    def filter(self) -> Interpolation:
        return "bicubic" if self.word("bilinear", "bicubic") == "bicubic" else "bilinear"

    def operation(self) -> Operation:
        kind = self.word("flip", "jitter", "grey", "blur", "solarize")
        if kind == "flip":
            return Flip(self.p())
        if kind == "grey":
            return Grayscale(self.p())
        if kind == "blur":
            return GaussianBlur(self.take(_range, "a range of pixels such as 0.1..2"), self.p())
        if kind == "solarize":
            return Solarize(self.take(_level, "a threshold from 0 to 255"), self.p())
        strengths: dict[str, float | Range] = {}
        while self.ahead != "p":
            left = [name for name in ("brightness", "contrast", "saturation", "hue") if name not in strengths]
            name = self.word(*left, "p")
            strengths[name] = self.take(_strength, "a strength such as 0.4 or 0.6..1.4")
        return ColorJitter(**strengths, p=self.p())

    def p(self) -> float:
        self.word("p")
        return self.take(_number, "a probability")

    @property
    def ahead(self) -> str | None:
        """The word that comes next."""
        return self.words[self.next][0] if self.next < len(self.words) else None

    def word(self, *allowed: str) -> str:
        """The next word, which is one of these."""
        found = _SPELLINGS.get(self.ahead or "", self.ahead)
        if found not in allowed:
            raise self.trouble(f"expected {_either(allowed)}")
        self.next += 1
        return found

    def take(self, read: Callable[[str], T], what: str) -> T:
        """What the next word stands for."""
        try:
            value = read(self.ahead or "")
        except (ValueError, ArithmeticError):
            raise self.trouble(f"expected {what}") from None
        self.next += 1
        return value

    def checked(self, step: Callable[[], S], in_a_view: Callable[[S], View]) -> S:
        """A crop or operation whose values work, as Rust judges them."""
        first = self.next
        made = step()
        try:
            _native.check_view(in_a_view(made))
        except ValueError as error:
            raise self.trouble(str(error), first, self.next - 1) from None
        return made

    def trouble(self, message: str, first: int | None = None, last: int | None = None) -> ValueError:
        """An error that points at words, by default at the next one."""
        first = self.next if first is None else first
        found = ""
        if first == len(self.words):
            start, end = len(self.line) + 1, len(self.line) + 2
            found = ", but the line ends"
        else:
            word, at = self.words[first if last is None else last]
            start, end = self.words[first][1], at + len(word)
            found = f", not {word!r}" if last is None else ""
        return ValueError(f"{message}{found}\n    {self.line}\n    {' ' * start}{'^' * (end - start)}")


def _either(names: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _whole(word: str, least: int = 1, most: int = 2**31 - 1) -> int:
    if not least <= int(word) <= most:
        raise ValueError
    return int(word)


def _count(word: str) -> int:
    return _whole(word, 1, _MOST_VIEWS)


def _level(word: str) -> int:
    return _whole(word, 0, 255)


def _number(word: str) -> float:
    return float(Fraction(word)) if "/" in word else float(word)


def _range(word: str) -> Range:
    low, high = word.split("..", 1)
    return _number(low), _number(high)


def _strength(word: str) -> float | Range:
    return _range(word) if ".." in word else _number(word)
