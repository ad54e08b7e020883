"""What the report computes, against other ways to compute it; and several runs in one report."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch

from barlow.ablations import ABLATIONS
from barlow.config import Config, cifar10, imagenet
from barlow.evaluate import deviations
from barlow.report import (
    charts,
    layout,
    maps,
    matrices,
    paper,
    pictures,
    record,
    results,
    spectra,
    timeline,
    write,
)
from barlow.report.charts import Line
from barlow.report.record import Record
from barlow.train.alarms import TABLE
from test_report import Document

# Layouts


def clusters(num_each: int = 40) -> tuple[torch.Tensor, np.ndarray]:
    draw = torch.Generator().manual_seed(0)
    centres = 8 * torch.randn(3, 50, generator=draw)
    points = torch.cat([centre + torch.randn(num_each, 50, generator=draw) for centre in centres])
    return points, np.repeat(np.arange(3), num_each)


def test_pca_finds_the_plane() -> None:
    draw = torch.Generator().manual_seed(1)
    plane = torch.randn(200, 2, generator=draw) * torch.tensor([5.0, 2.0])
    basis = torch.linalg.qr(torch.randn(30, 2, generator=draw)).Q
    points, (first, second) = layout.pca(plane @ basis.T + 3)
    assert first + second == pytest.approx(1)
    distances, true = (torch.cdist(x.double(), x.double()) for x in (points, plane))
    assert torch.allclose(distances, true, atol=1e-4)
    assert first > second
    assert points.abs().max(0).values.equal(points.max(0).values)  # the same way round everywhere
    assert layout.pca(torch.ones(5, 3))[0].abs().max() == 0
    assert layout.pca(torch.arange(4.0)[:, None])[0].shape == (4, 2)


def test_tsne_keeps_clusters_apart_and_together() -> None:
    points, labels = clusters()
    placed = layout.tsne(points)
    assert torch.equal(layout.tsne(points[::8]), layout.tsne(points[::8]))
    nearest = torch.cdist(placed, placed).fill_diagonal_(math.inf).topk(10, largest=False).indices.numpy()
    assert (labels[nearest] == labels[:, None]).mean() > 0.99
    centres = [placed[labels == i].mean(0) for i in range(3)]
    spreads = [placed[labels == i].std(0).norm() for i in range(3)]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (centres[i] - centres[j]).norm() > 2 * max(spreads)


def test_affinities_have_the_perplexity_and_the_slope_is_autograds() -> None:
    points, _ = clusters(10)
    p_NN = layout.affinities(points, 7.0)
    assert p_NN.sum().item() == pytest.approx(1)
    assert torch.equal(p_NN, p_NN.T)
    assert p_NN.diagonal().abs().max() == 0
    far = torch.cat([points, 1e4 + points[:3]])  # outliers underflow naive Gaussians
    assert bool(layout.affinities(far, 7.0).isfinite().all())
    y_N2 = torch.randn(
        30, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    close_NN = (1 / (1 + torch.cdist(y_N2, y_N2).square())) * (1 - torch.eye(30))
    q_NN = close_NN / close_NN.sum()
    off = ~torch.eye(30, dtype=torch.bool)
    (p_NN[off] * (p_NN[off] / q_NN[off]).log()).sum().backward()
    assert y_N2.grad is not None
    assert torch.allclose(layout.gradient(p_NN, y_N2.detach()), y_N2.grad, atol=1e-12)


def test_rows_of_affinities_are_gaussians_of_the_asked_width() -> None:
    points, _ = clusters(10)
    squares = torch.cdist(points.double(), points.double()).square().numpy()
    joint = layout.affinities(points, 5.0).numpy()
    # Against a plain search, row by row.
    rows = []
    for i in range(30):
        others = np.delete(squares[i], i)
        low, high, shares = 1e-9, 1e3, others
        for _ in range(200):
            beta = math.sqrt(low * high)
            weights = np.exp(-beta * (others - others.min()))
            shares = weights / weights.sum()
            entropy = -(shares[shares > 0] * np.log(shares[shares > 0])).sum()
            low, high = (beta, high) if entropy > math.log(5) else (low, beta)
        rows.append(np.insert(shares, i, 0.0))
    expected = np.array(rows)
    assert np.allclose(joint, (expected + expected.T) / 60, atol=1e-6)


def test_names_on_the_map_do_not_cover_each_other() -> None:
    place = [(100.0, 100.0), (101.0, 100.0), (102.0, 103.0), (300.0, 101.0)]
    names: list[str | None] = ["ant", "bee", "cat", "dog"]
    found = maps._labels(place, names, {name: "c0" for name in names if name})
    heights = sorted(found[name][1] for name in ("ant", "bee", "cat"))
    assert heights[1] - heights[0] >= 12
    assert heights[2] - heights[1] >= 12
    assert found["dog"] == (284.0, 101.0)  # alone, and inside of the frame
    assert maps.short("a-very-long-class-name") == "a-very-long…"


# Spectrum


def test_the_spectrum_and_its_power_law() -> None:
    draw = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(600, 300, generator=draw, dtype=torch.float64)).Q
    basis = torch.linalg.qr(basis - basis.mean(0)).Q
    places = torch.arange(1, 301, dtype=torch.float64)
    found = spectra.spectrum_of(basis * places ** (-1.5 / 2))  # eigenvalues fall as i^-1.5
    assert found.alpha == pytest.approx(1.5, abs=1e-6)
    assert sum(found.values) == pytest.approx(1)
    assert found.values[0] / found.values[9] == pytest.approx(10**1.5)
    (first, height), (last, low) = found.fit
    assert (first, last) == (10, 100)
    assert height == pytest.approx(found.values[9])
    assert low == pytest.approx(found.values[99])
    singular = np.arange(1, 301) ** -0.75
    shares = singular / singular.sum()
    assert found.rank_me == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))
    html = spectra.section_of([("a", found, found)])
    assert "power law, exponent 1.50" in html


# The matrix


@pytest.mark.parametrize("num_dims", [40, 1300])
def test_the_matrix_in_strips_is_the_matrix(num_dims: int) -> None:
    rng = np.random.default_rng(0)
    z1, z2 = rng.normal(size=(2, 30, num_dims))
    whole = np.corrcoef(z1.T, z2.T)[:num_dims, num_dims:]
    block = -(-num_dims // 512)
    found = matrices.picture_of(torch.tensor(z1), torch.tensor(z2), 0.0, most_values=100 * num_dims)
    assert found.shape == (-(-num_dims // block),) * 2
    assert np.allclose(found, pictures.block_extremes(whole, block), atol=1e-6)


def test_a_huge_embedding_takes_little_memory() -> None:
    draw = torch.Generator().manual_seed(0)
    z_ND = torch.randn(4, 1 << 15, generator=draw)
    wide = matrices.picture_of(z_ND, z_ND, 0.0)  # its matrix would take 4 GiB
    assert wide.shape == (512, 512)
    assert np.diagonal(wide).min() == pytest.approx(1, abs=1e-5)


# Over time


def test_snapshots_are_read_and_damaged_ones_named(reported_run: Path, tmp_path: Path) -> None:
    rec = record.read(reported_run)
    assert [step for step, _ in rec.snapshots] == [1, 2, 4, 8, 9]
    assert all(c_KK.shape == (24, 24) for _, c_KK in rec.snapshots)
    assert np.diagonal(rec.snapshots[-1][1]).mean() == pytest.approx(rec.metrics[-1]["on_diagonal"], abs=1e-5)
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "step-00000004.safetensors").write_bytes(b"\1\2")
    missing: list[str] = []
    assert record._snapshots(tmp_path, missing) == []
    assert "step-00000004.safetensors" in missing[0]


def test_few_of_many_snapshots_are_shown() -> None:
    many = [(step, np.eye(2)) for step in range(20)]
    shown = [step for step, _ in timeline.spread(many, 8)]
    assert (len(shown), shown[0], shown[-1]) == (8, 0, 19)
    assert timeline.spread(many[:3], 8) == many[:3]
    assert "kept no snapshots" in timeline.matrices([Record(Path("x"))])


def test_where_the_time_went_is_weighted_by_time() -> None:
    lines = [
        {"step": 1, "time_s": 0.0, "wait_share": 0.9},
        {"step": 2, "time_s": 10.0, "wait_share": 0.5},
        {"step": 3, "time_s": 40.0, "wait_share": 0.1},
    ]
    shares = dict(timeline.time_shares(Record(Path("x"), metrics=lines)))
    assert shares == pytest.approx({"waiting for data": 8 / 40, "steps": 32 / 40})
    assert timeline.time_shares(Record(Path("x"), metrics=lines[:1])) == []
    assert timeline.times([Record(Path("x"))]) == ""


def test_where_the_time_went_is_the_stages_of_a_real_run(reported_run: Path) -> None:
    """Which also say how long was waited, in a number of their own: nothing counts twice."""
    shares = dict(timeline.time_shares(record.read(reported_run)))
    assert shares["steps"] > 0.2
    assert {"waiting for data", "anything else"} <= shares.keys()
    assert "communication" not in shares  # of one process
    assert sum(shares.values()) == pytest.approx(1, abs=1e-6)
    stages = {"loader": 0.1, "copy": 0.2, "compute": 0.4, "communication": 0.25, "other": 0.05}
    line = {"wait_share": 0.9, **{f"{name}_share": share for name, share in stages.items()}}
    lines = [{"step": 1, "time_s": 0.0, **line}, {"step": 2, "time_s": 10.0, **line, "copy_share": None}]
    html = timeline.times([Record(Path("x"), metrics=lines)])
    spoken = (
        "waiting for data 10 percent, steps 40 percent, communication 25 percent, anything else 5 percent"
    )
    assert f'aria-label="{spoken}"' in html


def test_alarms_say_when() -> None:
    lines = [
        {"step": step, "alarms": ["data_starved"]} if 3 < step < 7 else {"step": step} for step in range(9)
    ]
    html = timeline.alarms([Record(Path("x"), metrics=lines)])
    assert "4 to 6" in html
    assert "still" not in html
    assert "still" in timeline.alarms([Record(Path("x"), metrics=lines[:7])])
    assert timeline.alarms([Record(Path("x"), metrics=lines[:2])]) == ""


def test_alarms_say_why_and_what_to_do() -> None:
    for illness in TABLE:
        html = timeline.alarms([Record(Path("x"), metrics=[{"step": 1, "alarms": [illness.name]}])])
        words = unescape(re.sub("</?code>", "`", html))
        assert f"{illness.cause} {illness.advice}" in words
        assert ("note: " if illness.is_note else ">") + illness.title in words
    unknown = timeline.alarms([Record(Path("x"), metrics=[{"step": 1, "alarms": ["<b>_new"]}])])
    assert "<strong>&lt;b&gt; new</strong></td>" in unknown


# Beside the paper


def test_published_numbers_belong_to_their_recipe_and_data() -> None:
    images = 1_281_167
    found = paper.published(imagenet(), images)
    assert found is not None
    assert (found.linear_top1, found.linear_top5) == (73.2, 91.0)
    assert paper.published(imagenet(), 1000) is None
    assert paper.published(None, images) is None
    base = imagenet()
    short = replace(base, optim=replace(base.optim, epochs=300))
    for name, expected in (("baseline", 71.4), ("only-invariance", 57.3), ("stop-gradient", 70.5)):
        theirs = paper.published(ABLATIONS[name].applied(short), images)
        assert theirs is not None
        assert theirs.linear_top1 == expected
    assert paper.published(ABLATIONS["no-grayscale"].applied(short), images) is None  # a curve, no number
    other = replace(base, optim=replace(base.optim, lr_weights=0.3))
    assert paper.published(other, images) is None
    # Where and how fast it ran is nothing to the recipe.
    elsewhere = replace(base, data=replace(base.data, threads=3), train=replace(base.train, seed=5))
    assert paper.published(elsewhere, images) == found
    theirs = paper.published(cifar10(), 50_000)
    assert theirs is not None
    assert theirs.linear_top1 == 92.1


def test_a_single_line_of_metrics_is_a_number_and_beside_a_curve_a_dot() -> None:
    once, often = Line("a", "one", [(5.0, 2.0)]), Line("b", "two", [(5.0, 1.0), (6.0, 2.0)])
    alone = Document(charts.line_chart("t", [once], x_label="step", y_label="y"))
    assert alone.all("svg") == []
    assert "2 a at step 5" in alone.text
    assert "once" in alone.text
    drawn = Document(charts.line_chart("t", [once, often], x_label="step", y_label="y"))
    assert len(drawn.all("circle")) == len(drawn.all("polyline")) == 1


def test_what_is_folded_away_says_what_was_done_and_nothing_else() -> None:
    config = Config()
    row = {"top1": 40.0, "top5": 50.0}
    data = {"partition": "trained on /x/y/a", "train": "/x/y/a"}

    def told(*names: str) -> str:
        protocol = deviations.protocol(config, torch.bfloat16, (1.0, 0.1), labelled=True, names=names)
        assert ("learning_rate_factors" in protocol["baselines"]) == ("linear" in names)
        return results.section_of({**dict.fromkeys(names, row), "data": data, "protocol": protocol})

    without, with_probe = told("knn"), told("knn", "linear")
    assert "baselines" not in without.lower()
    assert "of the rates 0.3, 0.03 the best on the test images counts" in with_probe
    folded = Document(with_probe[with_probe.index("<details>") :].removesuffix("</section>"))
    order = ("The images", "trained on y/a", "differs", "bfloat16", "Baselines of the linear probe", "rates")
    places = [folded.text.index(words) for words in order]
    assert places == sorted(places)
    # An evaluation of an older version spoke of rates in any case.
    old = {"knn": row, "protocol": {"baselines": {"note": "the best of these rates"}}}
    assert "rates" not in results.section_of(old)


def test_they_are_shown_beside_ones_own(reported_run: Path, tmp_path: Path) -> None:

    rec = record.read(reported_run)
    rec.config, rec.run = imagenet(), {**rec.run, "num_samples": 1_281_167}
    theirs = paper.published(rec.config, rec.run["num_samples"])
    assert "<strong>73.2</strong>, top-5 <strong>91.0</strong>" in results.section_of(rec.evaluation, theirs)
    assert "Published" not in results.section_of(rec.evaluation)
    table = results.comparison([rec, record.read(reported_run)])
    assert "73.2 (Zbontar" in table
    assert f"{(rec.evaluation or {})['knn']['top1']:.2f}" in table


# Several runs


def test_several_runs_in_one_report(reported_run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "run").mkdir(parents=True)
        for file in ("config.json", "run.json", "metrics.jsonl"):
            (tmp_path / name / "run" / file).write_bytes((reported_run / file).read_bytes())
    config = json.loads((tmp_path / "b" / "run" / "config.json").read_text())
    config["optim"]["momentum"] = 0.875
    (tmp_path / "b" / "run" / "config.json").write_text(json.dumps(config))
    out = write([tmp_path / "a" / "run", tmp_path / "b" / "run"], tmp_path / "both.html")
    html = out.read_text(encoding="utf-8")
    assert "2 runs side by side" in html
    for name in ("a/run", "b/run"):
        assert f"</i>{name}</th>" in html
        assert f"{name}: eval.json: the run has not been evaluated" in html
    assert "<code>optim.momentum</code></th><td>0.9</td><td>0.875</td>" in html
    assert html.count("<code>optim.") == 1
    curves = html[html.index('<section id="curves">') : html.index('<section id="time">')]
    num_curves = curves.count('<polyline class="line line-r0"')
    assert num_curves == curves.count('<polyline class="line line-r1"') >= 10
    assert html.count("What the network is shown</h2>") == 0
    assert html.count("What the network is shown: a/run</h2>") == 1  # the same images under the same views


def test_runs_of_other_batch_sizes_are_drawn_over_epochs(reported_run: Path) -> None:
    from barlow.report import curves

    a, b = record.read(reported_run), record.read(reported_run)
    assert "optimizer step" in curves.section_of([a, b])
    assert b.config is not None
    b.config = dataclasses.replace(b.config, optim=replace(b.config.optim, batch_size=6))
    html = curves.section_of([a, b])
    assert "optimizer step" not in html
    assert ">epoch</text>" in html


def test_no_run_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run"):
        write([], tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()
