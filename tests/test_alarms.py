"""Every alarm in a tiny real run that has the illness, and none in one that is healthy."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from barlow.config import Config
from barlow.data import open_index
from barlow.distributed import World
from barlow.train import loop
from barlow.train.alarms import TABLE, Facts, examine
from barlow.train.guard import PATIENCE, Guard
from barlow.train.learner import Learner
from tiny_run import tiny_config, write_pictures

Lines = list[dict[str, Any]]
WORLD = World(0, 1, 0, torch.device("cpu"))
STARVED_AFTER_S = 0.2


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"), per_class=32)


def config_of(steps: int, **sections: dict[str, Any]) -> Config:
    """96 images in batches of 32, with a lambda that suits 24 dimensions."""
    config = tiny_config(epochs=60)
    sections = {
        **sections,
        "optim": {"batch_size": 32, "warmup_epochs": 1} | sections.get("optim", {}),
        "objective": {"lambd": 0.05} | sections.get("objective", {}),
        "train": {"steps": steps},
    }
    changed = {name: replace(getattr(config, name), **fields) for name, fields in sections.items()}
    return replace(config, **changed)


def lines_of(run: Path) -> Lines:
    return [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]


def train(data: Path, run: Path, config: Config) -> Lines:
    loop.train(open_index(data), config, run, WORLD, 1)
    return lines_of(run)


def names(lines: Lines) -> set[str]:
    return {name for line in lines for name in line.get("alarms", ())}


def test_a_healthy_run_has_none(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(36)
    lines = train(pictures, tmp_path / "run", config)
    assert len(lines) == 36
    assert "loss_scale" not in lines[0]  # float32 has no scaler
    assert names(lines) == set()
    facts = replace(Facts.of(config), starved_after_s=STARVED_AFTER_S)
    assert all(not examine(lines[:count], facts) for count in range(1, 37))
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]  # it did learn
    shown = capsys.readouterr().out
    assert "alarm" not in shown
    assert "note" not in shown


def test_views_that_are_the_same(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = "resize 16 centre 16 bilinear"
    lines = train(pictures, tmp_path / "run", config_of(3, data={"augmentation": f"{same}; {same}"}))
    assert [line["alarms"] for line in lines] == [["views_identical"]] * 3
    shown = capsys.readouterr().out
    assert shown.count("alarm: views identical: the mean of C_ii is 1.000000") == 1  # said once
    assert "--data.augmentation" in shown


def test_a_redundancy_term_without_weight_collapses_the_dimensions(pictures: Path, tmp_path: Path) -> None:
    config = config_of(32, objective={"lambd": 0.0}, optim={"lr_weights": 4.0, "batch_size": 32})
    lines = train(pictures, tmp_path / "run", config)
    assert names(lines) == {"collapsing"}
    assert "alarms" not in lines[5]
    assert lines[-1]["rank_me"] < 5 < 15 < lines[0]["rank_me"]


def test_a_learning_rate_a_thousand_times_too_high(pictures: Path, tmp_path: Path) -> None:
    lines = train(pictures, tmp_path / "run", config_of(4, optim={"lr_weights": 400.0}))
    assert "alarms" not in lines[0]  # the warm-up begins at 0
    assert all("learning_rate_too_high" in line["alarms"] for line in lines[1:])


def spoiled(monkeypatch: pytest.MonkeyPatch, spoil: Any) -> None:
    """Runs begin with a projector that `spoil` has been at."""

    class Spoiled(Learner):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            with torch.no_grad():
                spoil(self.twins.projector)

    monkeypatch.setattr(loop, "Learner", Spoiled)


def test_a_projector_of_zeros(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled(monkeypatch, lambda projector: projector[-1].weight.zero_())
    lines = train(pictures, tmp_path / "run", config_of(2))
    assert [line["alarms"] for line in lines] == [["constant_output", "no_gradient"]] * 2
    assert lines[-1]["dead_dimensions"] == 24


def test_an_output_that_hardly_depends_on_the_image(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(projector: Any) -> None:
        projector[1].weight.fill_(1e-3)
        projector[1].bias.fill_(1.0)

    spoiled(monkeypatch, spoil)
    lines = train(pictures, tmp_path / "run", config_of(2))
    assert [line["alarms"] for line in lines] == [["constant_output"]] * 2


def test_dimensions_that_are_dead(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled(monkeypatch, lambda projector: projector[-1].weight[:3].zero_())
    config = config_of(3)
    lines = train(pictures, tmp_path / "run", config)
    assert [line.get("alarms") for line in lines] == [None, ["dead_dimensions"], ["dead_dimensions"]]
    (alarm,) = examine(lines, Facts.of(config))
    assert "3 of 24 dimensions are the same number for every image" in str(alarm)


def test_gradients_that_half_precision_can_not_hold(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The scaler of fp16 in a run on a CPU: of one weight the gradient, a million times too large, passes
    through half precision."""

    class Halved(Learner):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
            self._guard = Guard(self.device, PATIENCE)
            projector: Any = self.twins.projector
            projector[-1].weight.register_hook(lambda gradient: (1e6 * gradient).half().float() / 1e6)

    monkeypatch.setattr(loop, "Learner", Halved)
    lines = train(pictures, tmp_path / "run", config_of(6))
    scales = [line["loss_scale"] for line in lines]
    assert scales[:3] == [2.0, 1.0, 0.5]  # overflows, one after the other
    assert [line["grad_norm"] for line in lines[:2]] == [None, None]  # no step, no norms, and no alarm
    assert [line.get("alarms") for line in lines] == [
        ["half_precision_fails"] if scale < 1 else None for scale in scales
    ]
    assert "alarm: fp16 overflows: the loss is scaled by 0.5 only" in capsys.readouterr().out


