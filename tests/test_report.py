"""The report as a document: complete in itself, pictures decodable, curves drawn, gaps named."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_run
from barlow import report
from barlow.config import Config
from barlow.data import apply, decode, draw, open_index, views
from barlow.report import charts, curves, exhibits, gallery, matrices, page, pictures, record, results
from barlow.report.charts import Line

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Document(HTMLParser):
    """Elements with their attributes, the text, and whether every element is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == [], f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [
            found
            for name, found in self.elements
            if name == tag and all(found.get(key.rstrip("_")) == value for key, value in attributes.items())
        ]

    def images(self) -> list[np.ndarray]:
        """Every picture, decoded by Pillow."""
        uris = [e["src"] for e in self.all("img")] + [e["href"] for e in self.all("image")]
        return [decoded(uri or "") for uri in uris]


def decoded(uri: str) -> np.ndarray:
    head, data = uri.split(",", 1)
    assert re.fullmatch(r"data:image/(png|jpeg);base64", head)
    with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
        assert image.format == ("PNG" if "png" in head else "JPEG")
        return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="module")
def run(reported_run: Path) -> Path:
    return reported_run


@pytest.fixture(scope="module")
def document(run: Path) -> Document:
    path = report.write(run)
    assert path == run / "report.html"
    return Document(path.read_text(encoding="utf-8"))


def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("tensorboard")))


# The whole file


def test_it_loads_nothing_from_anywhere(run: Path, document: Document) -> None:
    html = (run / "report.html").read_text(encoding="utf-8")
    assert len(html) < 3 << 20
    assert not re.search(
        r"https?:|//\w|@import|url\(|<script|<link|<iframe", re.sub(r"base64,[\w+/=]+", "", html)
    )
    for _, attributes in document.elements:
        for name in ("src", "href", "xlink:href"):
            # A link within the page, or what it links to itself.
            assert re.match(r"data:|#\w", attributes.get(name) or "data:")
    assert "prefers-color-scheme: dark" in html
    assert document.all("meta", name="viewport")[0]["content"] == "width=device-width, initial-scale=1"
    assert document.all("html")[0]["lang"] == "en"


def test_every_picture_shows_something_and_says_what(document: Document) -> None:
    images = document.images()
    # Six sources with two views each, the matrix, its scale, eight queries with five neighbours each, and
    # the matrix during training after steps 1, 2, 4, 8 and 9.
    assert len(images) == 6 * 3 + 2 + 8 * 6 + 5
    assert all(image.std() > 2 for image in images)
    assert all(element.get("alt") for element in document.all("img"))
    assert all(element.get("aria-label") or element.get("aria-hidden") for element in document.all("svg"))


def test_nothing_is_missing_from_a_complete_run(document: Document) -> None:
    assert not [e for _, e in document.elements if "missing" in (e.get("class") or "")]
    for words in (
        "finished: 9 of 9 steps",
        "tiny",
        "resnet10, width 8, cifar stem",
        "32-24",
        "36",
        "train.log_every",
    ):
        assert words in document.text


def test_the_table_has_the_evaluations_numbers(run: Path, document: Document) -> None:
    found = json.loads((run / "eval.json").read_text())
    cells = re.sub(r"\s+", " ", document.text)
    for probe in ("knn", "linear"):
        trained, untrained = found[probe]["top1"], found["untrained"][probe]["top1"]
        gain = f"{trained - untrained:+.2f}".replace("-", "\u2212")
        assert f"{trained:.2f}{untrained:.2f}{found['raw_pixels'][probe]['top1']:.2f}{gain}" in cells
    assert "15 test images of 3 classes" in document.text


def section(run: Path, anchor: str) -> Document:
    """One section of the run's report."""
    html = (run / "report.html").read_text(encoding="utf-8")
    begin = html.index(f'<section id="{anchor}">')
    return Document(html[begin : html.index("</section>", begin) + len("</section>")])


