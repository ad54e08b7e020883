"""`barlow eval` as a command: its flags, several ranks, several seeds, and what a reader finds of it."""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_run
from barlow.config import Config
from barlow.distributed import World
from barlow.evaluate import console, evaluate, result, scores, tables
from barlow.evaluate.protocols import PROTOCOLS
from barlow.model import build_model, weights
from barlow.report import record, results
from commands import barlow_here, the_error
from conftest import one_core
from processes import run

FROZEN = ("knn", "linear", "linear-sweep", "voc07-svm", "few-shot", "retrieval")
Capture = pytest.CaptureFixture[str]


def quick() -> Config:
    config = tiny_run.tiny_config(width=4)
    settings = dataclasses.replace(
        config.evaluate,
        linear_epochs=2,
        sweep_lrs=(0.1, 1.0, 10.0),
        svm_costs=(1.0, 10.0),
        few_shot_episodes=6,
        batch_size=7,  # so that the last batch is short, and shorter on one of the ranks
    )
    return dataclasses.replace(config, evaluate=settings)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    tiny_run.write_pictures(folder / "train", per_class=11, seed=1)
    tiny_run.write_pictures(folder / "held-out", per_class=7, seed=2)
    content = weights.encode(build_model(quick().model, 5).backbone.state_dict(), quick().model, quick())
    (folder / "w.safetensors").write_bytes(content)
    return folder


def measured(world: World | None, place: str, cache: str, out: str) -> dict[str, Any]:
    warnings.simplefilter("default")
    found = evaluate(
        Path(place) / "w.safetensors", place, protocols=FROZEN, seeds=2, device="cpu", quiet=True,
        cache=cache, cache_gib=1, out=out,
    )  # fmt: skip
    # Fresh views are kept by nobody, and held by the ranks alone that train on them.
    fresh = dataclasses.replace(quick(), evaluate=dataclasses.replace(quick().evaluate, linear_crops=0))
    evaluate(
        Path(place) / "w.safetensors", place, protocols=("linear",), device="cpu", quiet=True, config=fresh,
        out=f"{out}.fresh",
    )  # fmt: skip
    return {key: value for key, value in found.items() if key not in ("seconds", "processes")}