def test_a_loader_that_does_not_keep_up(tmp_path: Path) -> None:
    """Photographs of 4 megapixels for a network that looks at 16 x 16 pixels, decoded by one thread."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    folder = tmp_path / "data"
    folder.mkdir()
    Image.fromarray(noise).resize((2000, 2000)).save(folder / "0.png", compress_level=1)
    for number in range(1, 8):
        shutil.copy(folder / "0.png", folder / f"{number}.png")
    config = config_of(6, optim={"batch_size": 4}, objective={"lambd": 0.0051})
    lines = train(folder, tmp_path / "run", config)
    facts = replace(Facts.of(config), starved_after_s=STARVED_AFTER_S)
    (alarm,) = examine(lines, facts)
    assert alarm.illness.name == "data_starved"
    share = float(alarm.symptom.split()[1])
    assert 20 < share <= 100
    assert "barlow bench loader" in str(alarm)
    shares = [line["wait_share"] for line in lines[1:]]
    assert 100 * min(shares) - 1 <= share <= 100 * max(shares) + 1


def test_a_batch_far_below_the_dimensions_is_a_note(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(2, model={"projector": (32, 1024)}, objective={"lambd": 0.0051})
    lines = train(pictures, tmp_path / "run", config)
    assert names(lines) == {"batch_too_small"}
    x = 0.0051 * (1024 / 31 - 1)
    (alarm,) = examine(lines, Facts.of(config))
    assert f"below {1024 * x / (1 + x):.0f} nor C_ii rise above {1 / (1 + x):.2f}" in alarm.symptom
    assert "note: batch small for the embedding" in capsys.readouterr().out


LINE = {
    "step": 1, "time_s": 0.0, "loss": 20.0, "on_diagonal": 0.5, "off_diagonal_rms": 0.2, "wait_share": 0.0,
    "dead_dimensions": 0, "spread": 0.8, "rank_me": 20.0, "grad_norm": 1.0, "update_ratio": 0.01,
}  # fmt: skip
FACTS = Facts(num_samples=64, num_dims=32, lambd=0.01, momentum=0.9, starved_after_s=10.0)


def sequence(**series: list[Any]) -> Lines:
    count = max(len(values) for values in series.values())
    return [
        {**LINE, "step": 1 + i, "time_s": 1.0 * i, **{name: values[i] for name, values in series.items()}}
        for i in range(count)
    ]


THRESHOLDS: list[tuple[str, Lines, Lines]] = [
    ("views_identical", sequence(on_diagonal=[0.99995]), sequence(on_diagonal=[0.9998])),
    (  # four dead dimensions do not hide it
        "views_identical",
        sequence(on_diagonal=[0.875], dead_dimensions=[4]),
        sequence(on_diagonal=[0.875], dead_dimensions=[3]),
    ),
    ("constant_output", sequence(spread=[0.009]), sequence(spread=[0.011])),
    ("collapsing", sequence(rank_me=[20.0] + [5.9] * 3), sequence(rank_me=[20.0] + [6.1] * 3)),
    ("collapsing", sequence(rank_me=[20.0, 5, 5]), sequence(rank_me=[20.0, 5])),
    ("collapsing", sequence(rank_me=[1.5] * 3), sequence(rank_me=[1.6] * 3)),  # 5 % of 32
    (  # from the peak of the learning rate on
        "collapsing",
        sequence(rank_me=[90.0, 20, 20] + [5.9] * 3, lr_weights=[0.1, 0.2] + [0.1] * 4),
        sequence(rank_me=[90.0, 20, 20] + [6.1] * 3, lr_weights=[0.1, 0.2] + [0.1] * 4),
    ),
    ("dead_dimensions", sequence(dead_dimensions=[1, 1]), sequence(dead_dimensions=[0, 1])),
    ("no_gradient", sequence(grad_norm=[0.0]), sequence(grad_norm=[1e-8])),
    ("learning_rate_too_high", sequence(update_ratio=[0.51]), sequence(update_ratio=[0.49])),
    # Chance gives 32 * (1 + 1.31 / 63) = 32.7 here.
    (
        "learning_rate_too_high",
        sequence(loss=[19.0] * 8 + [39.5] * 5),
        sequence(loss=[19.0] * 8 + [39.0] * 5),
    ),
    (
        "learning_rate_too_high",
        sequence(loss=[19.0] * 8 + [60.0] * 3),
        sequence(loss=[19.0] * 8 + [60.0] * 2),
    ),
    ("data_starved", sequence(wait_share=[0.0] + [0.21] * 10), sequence(wait_share=[0.0] + [0.19] * 10)),
    ("data_starved", sequence(wait_share=[1.0] * 11), sequence(wait_share=[1.0] * 10)),
    ("half_precision_fails", sequence(loss_scale=[0.5]), sequence(loss_scale=[2.0])),
]


@pytest.mark.parametrize(("name", "ill", "healthy"), THRESHOLDS)
def test_where_an_alarm_begins(name: str, ill: Lines, healthy: Lines) -> None:
    assert name in {alarm.illness.name for alarm in examine(ill, FACTS)}
    assert name not in {alarm.illness.name for alarm in examine(healthy, FACTS)}


def test_alarms_bear_lines_that_lack_numbers() -> None:
    bare = [{"step": i, "time_s": float(i), "wait_share": 0.0, "loss": None} for i in range(1, 20)]
    assert examine(bare, FACTS) == []
    assert examine([], FACTS) == []


def test_every_illness_has_a_cause_and_an_advice() -> None:
    assert len({illness.name for illness in TABLE}) == len(TABLE) == 9
    for illness in TABLE:
        assert illness.cause.endswith(".")
        assert illness.advice.endswith(".")


def test_the_document_names_every_illness() -> None:
    text = (Path(__file__).parents[1] / "docs" / "health.md").read_text()
    for illness in TABLE:
        assert f"`{illness.name}`" in text, illness.name