def points_of_curves(run: Path) -> list[int]:
    """How many numbers the lines have for each entry of a chart; a logarithmic axis has no place for 0."""
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    counts = [
        sum(isinstance(v := line.get(key), int | float) and (v > 0 or not chart.log_y) for line in lines)
        for chart in curves.CHARTS
        for key, _ in chart.keys
    ]
    return sorted(filter(None, counts))


def test_every_curve_is_drawn_from_every_line(run: Path, document: Document) -> None:
    lines = section(run, "curves").all("polyline")
    num_points = [len((line["points"] or "").split()) for line in lines]
    assert sorted(num_points) == points_of_curves(run)
    assert num_points.count(8) >= 2  # learning rates, which are 0 at the first step of nine
    assert num_points.count(9) >= 10
    charted = section(run, "curves").all("svg", role="img")
    metrics = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    labels = " ".join(e["aria-label"] or "" for e in charted)
    assert f"loss ends at {charts.number(metrics[-1]['loss'])}" in labels
    assert f"floor ends at {charts.number(metrics[-1]['loss_floor'])}" in labels


def test_the_views_are_those_of_training(run: Path, document: Document) -> None:
    config = tiny_run.tiny_config()
    source = json.loads((run / "run.json").read_text())["data"]
    index = open_index(source)
    shown = [decoded(e["src"] or "") for e in document.all("img") if (e.get("alt") or "").startswith("view ")]
    for place, i in enumerate(gallery.spread(len(index), 6)):
        image = decode(index.read(i))
        for number, view in enumerate(views.training(config.data)):
            parameters = draw(view, config.train.seed, 0, i, number, image.shape[1], image.shape[0])
            expected = apply(image, parameters).transpose(1, 2, 0)
            assert np.array_equal(shown[2 * place + number], expected)
            x, y, width, height = parameters["window"]
            assert f"crop {width} \u00d7 {height} at {x}, {y}" in document.text
            rect = {"x": str(x), "y": str(y), "width": str(width), "height": str(height)}
            assert document.all("rect", class_=f"window window-{('one', 'two')[number]}", **rect)


def test_the_report_names_no_place_of_this_machine_and_says_what_it_draws(run: Path) -> None:
    told: list[str] = []
    html = report.write(run, progress=told.append).read_text(encoding="utf-8")
    assert told[0] == "Results and curves"
    assert told[1:] == [
        "What the network is shown",
        "Cross-correlation of the two views",
        "Nearest neighbours",
        "Map of the features",
        "Spectrum",
    ]
    assert "data/train" in html
    assert str(run.parent) not in re.sub(r"base64,[\w+/=]+", "", html)


# Runs that lack something


def test_a_run_without_evaluation_says_so(run: Path, tmp_path: Path) -> None:
    folder = copy(run, tmp_path)
    (folder / "eval.json").unlink()
    found = Document(report.write(folder).read_text(encoding="utf-8"))
    assert "has not been evaluated" in found.text
    assert len(found.images()) == 73


def test_a_run_whose_images_have_moved_keeps_its_curves(run: Path, tmp_path: Path) -> None:
    folder = copy(run, tmp_path)
    moved = json.loads((folder / "run.json").read_text()) | {"data": str(tmp_path / "gone")}
    (folder / "run.json").write_text(json.dumps(moved))
    found = Document(report.write(folder, tmp_path / "other.html").read_text(encoding="utf-8"))
    assert found.text.count("The images of this run cannot be read") == 5
    assert str(tmp_path / "gone") in found.text
    assert len(found.all("polyline")) == len(points_of_curves(run))
    assert len(found.images()) == 5  # what the run drew itself
    assert (tmp_path / "other.html").exists()


def test_an_unfinished_run_without_checkpoint_shows_what_it_has(run: Path, tmp_path: Path) -> None:
    folder = copy(run, tmp_path)
    shutil.rmtree(folder / "checkpoints")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    # Killed while writing line 4, resumed from step 2: that step is there twice, and half a line ends it.
    (folder / "metrics.jsonl").write_text("\n".join([*lines[:3], lines[1], lines[2], lines[3][:20]]))
    found = Document(report.write(folder).read_text(encoding="utf-8"))
    assert "not finished: 3 of 9 steps" in found.text
    assert "1 unreadable line" in found.text
    assert found.text.count("no valid checkpoint yet") == 4
    assert {len((line["points"] or "").split()) for line in found.all("polyline")} <= {2, 3}


