"""The rows of the paper's ablations and the other methods: what they change, their table, that all train."""

from __future__ import annotations

import dataclasses
import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import tyro

from barlow import ablations
from barlow.ablations import ABLATIONS, METHODS
from barlow.config import PRESETS, Config, Objective, ObjectiveConfig, from_json, imagenet, to_json
from barlow.data import views
from barlow.distributed import World
from barlow.optim import true_gradient_rates
from barlow.train.learner import Learner, Plan
from barlow.validation import PART_IN, validate
from commands import TINY, barlow_here, make_images, metrics
from tiny_run import tiny_config

ROWS = {**ABLATIONS, **METHODS}
DOCS = Path(__file__).parents[1] / "docs" / "ablations.md"


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_what_its_flags_say_and_can_work(name: str) -> None:
    changed = ROWS[name].applied(imagenet())
    validate(changed, num_samples=1_281_167, world_size=32)
    assert from_json(to_json(changed)) == changed
    flags = shlex.split(ablations.flags(ROWS[name], imagenet()))
    assert tyro.cli(Config, args=flags, default=imagenet()) == changed
    assert (changed == imagenet()) == (name in ("baseline", "batch-2048", "width-8192", "depth-3"))


def test_the_tables_of_the_documentation_are_those_of_the_code() -> None:
    text = DOCS.read_text()
    for part in (ABLATIONS, METHODS):
        assert ablations.table(part) in text


def test_rows_have_the_papers_settings() -> None:
    """Written from the paper: tables 5 to 7, figures 2 to 5, and the authors' answers 7 and 48."""

    def row(name: str) -> Config:
        return ROWS[name].applied(imagenet())

    assert row("only-invariance").objective == ObjectiveConfig(lambd=0)
    for size, rate in ((128, 0.7), (256, 0.4), (512, 0.3), (1024, 0.25), (2048, 0.2), (4096, 0.2)):
        optim = row(f"batch-{size}").optim
        assert (optim.batch_size, optim.lr_weights) == (size, rate)
        assert optim.lr_biases == pytest.approx(0.024 * rate)
        assert true_gradient_rates(optim).lr_weights == pytest.approx(rate * size / 256)
    assert row("width-16384").model.projector == (16384, 16384, 16384)
    assert row("depth-1").model.projector == (8192,)
    assert row("lambda-0.0075").objective.lambd == 0.0075
    assert row("hsic").objective.lambd == 1 / 8192
    assert METHODS["hsic"].applied(PRESETS["cifar10"]()).objective.lambd == 1 / 2048
    both = row("stop-gradient-predictor").objective
    assert (both.stop_gradient, both.predictor) == (True, (8192,))
    heads = row("byol-deeper-heads")
    assert (heads.model.projector, heads.objective.predictor) == ((4096, 4096, 256), (4096, 4096))
    byol = row("byol").optim  # a plain rate for biases, in units of the true gradient
    assert true_gradient_rates(byol) == pytest.approx((1.6, 1.6, 1.5e-6))
    assert {METHODS[name].applied(imagenet()).objective.name for name in METHODS} | {
        ABLATIONS[name].applied(imagenet()).objective.name for name in ABLATIONS
    } == set(get_args(Objective))


def test_removed_operations_are_gone_from_both_views_and_the_others_stay() -> None:
    kinds = {
        "no-grayscale": ["Flip", "ColorJitter", "GaussianBlur", "Solarize"],
        "no-color-jitter": ["Flip", "GaussianBlur", "Solarize"],
        "crop-and-blur": ["GaussianBlur"],
        "crop-only": [],
    }
    usual = views.training(imagenet().data)
    for name, expected in kinds.items():
        found = views.training(ABLATIONS[name].applied(imagenet()).data)
        assert [view.crop for view in found] == [view.crop for view in usual]
        for view, before in zip(found, usual, strict=True):
            assert [type(step).__name__ for step in view.operations] == expected
            assert all(step in before.operations for step in view.operations)
    written = replace(imagenet().data, augmentation=views.describe(views.moco_v2()), without=("blur", "flip"))
    assert [len(view.operations) for view in views.training(written)] == [2, 2]


def test_what_has_no_part_in_an_objective_is_refused() -> None:
    fields = {field.name for field in dataclasses.fields(ObjectiveConfig)} - {"name"}
    assert set(PART_IN) == fields
    other: dict[str, Any] = {
        field: True if field == "stop_gradient" else (64,) if field == "predictor" else 1 for field in fields
    }
    other |= {
        "form": "gram",
        "temperature": 0.7,
        "target_momentum": 0.9,
        "mixed": 2.0,
        "covariance": 2.0,
        "sub_batch": 16,
    }
    for name in get_args(Objective):
        model = replace(imagenet().model, projector=(8, 8))
        usual = ObjectiveConfig(name=name)
        validate(replace(imagenet(), model=model, objective=usual), num_samples=10_000, world_size=1)
        for field in fields:
            changed = replace(usual, **{field: other[field]})
            config = replace(imagenet(), model=model, objective=changed)
            if name in PART_IN[field]:
                validate(config, num_samples=10_000, world_size=1)
            else:
                with pytest.raises(
                    ValueError, match=rf"^--objective\.[a-z-]+ has no part in {name}, only in"
                ):
                    validate(config, num_samples=10_000, world_size=1)


