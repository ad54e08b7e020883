"""Command lines of the official script in our config: defaults, the first release, mistakes."""

from __future__ import annotations

import pytest

from barlow.config import Config
from barlow.official import translate
from barlow.optim import true_gradient_rates


def test_no_flag_is_the_paper_but_for_the_weight_decay_of_the_script() -> None:
    made = translate()
    config, paper = made.config, Config()
    assert config.model == paper.model
    assert (config.optim.epochs, config.optim.batch_size) == (1000, 2048)
    assert (config.optim.lr_weights, config.optim.lr_biases, config.optim.weight_decay) == (0.2, 0.0048, 1e-6)
    assert (config.objective.lambd, config.objective.eps) == (0.0051, 1e-5)
    assert config.optim.reference_world_size == 32
    rates = true_gradient_rates(config.optim)
    assert rates == pytest.approx((1.6, 0.0384 / 32, 32e-6))
    assert not made.given


@pytest.mark.parametrize(
    "command",
    [
        "--epochs 300 --projector 1024-512 --lambd 0.01 --learning-rate-w 0.3",
        "/data --epochs=300 --projector=1024-512 --lambd 1e-2 --learning-rate-weights=.3",
        "python -u main.py /data --epochs 300 --projector 1024-512 --lambd 0.01 --learning-rate-weights 0.3",
        "main.py '/my data' --epochs 300 --projector 1024-512 --lambd 0.01 --learning-rate-weights 0.3",
    ],
)
def test_every_way_to_write_the_command(command: str) -> None:
    made = translate(command, processes=8)
    assert made.config.optim.epochs == 300
    assert made.config.model.projector == (1024, 512)
    assert made.config.objective.lambd == 0.01
    assert made.config.optim.lr_weights == 0.3
    assert made.config.optim.reference_world_size == 8
    assert made.given == {"epochs", "projector", "lambd", "learning-rate-weights"}
    shown = dict(made.rows)
    assert shown["--epochs 300"] == "optim.epochs 300"
    assert shown["--batch-size 2048 (default)"] == "optim.batch_size 2048"


def test_the_first_release_had_other_defaults_and_its_scale_becomes_rates() -> None:
    best = translate("--epochs 1000 --batch-size 2048 --learning-rate 0.2 --lambd 0.0051 --scale-loss 0.024")
    assert best.loss_scale == 0.024
    assert best.config.optim.lr_biases == pytest.approx(0.0048)
    assert best.config.optim.weight_decay == pytest.approx(1e-6 / 0.024)
    defaults = translate("--learning-rate 0.2").config
    assert (defaults.optim.epochs, defaults.optim.batch_size) == (300, 4096)
    assert defaults.objective.lambd == 3.9e-3
    assert defaults.optim.lr_biases == pytest.approx(0.2 / 32)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("--epoch-count 3", "epoch-count"),
        ("--epochs many", "epochs"),
        ("--epochs 0", "optim.epochs"),
        ("--learning-rate-weights nan", "lr_weights|lr-weights"),
        ("--projector 8192x3", "8192x3"),
        ("--projector ''", "projector"),
        ("--learning-rate 0.2 --learning-rate-biases 0.1", "learning-rate-biases"),
        ("--learning-rate 0.2 --scale-loss 0", "scale-loss"),
        ("--epochs '3", "can't be read"),
        ("data more", "more"),
    ],
)
def test_mistakes_are_named(command: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        translate(command)


def test_a_run_has_at_least_one_process() -> None:
    with pytest.raises(ValueError, match="process"):
        translate(processes=0)