def test_a_damaged_checkpoint_is_not_shown_as_a_network(run: Path, tmp_path: Path) -> None:
    folder = copy(run, tmp_path)
    for file in folder.glob("checkpoints/*/model.safetensors"):
        raw = bytearray(file.read_bytes())
        raw[-1] ^= 1
        file.write_bytes(raw)
    with pytest.warns(UserWarning, match="damaged"):
        found = Document(report.write(folder).read_text(encoding="utf-8"))
    assert found.text.count("no valid checkpoint yet") == 4


def test_a_config_alone_is_a_run_and_an_empty_folder_is_none(run: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    shutil.copy(run / "config.json", tmp_path / "a")
    found = Document(report.write(tmp_path / "a").read_text(encoding="utf-8"))
    assert "There are no metrics to draw" in found.text
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="not a run folder"):
        report.write(tmp_path / "b")
    assert list((tmp_path / "b").iterdir()) == []


def test_synthetic_images_are_called_so(run: Path, tmp_path: Path) -> None:
    folder = copy(run, tmp_path)
    rec = record.read(folder)
    assert not record.is_synthetic(rec)
    rec.run["data"] = str(tmp_path / "shapes" / "train")
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "README.md").write_text("# Synthetic shapes\n")
    assert record.is_synthetic(rec)
    assert "synthetic data" in Document(page.header(rec, synthetic=True)).text
    assert "synthetic data" not in Document(page.header(rec, synthetic=False)).text


