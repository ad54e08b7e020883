"""Backbones against torchvision's, the twins against one pass per view, seeds, autocast, weights files."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from barlow import config as configuration
from barlow import durable
from barlow.config import Config, ModelConfig
from barlow.model import build_backbone, build_model, load_backbone, weights
from barlow.objectives import barlow_twins

SMALL = ModelConfig(backbone="resnet10", stem="cifar", width=8, projector=(12, 10))
Backbone = Literal["resnet18", "resnet34", "resnet50"]
Stem = Literal["imagenet", "cifar"]


def perturb(module: nn.Module, seed: int = 0) -> None:
    """Gives every scale, shift and running statistic a value of its own."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.dim() == 1:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + (0.5 if "var" in name else 0.1))


def torchvision_twin(name: str) -> nn.Module:
    model = torchvision.models.get_model(name, weights=None)
    model.fc = nn.Identity()
    return model


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_weights_load_strictly_into_torchvision_and_give_its_features_bit_for_bit(name: Backbone) -> None:
    ours, theirs = build_backbone(ModelConfig(backbone=name)), torchvision_twin(name)
    perturb(ours)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = ours.eval()(x)
        assert torch.equal(features, theirs.eval()(x))
    assert features.shape == (2, ours.num_features)


def test_a_training_step_is_torchvisions_with_one_pass_per_view() -> None:
    twins = build_model(ModelConfig(backbone="resnet18", projector=(6, 5)), 0).double()
    perturb(twins)
    ours, theirs = twins.backbone, torchvision_twin("resnet18").double()
    theirs.load_state_dict(ours.state_dict())
    views = [torch.randn(2, 3, 32, 32, dtype=torch.float64) for _ in range(2)]
    features, expected = twins.represent(views), [theirs(view) for view in views]
    for mine, reference in zip(features, expected, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-9)
    for both in (features, expected):
        (both[0] * both[1]).sum().backward()
    for (name, mine), reference in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, reference.grad, rtol=1e-7, atol=1e-7, msg=name)
    for (name, mine), reference in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, reference, msg=name)


def test_embeddings_are_the_projector_of_the_representations() -> None:
    twins = build_model(SMALL, 0).double()
    perturb(twins)
    again = copy.deepcopy(twins)
    views = [torch.randn(5, 3, 8, 8, dtype=torch.float64) for _ in range(3)]
    embeddings = twins(views)
    assert [z.shape for z in embeddings] == [(5, 10)] * 3
    for z, view in zip(embeddings, views, strict=True):
        torch.testing.assert_close(z, again.projector(again.backbone(view)))
    with pytest.raises(ValueError, match="one shape"):
        twins([views[0], views[1][:2]])


def test_stem_width_and_depth() -> None:
    x = torch.randn(1, 3, 32, 32)
    stems: list[tuple[Stem, int]] = [("cifar", 32), ("imagenet", 8)]
    for stem, side in stems:
        net = build_backbone(ModelConfig(backbone="resnet18", stem=stem, width=16)).eval()
        stages: list[Tensor] = []
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
            layer.register_forward_hook(lambda _m, _i, out, kept=stages: kept.append(out))
        assert net(x).shape == (1, 128)
        assert [tuple(s.shape[1:]) for s in stages] == [(16 * 2**i, side >> i, side >> i) for i in range(4)]
    ten = build_backbone(ModelConfig(backbone="resnet10"))
    assert sum(isinstance(m, nn.Conv2d) for m in ten.modules()) == 1 + 4 * 2 + 3
    assert build_backbone(ModelConfig(width=8)).num_features == 8 * 8 * 4


def test_initialisation_is_torchvisions_with_residuals_at_zero() -> None:
    net = build_model(ModelConfig(backbone="resnet50", projector=(64, 64)), 0).backbone
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert float(module.weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_out), rel=0.05), (
                name
            )
        elif isinstance(module, nn.BatchNorm2d) or name.rpartition(".")[2].startswith("bn"):
            expected = 0.0 if name.endswith("bn3") else 1.0
            assert bool((module.get_parameter("weight") == expected).all()), name


def test_the_projector_is_the_official_one() -> None:
    projector = build_model(replace(SMALL, projector=(12, 14, 10)), 0).projector
    shapes = {name: list(p.shape) for name, p in projector.named_parameters()}
    assert shapes == {
        "0.weight": [12, 64], "1.weight": [12], "1.bias": [12],
        "3.weight": [14, 12], "4.weight": [14], "4.bias": [14], "6.weight": [10, 14],
    }  # fmt: skip
    assert [type(m).__name__ for m in projector.children()] == ["Linear", "ViewBatchNorm1d", "ReLU"] * 2 + [
        "Linear"
    ]


def test_weights_are_a_function_of_the_seed_and_the_random_state_stays() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = build_model(SMALL, 5).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    two, other = build_model(SMALL, 5).state_dict(), build_model(SMALL, 6).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["backbone.conv1.weight"], other["backbone.conv1.weight"])
    assert not torch.equal(one["projector.0.weight"], other["projector.0.weight"])