@pytest.mark.parametrize(
    ("objective", "projector", "message"),
    [
        ({"name": "fft", "block": 9}, (8, 8), "--objective.block 9 is larger than the embedding .8."),
        ({"name": "w_mse"}, (8, 3), "--objective.sub-batch 6 .* divide --optim.batch-size 2048"),
        ({"name": "w_mse", "sub_batch": 8}, (8, 8), "--objective.sub-batch 8 .* must be more than them"),
        ({"name": "cross_entropy"}, (8, 1), "at least 2 dimensions"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(
    objective: dict[str, Any], projector: tuple[int, ...], message: str
) -> None:
    config = replace(
        imagenet(),
        objective=ObjectiveConfig(**objective),
        model=replace(imagenet().model, projector=projector),
    )
    with pytest.raises(ValueError, match=message):
        validate(config, num_samples=10_000, world_size=1)


def shrunk(config: Config) -> Config:
    """The row in small: heads at most 24 wide, batches of 48 (which w-mse cuts in two)."""
    tiny = tiny_config()
    return replace(
        config,
        data=replace(tiny.data, without=config.data.without),
        model=replace(
            tiny.model,
            projector=tuple(min(size, 12 * (i == 0) + 12) for i, size in enumerate(config.model.projector)),
            projector_norm=config.model.projector_norm,
        ),
        objective=replace(config.objective, predictor=tuple(min(s, 16) for s in config.objective.predictor)),
        optim=replace(config.optim, batch_size=48, warmup_epochs=0, epochs=2),
        train=tiny.train,
    )


@pytest.mark.parametrize("name", [name for name in ROWS if not name.startswith(("batch-", "lambda-"))])
def test_every_row_trains(name: str) -> None:
    """Two steps on the same pictures: finite, and every weight that can move has moved."""
    config = shrunk(ROWS[name].applied(imagenet()))
    learner = Learner(config, Plan.of(config, steps_per_epoch=5), World(0, 1, 0, torch.device("cpu")))
    before = {name: p.detach().clone() for name, p in learner.network.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    pictures = [torch.randint(256, (48, 3, 16, 16), generator=generator, dtype=torch.uint8) for _ in range(2)]
    for step in (1, 2):
        loss, embeddings = learner.step(step, pictures, check=True)
        assert math.isfinite(loss.item())
        assert [len(z) for z in embeddings] == [48, 48]
    for part, p in learner.network.named_parameters():
        assert p.isfinite().all(), part
        if p.ndim > 1:  # LARS gives them steps of their own size, however small the gradient is
            assert not torch.equal(p, before[part]), part
        elif not p.requires_grad and not part.startswith("objective.target."):
            assert torch.equal(p, before[part]), part


def test_a_run_with_names_goes_on_without_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    images, run = make_images(tmp_path / "images"), tmp_path / "run"
    flags = (*TINY, "--method", "simsiam", "--ablation=no-grayscale", "--model.projector", 16, 16)
    first = barlow_here(capfd, "train", images, "--run", run, *flags, "--train.steps", 1)
    assert first.code == 0, first.err
    config = from_json((run / "config.json").read_text())
    assert config.objective.name == "simsiam"
    assert config.model.projector_norm == "all"
    assert config.data.without == ("grey",)
    assert config.optim.lr_biases == config.optim.lr_weights == 0.3
    assert '"preset": "demo + simsiam + no-grayscale"' in (run / "run.json").read_text()
    second = barlow_here(capfd, "train", images, "--run", run, "--train.steps", 2)
    assert second.code == 0, second.err
    assert [line["step"] for line in metrics(run)] == [1, 2]
    other = barlow_here(capfd, "train", images, "--run", run, "--ablation", "crop-only", "--train.steps", 3)
    assert other.code == 2
    assert "data.without is ['grey'] there" in other.err.replace("(", "[").replace(",)", "]").replace(
        ")", "]"
    )


def test_the_last_of_several_names_counts(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As of every flag: an alias of the user's may hold the first ones."""
    images, run = make_images(tmp_path / "images"), tmp_path / "run"
    first = ("--preset", "imagenet", "--method=byol", "--ablation", "crop-only", "--run", tmp_path / "other")
    last = ("--method", "vicreg", "--ablation=no-grayscale", "--run", run)
    result = barlow_here(capfd, "train", images, *first, *TINY, *last, "--train.steps", 1)
    assert result.code == 0, result.err
    config = from_json((run / "config.json").read_text())
    assert config.data.image_size == 48
    assert config.objective.name == "vicreg"
    assert config.data.without == ("grey",)
    assert '"preset": "demo + vicreg + no-grayscale"' in (run / "run.json").read_text()


@pytest.mark.parametrize("kind", ["method", "ablation"])
def test_an_unknown_name_is_answered_with_all(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    result = barlow_here(capfd, "train", "nowhere", "--run", "nowhere", "--preset", "demo", f"--{kind}", "x")
    assert result.code == 2
    assert result.err.startswith(f"barlow: error: there is no {kind} 'x', only ")
    assert ", ".join(METHODS if kind == "method" else ABLATIONS) in result.err