def test_what_comes_from_files_is_escaped(run: Path, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    folder = copy(run, tmp_path)
    changed = json.loads((folder / "run.json").read_text()) | {"preset": evil, "device": evil}
    (folder / "run.json").write_text(json.dumps(changed))
    evaluation = {"knn": None, "linear": None, "reason": evil}
    (folder / "eval.json").write_text(json.dumps(evaluation))
    assert "<script" not in report.write(folder).read_text(encoding="utf-8")
    query = gallery.Query("data:", evil, [gallery.Neighbour("data:", evil, 1.0, True)])
    sheet = exhibits.neighbours(gallery.Neighbourhood([query], 1, 1, 1, 1.0), held_out=True)
    assert "<script" not in sheet


# Parts


def test_the_gain_may_be_a_loss() -> None:
    row = {"knn": {"top1": 40.0}, "linear": {"top1": 50.0, "top5": 90.0}}
    better = {"knn": {"top1": 41.5}, "linear": {"top1": 50.0, "top5": 80.0}}
    text = Document(results.section_of({**row, "untrained": better, "raw_pixels": None})).text
    assert "\u22121.50" in text
    assert "+0.00" in text
    assert "+10.00" in text


def test_a_matrix_keeps_its_one_large_value_when_reduced() -> None:
    values = np.random.default_rng(0).normal(size=(1300, 1300)) * 0.01
    values[700, 3], values[3, 1299] = 0.9, -0.8
    reduced = pictures.block_extremes(values, 3)
    assert reduced.shape == (434, 434)
    assert reduced[700 // 3, 1] == 0.9
    assert reduced[1, 1299 // 3] == -0.8
    for row, column in ((0, 0), (100, 200), (433, 433)):
        block = values[3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
        assert abs(reduced[row, column]) == np.abs(block).max()
    assert decoded(pictures.matrix_uri(reduced)).shape == (434, 434, 3)
    assert decoded(pictures.matrix_uri(np.eye(24))).shape == (504, 504, 3)


def test_the_colours_tell_sign_and_size() -> None:
    red, white, blue = pictures.colours(np.array([1.0, 0.0, -1.0])).astype(int)
    assert red[0] > red[2] + 80
    assert blue[2] > blue[0] + 80
    assert white.min() > 230
    brightness = pictures.colours(np.linspace(0, 1, 50)).astype(int) @ (299, 587, 114)
    assert (np.diff(brightness) <= 0).all()
    assert np.array_equal(pictures.colours(np.array([0.04, 9.0])), pictures.colours(np.array([0.04, 1.0])))
    # A correlation of 0.04 is drawn a fifth of the way, not a twenty-fifth.
    assert brightness[0] - pictures.colours(np.array(0.04)).astype(int) @ (299, 587, 114) > 20_000


def test_the_numbers_beside_the_matrix_are_those_of_the_embeddings() -> None:
    config = tiny_run.tiny_config()
    shared = torch.randn(7, 24, generator=torch.Generator().manual_seed(0))
    found = matrices.matrix_of(shared, 3 * shared + 1, config)
    assert found.on_diagonal == pytest.approx(1)
    expected = np.corrcoef(shared.numpy().T)
    off = expected[~np.eye(24, dtype=bool)]
    assert found.off_diagonal_rms == pytest.approx(np.sqrt((off**2).mean()), rel=1e-4)
    assert found.loss == pytest.approx(config.objective.lambd * (off**2).sum(), rel=1e-4)
    assert found.num_images == 7


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.0051, "0.0051"), (1.6, "1.6"), (12.3456, "12.35"), (1234.5, "1,234"), (2e6, "2e6"),
        (1e-5, "1e-5"), (-0.5, "-0.5"), (1.234e-5, "1.23e-5"), (float("nan"), "nan"),
    ],
)  # fmt: skip
def test_numbers_are_short(value: float, text: str) -> None:
    assert charts.number(value) == text


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (3.0, 3.0), (-2e-7, 5e-7), (17.0, 91234.0), (0.0, 0.0)]
)
@pytest.mark.parametrize("log_y", [False, True])
def test_points_stay_inside_the_frame(low: float, high: float, log_y: bool) -> None:
    rng = np.random.default_rng(0)
    points = [(float(i), float(y)) for i, y in enumerate([low, high, *rng.uniform(low, high, 20)])]
    html = charts.line_chart("t", [Line("a", "one", points)], x_label="x", y_label="y", log_y=log_y)
    drawn = Document(html).all("polyline")
    if log_y and high <= 0:
        assert "nothing was logged" in html
        return
    kept = [y for _, y in points if y > 0 or not log_y]
    places = [tuple(map(float, pair.split(","))) for pair in (drawn[0]["points"] or "").split()]
    assert len(places) == len(kept)
    assert all(52 <= x <= charts.WIDTH - 12 and 12 <= y <= charts.HEIGHT - 38 for x, y in places)
    # Larger values stand higher.
    heights = [y for _, y in sorted(zip(kept, (y for _, y in places), strict=True))]
    assert heights == sorted(heights, reverse=True)


def test_ticks_are_round_and_enclose_the_values() -> None:
    html = charts.line_chart("t", [Line("a", "one", [(0.0, 0.13), (977.0, 0.87)])], x_label="x", y_label="y")
    assert re.findall(r'text-anchor="end">([^<]+)<', html)[:5] == ["0", "0.2", "0.4", "0.6", "0.8"]
    assert ">1<" in html
    assert ">500<" in html.replace("800", "500")


def test_a_long_curve_is_thinned_without_losing_its_extremes() -> None:
    points = [(float(i), 1.0) for i in range(10_000)]
    points[1234] = (1234.0, 50.0)
    means, lows, highs = charts.thin(points, 200)
    assert len(means) == len(lows) == len(highs) == 200
    assert max(y for _, y in highs) == 50
    assert max(y for _, y in means) == pytest.approx(1 + 49 / 50)
    html = charts.line_chart("t", [Line("a", "one", points)], x_label="x", y_label="y")
    assert Document(html).all("polygon", class_="band band-one")
    assert len(html) < 20_000


def test_a_metric_that_was_never_logged_is_named(tmp_path: Path) -> None:
    rec = record.Record(tmp_path, config=Config(), metrics=[{"step": 1, "loss": 3.0, "loss_floor": 1.0}])
    text = Document(curves.section_of([rec])).text
    assert "Speed: nothing was logged" in text
    assert "Loss: nothing" not in text
    assert "Gradient" not in text  # what not every version logs leaves no gap
