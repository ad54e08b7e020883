"""Backbones beyond the small ResNets: timm's, per view, trained, resumed, evaluated, exported; AdamW."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

import tiny_run
from barlow.config import RESNETS, Config, ModelConfig, OptimConfig
from barlow.evaluate import evaluate
from barlow.evaluate.features import digest
from barlow.export import export
from barlow.model import Twins, ViewBatchNorm, ViewBatchNorm1d, build_backbone, build_model, load_backbone
from barlow.model.foreign import infer
from barlow.model.timm_models import _per_view
from barlow.optim import AdamW, choose_optimizer, parameter_groups, step_norms
from barlow.train import launch
from barlow.train.settle import settled

timm = pytest.importorskip("timm")
VIT = "timm:test_vit"
SIZE = 32


def configuration(backbone: str, **optim: object) -> Config:
    base = tiny_run.tiny_config(epochs=2)
    return dataclasses.replace(
        base,
        model=ModelConfig(backbone=backbone, projector=(16, 8)),
        data=dataclasses.replace(base.data, image_size=SIZE, eval_resize=SIZE),
        optim=dataclasses.replace(base.optim, **optim),
        checkpoint=dataclasses.replace(base.checkpoint, every_steps=1, keep=9),
        evaluate=dataclasses.replace(base.evaluate, linear_epochs=1, linear_crops=1),
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.write_pictures(tmp_path_factory.mktemp("pictures") / "train", per_class=5)


def images(num: int = 4, side: int = SIZE) -> Tensor:
    return torch.randn(num, 3, side, side, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("backbone", RESNETS[1:])
def test_torchvisions_resnets_are_told_by_their_shapes(backbone: str) -> None:
    with torch.device("meta"):
        ours, theirs = build_backbone(ModelConfig(backbone=backbone)), getattr(torchvision.models, backbone)()
        theirs.fc = nn.Identity()
        blank = images(1).to("meta")
        assert ours.eval()(blank).shape == theirs.eval()(blank).shape
    shapes, expected = ({n: t.shape for n, t in net.state_dict().items()} for net in (ours, theirs))
    assert shapes == expected
    assert infer(ours.state_dict(), "here").backbone == backbone


@pytest.mark.parametrize("name", ["test_resnet", "test_coatnet"])
def test_timms_batch_norm_becomes_ours_and_keeps_the_views_apart(name: str) -> None:
    size = 64 if name == "test_coatnet" else 0
    config = ModelConfig(backbone=f"timm:{name}", image_size=size, projector=(8,))
    twins: Twins = build_model(config, 0)
    norms = [m for m in twins.backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(norm, ViewBatchNorm) for norm in norms)
    sized = {"img_size": size} if size else {}
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=0, **sized)
    begun, own = theirs.state_dict(), twins.backbone.state_dict()
    assert begun.keys() == own.keys()
    assert all(torch.equal(begun[key], own[key]) for key in begun)  # as timm initialises it
    views = [images(4, 64), images(4, 64) * 2 + 1]
    # timm's own network, once per view, is what our single pass must give: in training and in evaluation.
    expected = [theirs.train()(view) for view in views]
    found = twins.represent(views)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert found[0].shape == (4, twins.backbone.num_features)
    for key, tensor in theirs.state_dict().items():
        torch.testing.assert_close(twins.backbone.state_dict()[key], tensor, rtol=1e-4, atol=1e-4, msg=key)
    with torch.no_grad():
        torch.testing.assert_close(twins.eval().represent(views)[1], theirs.eval()(views[1]))


def test_norms_of_any_kind_are_kept_per_view_or_refused() -> None:
    made = _per_view(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, eps=0.5)), "a model")
    (norm,) = (module for module in made.modules() if isinstance(module, ViewBatchNorm1d))
    assert norm.eps == 0.5
    for norm in (
        nn.BatchNorm2d(3, affine=False), nn.BatchNorm3d(3), nn.BatchNorm2d(3, momentum=None),
        nn.InstanceNorm2d(3, track_running_stats=True), timm.layers.EvoNorm2dB0(3),
    ):  # fmt: skip
        with pytest.raises(
            ValueError, match=r"a model (has a batch norm that can't|can't be trained on two)"
        ):
            _per_view(nn.Sequential(norm), "a model")


def test_nothing_in_a_backbone_draws() -> None:
    backbone = build_backbone(ModelConfig(backbone="timm:test_vit_relpos", image_size=SIZE)).train()
    assert timm.create_model("test_vit_relpos", depth=1).blocks[0].attn.rel_pos.mlp.drop1.p > 0
    torch.testing.assert_close(backbone(images()), backbone(images()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "timm:no_such_model"}, "has no model 'no_such_model'"),
        ({"backbone": "timm:../x"}, "names no model of timm"),
        ({"backbone": "resnet19"}, "'resnet19' must be one of resnet10"),
        ({"backbone": VIT, "stem": "cifar"}, "--model.stem cifar is for the ResNets"),
        ({"backbone": VIT, "image_size": 48}, "--model.image-size 48 is not --data.image-size 32"),
        ({"backbone": "timm:test_resnet", "image_size": 48}, "takes images of any size"),
        ({"backbone": "resnet18", "image_size": 48}, "takes images of any size"),
        ({"backbone": "timm:resnet50_gn.x"}, "has no model"),
        ({"backbone": "timm:test_efficientnet_evos", "width": 32}, "--model.width 32 is for the ResNets"),
    ],
)
def test_what_cannot_be_is_refused_by_its_flag(change: dict, message: str) -> None:
    config = configuration(VIT)
    with pytest.raises(ValueError, match=message):
        settled(dataclasses.replace(config, model=dataclasses.replace(config.model, **change)))


def test_which_optimizer_a_backbone_gets_and_why() -> None:
    def of(backbone: str) -> tuple[str, str]:
        optim = OptimConfig()
        with torch.device("meta"):
            size = SIZE if backbone == VIT else 0
            return choose_optimizer(optim, build_backbone(ModelConfig(backbone=backbone, image_size=size)))

    assert of("resnet10")[0] == of("timm:test_resnet")[0] == of("timm:test_efficientnet")[0] == "lars"
    assert of(VIT) == ("adamw", "the backbone has layer norms, on which LARS is known to collapse")
    assert of("timm:test_convnext")[0] == of("timm:test_nfnet")[0] == "adamw"
    assert settled(configuration(VIT)).optim.optimizer == "adamw"
    assert settled(configuration("resnet10")) == configuration("resnet10")
    with pytest.warns(UserWarning, match="--optim.optimizer lars: the backbone has layer norms"):
        assert settled(configuration(VIT, optimizer="lars")).optim.optimizer == "lars"


def test_adamw_is_its_formula_and_its_norms_are_those_of_its_step() -> None:
    """Against a loop over numbers, written from the paper; what is no matrix does not decay."""
    torch.manual_seed(0)
    model = nn.Linear(5, 3).double()
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}
    means = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in expected.items()}
    before = expected
    optimizer = AdamW(parameter_groups(model), lr=0.0, betas=(0.8, 0.95), weight_decay=0.3)
    for t in range(1, 5):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * t
        optimizer.zero_grad()
        model(torch.randn(7, 5, dtype=torch.float64)).square().sum().backward()
        before = {name: p.clone() for name, p in expected.items()}
        for name, p in model.named_parameters():
            assert p.grad is not None
            m, v = means[name] = (
                0.8 * means[name][0] + 0.2 * p.grad,
                0.95 * means[name][1] + 0.05 * p.grad**2,
            )
            decayed = expected[name] * (1 - 0.01 * t * (0.3 if name == "weight" else 0.0))
            expected[name] = decayed - 0.01 * t * (m / (1 - 0.8**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-8)
        optimizer.step()
        for name, p in model.named_parameters():
            torch.testing.assert_close(p.detach(), expected[name], rtol=1e-10, atol=1e-12)
    found = step_norms(optimizer)
    moved = (before["weight"] - expected["weight"]).norm() / before["weight"].norm()
    assert found.update_ratio == pytest.approx(moved.item(), rel=1e-6)
    assert found.grad_norm == pytest.approx(
        torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm().item()
    )
    optimizer.found_inf = torch.ones(())
    optimizer.step()  # of a step that must be left out nothing is seen
    assert torch.equal(model.weight, expected["weight"]) or torch.allclose(model.weight, expected["weight"])
    assert optimizer.state[model.weight]["step"] == 4


@pytest.mark.parametrize("backbone", [VIT, "timm:test_resnet"])
def test_a_run_of_timms_model_from_training_to_export(
    backbone: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configuration(backbone)
    launch(pictures, config, tmp_path / "whole", nproc=1)
    said = capsys.readouterr().out
    assert ("optimizer: adamw, since the backbone has layer norms" in said) == (backbone == VIT)
    stopped = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=1))
    launch(pictures, stopped, tmp_path / "run", nproc=1)
    launch(pictures, config, tmp_path / "run", nproc=1)
    run = tmp_path / "run"
    for file in ("model.safetensors", "optim.safetensors"):
        last = Path("checkpoints/step-00000002") / file
        assert (run / last).read_bytes() == (tmp_path / "whole" / last).read_bytes(), file
    trained, model, _ = load_backbone(run)
    assert model.image_size == (SIZE if backbone == VIT else 0)
    assert digest(trained) != digest(build_model(model, config.train.seed).backbone.eval())
    result = evaluate(run, pictures, baselines=False, quiet=True)
    assert result["model"]["backbone"] == backbone
    assert result["weights_sha256"] == digest(trained)
    written = export(run, tmp_path / "out", "timm", licence="CC0")
    assert written.weights.name == f"{backbone.removeprefix('timm:')}.safetensors"
    assert written.largest_difference <= 1e-5
    card = written.card.read_text()
    assert "## Licence\n\nCC0\n" in card
    assert ("AdamW" in card) == (backbone == VIT)
    # The file alone is enough: it says what it is, and from which images.
    alone, found, described = load_backbone(written.weights)
    assert digest(alone) == digest(trained)
    assert found == model
    assert described is not None
    assert described.data.image_size == SIZE
    with pytest.raises(ValueError, match="torchvision has no timm:"):
        export(run, tmp_path / "out", "torchvision")


def test_another_optimizer_is_another_run(pictures: Path, tmp_path: Path) -> None:
    config = configuration("resnet10")
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=1))
    launch(pictures, config, tmp_path / "run", nproc=1)
    other = dataclasses.replace(config, optim=dataclasses.replace(config.optim, optimizer="adamw"))
    with pytest.raises(ValueError, match=r"optim\.optimizer is auto there and adamw here"):
        launch(pictures, other, tmp_path / "run", nproc=1)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["optim"]["optimizer"] == "auto"