@pytest.fixture(scope="module")
def alone(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with features and eval.json of one process, and what `evaluate` gave."""
    folder = tmp_path_factory.mktemp("alone")
    with one_core():
        return folder, measured(None, str(place), str(folder / "features"), str(folder / "eval.json"))


def test_two_processes_give_what_one_gives_bit_for_bit(
    place: Path, alone: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Every number of every protocol: features to the bit, since a row's don't depend on its batch here."""
    folder, alone_found = alone
    shared = run(measured, 2, str(place), str(tmp_path / "features"), str(tmp_path / "two.json"))
    assert shared[0] == shared[1] == alone_found
    written = json.loads((tmp_path / "two.json").read_text())
    assert written["processes"] == 2
    assert {key: written[key] for key in alone_found} == alone_found
    fresh = [
        json.loads(path.read_text()) for path in (folder / "eval.json.fresh", tmp_path / "two.json.fresh")
    ]
    for key in (None, "untrained", "raw_pixels"):
        one, two = (each["linear"] if key is None else each[key]["linear"] for each in fresh)
        assert one == two
    ours, theirs = (
        {entry.name: (entry / "features.f32").read_bytes() for entry in (place / "features").iterdir()}
        for place in (folder, tmp_path)
    )
    assert ours == theirs


def test_what_is_random_has_a_spread_and_what_is_not_has_none(alone: tuple[Path, dict[str, Any]]) -> None:
    folder, found = alone
    few = found["few-shot"]
    values = [seed["centroid_1_shot"] for seed in few["seeds"]]
    assert len(values) == 2
    assert values[0] != values[1]
    # The seeds' values have two digits here; mean and deviation are of all their digits.
    assert few["centroid_1_shot"] == pytest.approx(sum(values) / 2, abs=0.0101)
    assert few["std"]["centroid_1_shot"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5, abs=0.0151)
    assert set(found["linear"]["std"]) == {"top1", "top5"}
    assert "std" not in found["knn"]
    assert {k: v for k, v in result.read(folder / "eval.json").items() if k in found} == found


def test_flags_change_what_the_weights_say(place: Path, tmp_path: Path, capfd: Capture) -> None:
    out = tmp_path / "e.json"
    found = barlow_here(
        capfd, "eval", place / "w.safetensors", place, "--protocols", "few-shot", "knn", "--seeds", 3,
        "--evaluate.few-shot-shots", 2, "--evaluate.knn-k", 3, "--data.eval-resize", 20,
        "--precision", "bf16", "--no-baselines", "--cache-gib", 0, "--out", out,
    )  # fmt: skip
    assert found.code == 0, found.err
    told = json.loads(out.read_text())
    assert told["protocol"]["knn"]["k"] == 3
    assert told["protocol"]["few-shot"]["shots"] == [2]
    assert told["protocol"]["few-shot"]["episodes"] == 6  # the weights' own
    assert told["protocol"]["precision"] == "bfloat16"
    assert told["protocol"]["test_view"].startswith("shorter side to 20 px")
    assert "linear" not in told
    assert "untrained" not in told
    few = told["few-shot"]
    assert [set(seed) >= {"centroid_2_shot", "logistic_2_shot"} for seed in few["seeds"]] == [True] * 3
    assert re.search(
        rf"few-shot centroid 2 shot\W+{few['centroid_2_shot']:.2f} ± {few['std']['centroid_2_shot']:.2f}",
        found.out,
    )
    assert "Mean ± standard deviation of 3 seeds" in found.out
    # In a log every part has a line when it begins and one when it ends.
    said = [line for line in found.out.splitlines() if line.startswith("trained: ") and ": begins" in line]
    seeds = [f"trained: few-shot, seed {seed}: begins" for seed in range(3)]
    assert said == [*seeds, "trained: kNN: begins", "trained: without labels: begins"]
    single = few["seeds"][1]["centroid_2_shot"]
    assert re.search(
        rf"^trained: few-shot, seed 1: centroid 2 shot {single:.2f}, .*, in [\d.]+ s$", found.out, re.M
    )
    assert re.search(rf"^trained: kNN: top-1 {told['knn']['top1']:.2f}, in [\d.]+ s$", found.out, re.M)
    assert "views: 16 px after a resize to 20 px instead of 224 px after 256 px" in found.out
    assert not (place / "w.features").exists()


def test_a_part_that_lasts_says_how_far_it_is_where_no_bar_does(
    monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    def said() -> list[str]:
        talk = console.Console()
        with talk.part("a") as note, talk.stage("b") as progress:
            progress(1, 2000)
            progress(2000, 2000)
            note("x")
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", capfd.readouterr().out).split("\n")

    monkeypatch.setattr(console, "_EVERY_S", 0.0)
    lines = [
        "a: begins",
        "b: 1 of 2,000 so far",
        "b: 2,000 of 2,000 so far",
        "b: 2,000 in 0.0 s",
        "a: x, in 0.0 s",
    ]
    assert said() == [*lines, ""]
    monkeypatch.setattr(console, "_EVERY_S", 30.0)
    assert said() == [lines[0], *lines[3:], ""]
    monkeypatch.setenv("FORCE_COLOR", "1")  # which rich takes for a terminal
    shown = [line for line in said() if not line.startswith("b ")]
    assert shown == ["b: 2,000 in 0.0 s", ""]  # beside the bar, which goes


def test_help_shows_the_values_of_the_weights_and_every_protocol(place: Path, capfd: Capture) -> None:
    shown = barlow_here(capfd, "eval", place / "w.safetensors", place, "--help")
    assert shown.code == 0
    words = " ".join(re.sub(r"[│\s]+", " ", shown.out).split())
    assert re.search(r"--evaluate\.few-shot-episodes INT .{,60}\(default: 6\)", words)
    assert re.search(r"--data\.image-size INT .{,60}\(default: 16\)", words)
    for name in PROTOCOLS:
        assert name in words
    without_data = barlow_here(capfd, "eval", place / "w.safetensors", "--help")
    assert re.search(r"--evaluate\.few-shot-episodes INT\s.{,120}\(default: 6\)", without_data.out, re.DOTALL)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--protocols", "svm"), "there is no protocol 'svm', only knn, linear, linear-sweep, voc07-svm"),
        (("--protocols", "knn", "knn"), "must be different ones"),
        (("--seeds", "0"), "--seeds must lie between 1 and 1000, not 0"),
        (("--cache-gib", "-1"), "--cache-gib must lie in"),
        (("--data.prefetch", "9"), "--data.prefetch has no part in barlow eval"),
        (("--evaluate.sweep-held-out", "1"), "--evaluate.sweep-held-out must lie in (0, 1), not 1"),
        (("--evaluate.svm-costs",), "--evaluate.svm-costs"),
        (("--protocols", "knn", "semi-1", "--evaluate.semi-1-list", "no.txt"), "no.txt: No such file"),
        (("--protocols", "knn", "finetune", "--evaluate.recipe-batch-size", "1"), "batches of 1 images"),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    place: Path, capfd: Capture, flags: tuple[str, ...], message: str
) -> None:
    before = sorted(place.iterdir())
    found = barlow_here(capfd, "eval", place / "w.safetensors", place, *flags)
    assert found.code == 2, found.out
    assert message in found.err
    assert "Traceback" not in found.err
    assert sorted(place.iterdir()) == before


def test_an_out_that_cannot_be_is_told_before_the_work(place: Path, tmp_path: Path, capfd: Capture) -> None:
    (tmp_path / "file").touch()
    for out, reason in (
        (tmp_path, f"{tmp_path}: Is a directory"),
        (tmp_path / "file" / "x" / "eval.json", f"{tmp_path}/file: Not a directory"),
    ):
        for command in (
            ("eval", place / "w.safetensors", place, "--cache", tmp_path / "cache"),
            ("detect", place / "w.safetensors", place),
        ):
            done = barlow_here(capfd, *command, "--out", out)
            assert (done.code, the_error(done.err)) == (2, reason)
            assert done.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_ranks_are_started_and_give_the_same(
    place: Path, alone: tuple[Path, dict[str, Any]], tmp_path: Path, capfd: Capture
) -> None:
    words = ("eval", place / "w.safetensors", place, "--protocols", "knn", "retrieval", "--no-baselines")
    found = barlow_here(capfd, *words, "--nproc", 2, "--cache-gib", 0, "--out", tmp_path / "e.json")
    assert found.code == 0, found.err
    written = json.loads((tmp_path / "e.json").read_text())
    assert written["processes"] == 2
    for name in ("knn", "retrieval", "label_free"):
        assert written[name] == alone[1][name]
    assert found.out.count("wrote") == 1


def test_a_missing_library_is_one_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from barlow.evaluate import extra

    monkeypatch.setattr(extra, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="few-shot needs sklearn: pip install scikit-learn"):
        evaluate(
            place / "w.safetensors", place, protocols=["few-shot"], quiet=True, device="cpu", baselines=False
        )


def test_the_gain_of_intervals_is_as_wide_as_that_of_independent_ones() -> None:
    rows = {"few-shot": {"centroid_1_shot": 30.0, "centroid_1_shot_ci95": 0.3}}
    before = {"few-shot": {"centroid_1_shot": 26.0, "centroid_1_shot_ci95": 0.4}}
    (score,) = scores.scores({**rows, "untrained": before})
    assert score.gain() == (4.0, pytest.approx(0.5))
    assert score.gain_text() == "+4.00 ± 0.50"
    (alone,) = scores.scores(rows)
    assert (alone.gain(), alone.gain_text()) == ((None, None), "-")


def test_the_terminal_has_what_the_report_has(alone: tuple[Path, dict[str, Any]], capfd: Capture) -> None:
    _, found = alone
    tables.show(console.Console(), found, Path("eval.json"))
    shown = capfd.readouterr().out
    told = f"Always naming the commonest class would give {found['data']['majority_class_percent']:g}."
    assert told in shown
    assert told in results.section_of(found)
    gain = found["knn"]["top1"] - found["untrained"]["knn"]["top1"]
    assert re.search(rf"kNN top-1 .*│ +{re.escape(f'{gain:+.2f}')} │", shown)
    # No cell is broken: each score has one line, whatever it is called.
    assert all(re.search(rf"^│ {re.escape(score.words)} +│", shown, re.M) for score in scores.scores(found))
    assert re.search(r"few-shot centroid 5 shot .*± [\d.]+ │ +[-+][\d.]+ ± [\d.]+ │", shown)
    bare = {key: value for key, value in found.items() if key != "untrained"}
    tables.show(console.Console(), bare, Path("eval.json"))
    assert not re.search(r"\bgain", capfd.readouterr().out)
    assert not re.search(r"\bgain", results.section_of(bare))


# The report


def test_the_report_has_every_score_with_its_spread(
    reported_run: Path, alone: tuple[Path, dict[str, Any]]
) -> None:
    _, found = alone
    page = results.section_of(found)
    assert "has gone on" not in page
    assert "has gone on" not in results.section_of({**found, "step": 250}, None, 250)
    older = results.section_of({**found, "step": 100}, None, 250)
    assert "the numbers of step 100; the run has gone on to step 250 since" in older
    plain = page.replace('<span class="metric">', "").replace("</span></th>", "</th>")
    for name, metric, words in (
        ("linear-sweep", "top1", "linear sweep top-1"),
        ("voc07-svm", "map_11_point", "VOC07 SVM mAP, 11-point"),
        ("few-shot", "centroid_5_shot", "few-shot centroid 5 shot"),
    ):
        row = re.search(rf"<tr><th scope=row>{words}</th>(.*?)</tr>", plain)
        assert row is not None, words
        values = [
            (r[name][metric], r[name]["std"][metric])
            for r in (found, found["untrained"], found["raw_pixels"])
        ]
        shown = re.findall(
            r">([-+\d.]+)</span> <span class=\"spread\">&plusmn; ([\d.]+)<", row[1].replace("&minus;", "-")
        )
        gains = [
            ours[metric] - theirs[metric]
            for ours, theirs in zip(found[name]["seeds"], found["untrained"][name]["seeds"], strict=True)
        ]
        assert len(gains) == 2
        gain = (values[0][0] - values[1][0], abs(gains[0] - gains[1]) / 2**0.5)
        assert [(float(a), float(b)) for a, b in shown] == [*values, pytest.approx(gain, abs=0.006)]
    assert "standard deviation of 2 seeds" in page
    assert "retrieval recall@5" in plain
    # Beside a run that was evaluated by two protocols only.
    old = record.read(reported_run)
    new = dataclasses.replace(old, evaluation=found, name="new")
    both = results.comparison([old, new])
    assert both.count('<th scope=col>few-shot <span class="metric">centroid 1 shot</span></th>') == 1
    assert both.count("&ndash;") >= 8


# On a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_what_the_cpu_gives_to_rounding(
    place: Path, alone: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, on_cpu = alone
    for precision, share in (("fp32", 0.05), ("bf16", 0.15)):
        config = dataclasses.replace(quick(), train=dataclasses.replace(quick().train, precision=precision))
        found = evaluate(
            place / "w.safetensors", place, protocols=FROZEN, seeds=2, device="cuda", quiet=True,
            config=config, out=tmp_path / "gpu.json",
        )  # fmt: skip
        assert found["device"] == torch.cuda.get_device_name()
        for name, metric in (("knn", "top1"), ("retrieval", "map"), ("voc07-svm", "map_area")):
            assert found[name][metric] == pytest.approx(on_cpu[name][metric], abs=100 * share)
        rank = found["label_free"]["effective_rank"]
        assert rank == pytest.approx(on_cpu["label_free"]["effective_rank"], rel=share)
