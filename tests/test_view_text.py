"""Views as text: what is written reads back as the same, and errors point at the word."""

from __future__ import annotations

import random
from typing import Any

import pytest

from barlow.data import views
from barlow.data.views import ColorJitter, Flip, GaussianBlur, Grayscale, RandomResizedCrop, Solarize, View

RECIPES: dict[str, list[View]] = {
    name: getattr(views, name)()
    for name in (
        "barlow_twins", "byol", "dino", "evaluation", "linear_probe", "mae", "moco_v2", "simclr", "swav",
        "vicreg",
    )
}  # fmt: skip

MOCO = (
    "2 x crop 224 area 0.2..1 bilinear"
    " | jitter brightness 0.4 contrast 0.4 saturation 0.4 hue 0.1 p 0.8"
    " | grey p 0.2 | blur 0.1..2 p 0.5 | flip p 0.5"
)


def test_a_recipe_is_written_as_the_paper_has_it() -> None:
    assert views.describe(views.moco_v2()) == MOCO
    assert views.describe(views.mae()) == "crop 224 area 0.2..1 bicubic | flip p 0.5"
    assert views.describe(views.evaluation(32, 36)) == "resize 36 centre 32 bilinear"
    assert str(views.mae(96)[0]) == "crop 96 area 0.2..1 bicubic | flip p 0.5"
    assert [line.partition(" | ")[0] for line in views.describe(views.dino()).splitlines()] == [
        "crop 224 area 0.4..1 bicubic",
        "crop 224 area 0.4..1 bicubic",
        "8 x crop 96 area 0.05..0.4 bicubic",
    ]


def test_what_is_read_is_what_is_meant() -> None:
    text = """
        crop 64 area 0.3..1 ratio 1/2..2 bilinear | blur 0..1.5 p 1; 3 x resize 40 center 32 bicubic

        crop 32 area 1..1 bicubic | solarize 7 p 0.25 | jitter hue -0.1..0.2 brightness 0.5 p 1 | gray p 0
    """
    small = views.ResizeCenterCrop(40, 32, "bicubic")
    assert views.parse(text) == [
        View(RandomResizedCrop(64, (0.3, 1.0), (0.5, 2.0), "bilinear"), [GaussianBlur((0.0, 1.5), 1.0)]),
        *[View(small)] * 3,
        View(
            RandomResizedCrop(32, (1.0, 1.0)),
            [Solarize(7, 0.25), ColorJitter(brightness=0.5, hue=(-0.1, 0.2), p=1.0), Grayscale(0.0)],
        ),
    ]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_read_back(name: str) -> None:
    assert views.parse(views.describe(RECIPES[name])) == RECIPES[name]


def test_any_view_reads_back_to_the_last_bit() -> None:
    rng = random.Random(0)

    def between(low: float, high: float) -> tuple[float, float]:
        a, b = sorted(rng.choice([low, high, rng.uniform(low, high)]) for _ in range(2))
        return a, b

    def strength(low: float, high: float, single: float) -> Any:
        return rng.choice([0.0, rng.uniform(0, single), between(low, high)])

    def operation() -> Any:
        p = rng.choice([0.0, 1.0, rng.random(), 1e-7])
        factors = [strength(0, 3, 2), strength(0, 1e5, 1e5), strength(1e-9, 1, 1), strength(-0.5, 0.5, 0.5)]
        return rng.choice(
            [Flip(p), Grayscale(p), GaussianBlur(between(0, 9), p), Solarize(rng.randrange(256), p),
             ColorJitter(*factors, p=p)]
        )  # fmt: skip

    for _ in range(500):
        recipe = []
        for _ in range(rng.randint(1, 4)):
            size, filter = rng.randint(1, 500), rng.choice(["bilinear", "bicubic"])
            ratio = rng.choice([(3 / 4, 4 / 3), between(0.2, 5)])
            crop = rng.choice(
                [
                    RandomResizedCrop(size, between(1e-6, 1), ratio, filter),  # pyright: ignore[reportArgumentType]
                    views.ResizeCenterCrop(size + rng.randint(0, 50), size, filter),  # pyright: ignore[reportArgumentType]
                ]
            )
            view = View(crop, [operation() for _ in range(rng.randint(0, 5))])
            recipe += [view] * rng.randint(1, 3)
        assert views.parse(views.describe(recipe)) == recipe