def step(dtype: torch.dtype | None) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
    twins = build_model(replace(SMALL, width=16), 0)
    perturb(twins)
    twins = twins.to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(32, 3, 16, 16, generator=generator)
    views = [base + 0.3 * torch.randn(base.shape, generator=generator) for _ in range(2)]
    views = [view.contiguous(memory_format=torch.channels_last) for view in views]
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        embeddings = twins(views)
        loss = barlow_twins(*embeddings)
    loss.backward()
    return loss.detach(), embeddings, {n: p.grad for n, p in twins.named_parameters() if p.grad is not None}


def test_bf16_autocast_reaches_every_layer_and_stays_near_float32() -> None:
    loss, embeddings, grads = step(torch.bfloat16)
    exact_loss, _, exact = step(None)
    assert embeddings[0].dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact_loss, rtol=0.05, atol=0)
    for name, grad in grads.items():
        assert grad.dtype == torch.float32
        assert torch.cosine_similarity(grad.flatten(), exact[name].flatten(), dim=0) > 0.9, name


def a_run(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """A run folder with two checkpoints of different weights; the state of the newer."""
    (folder / "config.json").write_text(configuration.to_json(replace(Config(), model=SMALL)))
    state: dict[str, Tensor] = {}
    for number in (1, 2):
        twins = build_model(SMALL, number)
        perturb(twins, number)
        state = twins.state_dict()
        files = {"model.safetensors": weights.encode(state)}
        durable.write_folder(folder / "checkpoints" / f"step-{number:08d}", files)
    return folder, state


def backbone_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[9:]: tensor for name, tensor in state.items() if name.startswith("backbone.")}


def test_a_run_a_checkpoint_and_its_file_give_the_same_backbone(tmp_path: Path) -> None:
    run, state = a_run(tmp_path)
    checkpoint = run / "checkpoints" / "step-00000002"
    for path in (run, checkpoint, checkpoint / "model.safetensors"):
        backbone, model, config = load_backbone(path)
        assert model == SMALL
        assert config == replace(Config(), model=SMALL)
        assert not backbone.training
        for name, tensor in backbone_of(state).items():
            assert torch.equal(backbone.state_dict()[name], tensor)


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(tmp_path: Path) -> None:
    run, _ = a_run(tmp_path)
    file = run / "checkpoints" / "step-00000002" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.warns(UserWarning, match="step-00000002"):
        backbone, _, _ = load_backbone(run)
    first = build_model(SMALL, 1).backbone
    assert torch.equal(backbone.conv1.weight, first.conv1.weight)
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load_backbone(file.parent)


def test_an_exported_file_says_how_to_rebuild_its_network(tmp_path: Path) -> None:
    model = ModelConfig(backbone="resnet34", stem="cifar", width=4, projector=(7,))
    backbone = build_backbone(model).to(memory_format=torch.channels_last)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(weights.encode(backbone.state_dict(), model))
    loaded, found, config = load_backbone(path)
    assert (found, config) == (model, None)
    assert all(torch.equal(a, b) for a, b in zip(backbone.parameters(), loaded.parameters(), strict=True))


@pytest.mark.parametrize("name", ["resnet10", "resnet18", "resnet34", "resnet50"])
@pytest.mark.parametrize(("stem", "width"), [("cifar", 8), ("imagenet", 16)])
def test_a_file_without_metadata_is_known_by_its_shapes(
    tmp_path: Path, name: Backbone, stem: Stem, width: int
) -> None:
    path = tmp_path / "plain.safetensors"
    save_file(build_backbone(ModelConfig(backbone=name, stem=stem, width=width)).state_dict(), path)
    _, model, _ = load_backbone(path)
    assert (model.backbone, model.stem, model.width) == (name, stem, width)


def test_missing_unused_and_misshapen_tensors_are_refused_by_name(tmp_path: Path) -> None:
    state = build_backbone(SMALL).state_dict()
    state["fc2.weight"] = torch.zeros(10, 64)
    state["layer3.0.bn1.weight"] = torch.zeros(3)
    del state["layer2.0.conv1.weight"], state["bn1.running_mean"]
    path = tmp_path / "faulty.safetensors"
    save_file(state, path)
    with pytest.raises(ValueError, match="missing") as caught:
        load_backbone(path)
    for part in (
        str(path),
        "missing: bn1.running_mean, layer2.0.conv1.weight",
        "unused: fc2.weight",
        "of another shape: layer3.0.bn1.weight [3] for [32]",
    ):
        assert part in str(caught.value)


def test_a_checkpoint_with_more_than_a_backbone_and_a_projector_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(build_model(SMALL, 0).state_dict() | {"predictor.weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"unused: predictor\.weight"):
        load_backbone(path)


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    broken, foreign, described = (tmp_path / name for name in ("broken", "foreign", "described"))
    broken.write_bytes(b"\x10\0\0\0\0\0\0\0not json........")
    save_file({"x": torch.zeros(2)}, foreign)
    save_file({"x": torch.zeros(2)}, described, {"barlow": '{"backbone": "vit"}'})
    for path, error, message in [
        (broken, ValueError, "not a readable safetensors file"),
        (foreign, ValueError, "holds no ResNet"),
        (described, ValueError, "metadata"),
        (tmp_path / "absent", FileNotFoundError, "No such file"),
        (tmp_path, ValueError, "neither a run folder nor a checkpoint"),
    ]:
        with pytest.raises(error, match=message):
            load_backbone(path)
    (tmp_path / "config.json").write_text(configuration.to_json(Config()))
    with pytest.raises(ValueError, match="no valid checkpoint"):
        load_backbone(tmp_path)
