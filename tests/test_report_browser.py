"""The report in a real browser: complete, quiet, legible in both colour schemes, on a phone and on a desk."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from barlow import report
from barlow.config import load, to_json
from barlow.report import page, results
from browser import Browser, installed

CASES = [
    (page, width, scheme)
    for page in ("one", "two")
    for width, scheme in ((1280, "light"), (1280, "dark"), (390, "light"), (390, "dark"))
]
PLACES = """
[...document.querySelectorAll('img, svg.chart')].map(e => {
  const r = e.getBoundingClientRect();
  return {x: r.x + scrollX, y: r.y + scrollY, width: r.width, height: r.height,
          loaded: e.tagName !== 'IMG' || (e.complete && e.naturalWidth > 0),
          kind: e.className.baseVal ?? e.alt};
})"""
TOO_WIDE = """
[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll *, svg *'))
  .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 120))"""
CONTRASTS = """
(() => {
  const light = c => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
    .map(x => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
  const behind = e => { for (; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)$|transparent/.test(c)) return c; }
    return 'rgb(255, 255, 255)'; };
  const poor = [];
  for (const e of document.querySelectorAll('main *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    const style = getComputedStyle(e), own = style[e.closest('svg') ? 'fill' : 'color'];
    const [a, b] = [own, behind(e)].map(light);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push([ratio, e.outerHTML.slice(0, 120)]);
  }
  return poor;
})()"""


def second_run(run: Path, folder: Path) -> Path:
    """A run with another learning rate, a longer name, and everything that a line of metrics may hold."""
    other = Path(shutil.copytree(run, folder / "the-same-with-a-much-longer-name-and-twice-the-rate"))
    config = load(other / "config.json")
    optim = dataclasses.replace(config.optim, lr_weights=2 * config.optim.lr_weights)
    (other / "config.json").write_text(to_json(dataclasses.replace(config, optim=optim)))
    lines = []
    for text in (other / "metrics.jsonl").read_text().splitlines():
        line: dict[str, Any] = json.loads(text)
        step = line["step"]
        health = {
            "rank_me": 3.0 + step, "alpha_req": 3 / step, "dead_dimensions": 0, "grad_norm": 10.0 / step,
            "update_ratio": 0.01, "trust_ratio_min": 1e-4, "trust_ratio_max": 0.01, "knn_top1": 30.0 + step,
            "off_diagonal_expected": 0.3, "loss": 1.2 * line["loss"], "wait_share": 0.4,
        }  # fmt: skip
        alarms = {"alarms": ["data_starved"]} if step > 4 else {}
        lines.append(json.dumps({**line, **health, **alarms}))
    (other / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return other


@pytest.fixture(scope="module")
def pages(reported_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    installed()  # before any work
    folder = tmp_path_factory.mktemp("pages")
    other = second_run(reported_run, folder)
    return {
        "one": report.write(other, folder / "one.html"),
        "two": report.write([reported_run, other], folder / "two.html"),
    }


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.mark.parametrize(("page", "width", "scheme"), CASES)
def test_a_page_is_whole(
    browser: Browser, pages: dict[str, Path], page: str, width: int, scheme: Literal["light", "dark"]
) -> None:
    browser.open(pages[page], width=width, scheme=scheme)
    assert browser.complaints() == []
    asked = [url for url in browser.requests() if not url.startswith("data:")]
    assert asked == [pages[page].resolve().as_uri()]  # the page, and nothing that it wants besides
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate(TOO_WIDE) == []
    assert browser.evaluate(CONTRASTS) == []
    pixels = browser.screenshot()
    corner = pixels[:4, :4].mean()
    assert corner > 200 if scheme == "light" else corner < 60
    places = browser.evaluate(PLACES)
    kinds = [place["kind"] for place in places]
    assert kinds.count("chart map") == 2 * (1 if page == "one" else 2)
    assert sum(kind == "chart" for kind in kinds) == 13 + 2  # of training, and the spectra
    for place in places:
        assert place["loaded"], place
        x, y = round(place["x"]), round(place["y"])
        part = pixels[y : y + round(place["height"]), x : x + round(place["width"])]
        assert min(part.shape[:2]) >= 10, place
        assert part.std() > 2, place
        assert len(np.unique(part.reshape(-1, 3), axis=0)) > 2, place


@pytest.mark.parametrize("width", [320, 390, 500, 1280])
def test_no_number_of_the_results_is_cut_off(browser: Browser, tmp_path: Path, width: int) -> None:
    """The widest that there are, every one with a spread; and no line ends within "top-1"."""

    def row(top1: float) -> dict[str, Any]:
        seeds = [{"top1": top1, "top5": 100.0}, {"top1": top1 - 10, "top5": 80.0}]
        spread = {"top1": 10.55, "top5": 10.55}
        return {"linear-sweep": {"top1": top1, "top5": 100.0, "std": spread, "seeds": seeds}}

    evaluation = {**row(10.0), "untrained": row(100.0), "raw_pixels": row(100.0)}
    (tmp_path / "wide.html").write_text(page.page("wide", [results.section_of(evaluation)]))
    browser.open(tmp_path / "wide.html", width=width, scheme="light")
    # To hold for numbers of any width the texts themselves count, not their cells.
    right_ends = browser.evaluate("""[...document.querySelectorAll('table.results span, table.results th')]
        .map(e => { const r = document.createRange(); r.selectNodeContents(e);
                    return [e.innerText, r.getBoundingClientRect().right]; })""")
    inside = browser.evaluate("document.querySelector('.scroll').getBoundingClientRect().right")
    texts = [text for text, _ in right_ends]
    assert (texts.count("\u221290.00"), texts.count("± 0.00")) == (1, 2)
    assert [text for text, right in right_ends if right > inside + 0.5] == []
    # However narrow its column, "top-1" stays one word.
    squeezed = "[...document.querySelectorAll('.metric')].map(e => "
    squeezed += "(e.parentElement.style.cssText = 'display: block; width: 10px', e.getClientRects().length))"
    assert browser.evaluate(squeezed) == [1, 1]


def test_links_lead_somewhere_and_the_settings_unfold(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["two"], width=390, scheme="light")
    links = browser.evaluate("[...document.querySelectorAll('nav a')].map(e => e.getAttribute('href'))")
    assert len(links) >= 9
    assert browser.evaluate(
        "[...document.querySelectorAll('nav a')].every(e => document.querySelector(e.hash))"
    )
    before = browser.evaluate("document.documentElement.scrollHeight")
    browser.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert browser.evaluate("document.documentElement.scrollHeight") > before + 500
    assert browser.evaluate("document.documentElement.scrollWidth") == 390


def test_the_checks_see_what_is_wrong(browser: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        '<!doctype html><meta name="viewport" content="width=device-width"><main style="background:#fff">'
        '<img src="missing.png" alt="x"><p style="width:2000px;color:#ccc">pale</p>'
        "<script>console.error('no')</script></main>"
    )
    browser.open(bad, width=390, scheme="light")
    assert len(browser.complaints()) == 2  # the console, and the file that is not there
    assert [url for url in browser.requests() if url.endswith("missing.png")]
    assert browser.evaluate("document.documentElement.scrollWidth") > 390
    assert len(browser.evaluate(TOO_WIDE)) == 1
    assert len(browser.evaluate(CONTRASTS)) == 1
    assert [place["loaded"] for place in browser.evaluate(PLACES)] == [False]