# The mark under the text says where reading stopped.
TROUBLE = [
    (
        "crop 32 area 0.1..1 bicubic | blurr 0.1..2 p 1",
        "blurr",
        "expected flip, jitter, grey, blur or solarize",
    ),
    ("crop 32 area 0.1..1", "", "expected bilinear or bicubic, but the line ends"),
    ("crop 32 area 0.1..1 bicubic |", "", "but the line ends"),
    ("crop 32 area 0.1..1 bicubic | flip", "", "expected p, but the line ends"),
    ("crop 32 area 0.1..1 bicubic | flip 0.5", "0.5", "expected p, not '0.5'"),
    ("crop 32 area 0.1..1 bicubic flip p 1", "flip", "expected |, not 'flip'"),
    ("crop 32 area 0.1 bicubic", "0.1", "a range such as 0.08..1"),
    ("crop 32 area 1/0..1 bicubic", "1/0..1", "a range such as 0.08..1"),
    ("crop 32 0.1..1 bicubic", "0.1..1", "expected area"),
    (f"crop 32 area {10**400}/3..1 bicubic", f"{10**400}/3..1", "a range such as 0.08..1"),
    ("crop 32.5 area 0.1..1 bicubic", "32.5", "a size in pixels"),
    ("crop 99999999999999999999 area 0.1..1 bicubic", "99999999999999999999", "a size in pixels"),
    ("crop 5000 area 0.1..1 bicubic", "crop 5000 area 0.1..1 bicubic", "size of a view"),
    ("crop 32 area 0.9..0.1 bicubic", "crop 32 area 0.9..0.1 bicubic", "upside down"),
    ("crop 32 area nan..1 bicubic", "crop 32 area nan..1 bicubic", "scale"),
    ("resize 30 centre 32 bilinear", "resize 30 centre 32 bilinear", "at least its size"),
    ("resize 30 32 bilinear", "32", "expected centre"),
    ("crop 9 area 0.1..1 bicubic | solarize 256 p 1", "256", "from 0 to 255"),
    ("crop 9 area 0.1..1 bicubic | flip p 1.5", "flip p 1.5", "probability of flip"),
    ("crop 9 area 0.1..1 bicubic | flip p nan", "flip p nan", "probability of flip"),
    ("crop 9 area 0.1..1 bicubic | jitter hue 0.7 p 1", "jitter hue 0.7 p 1", "hue must lie in"),
    (
        "crop 9 area 0.1..1 bicubic | jitter hue 0.1 hue 0.1 p 1",
        "hue",
        "contrast, saturation or p, not 'hue'",
    ),
    ("crop 9 area 0.1..1 bicubic | jitter hue p 1", "p", "a strength such as"),
    ("flip p 0.5", "flip", "expected crop or resize"),
    ("0 x crop 9 area 0.1..1 bicubic", "0", "number of views"),
    ("9999999999 x crop 9 area 0.1..1 bicubic", "9999999999", "number of views"),
]


@pytest.mark.parametrize(("line", "word", "message"), TROUBLE)
def test_errors_point_at_the_word(line: str, word: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        views.parse(f"crop 8 area 0.5..1 bilinear\n  {line}  ")
    says, shown, mark = str(caught.value).splitlines()
    assert message in says
    assert shown.strip() == line
    marked = shown[mark.index("^") : mark.rindex("^") + 1]
    assert marked == word
    if not word:
        assert mark.index("^") == len(shown) + 1
    elif shown.split().count(word) > 1:  # it is the later one that is wrong
        assert mark.index("^") == shown.rindex(word)


@pytest.mark.parametrize("text", ["", " \n ; "])
def test_no_view_is_no_recipe(text: str) -> None:
    with pytest.raises(ValueError, match="no view"):
        views.parse(text)


def test_the_table_is_that_of_the_paper() -> None:
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in views.table(views.dino()).splitlines()
    ]
    assert rows == [
        ["", "view 1", "view 2", "views 3 to 10"],
        [rows[1][0], *rows[1][1:]],
        ["crop 224 area 0.4..1 bicubic", "1", "1", ""],
        ["crop 96 area 0.05..0.4 bicubic", "", "", "1"],
        ["flip", "0.5", "0.5", "0.5"],
        ["jitter brightness 0.4 contrast 0.4 saturation 0.2 hue 0.1", "0.8", "0.8", "0.8"],
        ["grey", "0.2", "0.2", "0.2"],
        ["blur 0.1..2", "1", "0.1", "0.5"],
        ["solarize 128", "", "0.2", ""],
    ]
    assert all(set(cell) == {"-"} for cell in rows[1])
    widths = {len(line) for line in views.table(views.dino()).splitlines()}
    assert len(widths) == 1


def test_the_rows_of_a_table_keep_every_view_s_order() -> None:
    crop = RandomResizedCrop(8)
    recipe = [
        View(crop, [Flip(0.25), Grayscale(0.5), Flip(1.0)]),
        View(crop, [Grayscale(0.125), Solarize(1, 0.75), Flip(0.375)]),
        View(crop, [Solarize(1, 0.5), Grayscale(0.0)]),
    ]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in views.table(recipe).splitlines()[2:]]
    for column, view in enumerate(recipe, 1):
        read = [(row[0], float(row[column])) for row in rows if row[column]]
        written = [(views.words(step), step.p) for step in view.operations]
        assert read == [(views.words(crop), 1.0), *written]


def test_views_are_their_contents() -> None:
    listed, tupled = View(RandomResizedCrop(8), [Flip()]), View(RandomResizedCrop(8), (Flip(),))
    assert listed == tupled
    assert len({listed, tupled}) == 1
