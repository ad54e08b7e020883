"""The panel, rendered as text at 80 columns and read; plain lines; alarms said once."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from barlow.data import open_index
from barlow.distributed import World
from barlow.train import loop
from barlow.train.alarms import TABLE, Alarm
from barlow.train.progress import Display, duration
from tiny_run import tiny_config, write_pictures

LINE = {
    "step": 1200, "epoch": 1.92, "loss": 182.4, "loss_floor": 123.5, "lr_weights": 0.31, "wait_share": 0.031,
    "images_per_s": 3121.7, "on_diagonal": 0.912, "off_diagonal_rms": 0.0312, "off_diagonal_expected": 0.0221,
    "rank_me": 210.4, "alpha_req": 1.13, "dead_dimensions": 3, "grad_norm": 31.7, "update_ratio": 0.0123,
    "time_s": 1000.0,
}  # fmt: skip
ALARMS = [
    Alarm(illness, "a symptom with its numbers, such as RankMe from 210 to 12.3 of 511 directions " * 2)
    for illness in (TABLE[2], TABLE[-1])
]


def display(columns: int, *, terminal: bool = True) -> tuple[Display, io.StringIO]:
    out = io.StringIO()
    console = Console(
        file=out, width=columns, force_terminal=terminal, color_system=None, highlight=False, soft_wrap=True
    )
    return Display(1000, 6250, 625, title="runs/first [x]", possible_rank=511, console=console), out


def panel(of: Display, columns: int) -> list[str]:
    console = Console(file=io.StringIO(), width=columns, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(of.panel())
    return capture.get().splitlines()


@pytest.mark.parametrize(("columns", "width"), [(80, 80), (200, 100), (60, 60)])
def test_the_panel_says_everything_and_is_never_wider_than_the_terminal(columns: int, width: int) -> None:
    shown, _ = display(columns)
    shown.saved(1000)
    shown.limits("decode limits: the consumer waits 3% of its time; threads: read 1%, decode 83%, augment 9%")
    with shown:
        shown.show({**LINE, "step": 625, "epoch": 1.0, "knn_top1": 45.62})
        shown.show(LINE)
        shown.advance(1201)
        rows = panel(shown, columns)
    assert {len(row) for row in rows} == {width}
    text = "\n".join(rows)
    assert rows[0].startswith("╭─ runs/first [x] ─")
    for words in (
        "step 1201/6250",
        "epoch 1.9/10",
        "ETA 0:",
        "no alarms",
        "decode limits: the consumer waits 3%",
    ):
        assert words in text, words
    if columns < 80:
        return
    for name, value in (
        ("loss", "182 (floor 124)"), ("images/s", "3122"), ("RankMe", "210 of 511, 3 dead"),
        ("waiting", "3 %"), ("C_ii", "0.912 (1 is alike)"), ("kNN", "45.6 % (epoch 1.0)"),
        ("C_ij", "0.0312 (0.0221 by chance)"),
        ("saved", "step 1000"), ("gradient", "31.7, alpha-ReQ 1.13"), ("lr", "0.31, moves 1.2 %"),
    ):  # fmt: skip
        assert re.search(rf"{re.escape(name)} +{re.escape(value)}", text), (name, text)


def test_alarms_are_rows_of_the_panel_and_said_when_they_begin_and_end() -> None:
    shown, out = display(80)
    with shown:
        for alarms in (ALARMS, ALARMS, ALARMS[:1]):
            shown.show(LINE, alarms)
        rows = panel(shown, 80)
    assert {len(row) for row in rows} == {80}
    assert any(row.startswith("│ collapsing: a symptom") for row in rows)
    assert not any("no alarms" in row for row in rows)
    said = out.getvalue()
    assert said.count("alarm: collapsing: a symptom") == 1
    assert said.count("note: batch small for the embedding: ") == 1
    assert said.count("over: batch_too_small") == 1
    assert TABLE[2].advice.split()[-1] in said


def test_plain_lines_have_the_same_numbers() -> None:
    shown, out = display(80, terminal=False)
    with shown:
        shown.show({**LINE, "knn_top1": 45.62}, ALARMS[:1])
        shown.show({**LINE, "loss": None, "rank_me": None})
    first, alarm, second, over = out.getvalue().splitlines()
    assert first.startswith(
        "step 1200/6250  epoch 1.9/10  loss 182.4 (floor 123.5)  C_ii 0.91  C_ij 0.0312 (0.0221)"
    )
    assert "RankMe 210  3122 images/s  waiting for data 3 %  kNN 45.6 %  ETA " in first
    assert alarm.startswith("alarm: collapsing: ")
    assert "loss not finite" in second
    assert "RankMe -" in second
    assert over == "over: collapsing"


def test_before_the_first_line_the_panel_waits() -> None:
    shown, _ = display(80)
    assert any("waiting for the first step" in row for row in panel(shown, 80))


@pytest.mark.parametrize(("seconds", "text"), [(59.6, "0:01:00"), (3723, "1:02:03"), (90061, "1 d 1:01:01")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_last_panel_of_a_run_knows_of_its_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int | None] = []

    class Watched(Display):
        def __exit__(self, *exception: Any) -> None:
            told.append(self._saved)
            super().__exit__(*exception)

    monkeypatch.setattr(loop, "Display", Watched)
    index = open_index(write_pictures(tmp_path / "pictures", per_class=8))
    world = World(0, 1, 0, torch.device("cpu"))
    assert loop.train(index, tiny_config(epochs=2), tmp_path / "run", world, 1) == 0
    assert told == [4]
