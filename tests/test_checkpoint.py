"""A checkpoint restores every bit, refuses what does not fit, and survives damage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from barlow import durable
from barlow.config import ModelConfig
from barlow.model import Twins, build_model
from barlow.objectives import barlow_twins
from barlow.optim import LARS, parameter_groups
from barlow.train import checkpoint

MODEL = ModelConfig(backbone="resnet10", stem="cifar", width=8, projector=(16, 16))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors: threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(seed: int, num_steps: int) -> tuple[Twins, LARS]:
    model = build_model(MODEL, seed)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = LARS(parameter_groups(model), lr=0.1)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(num_steps):
        step(model, optimizer, draw)
    return model, optimizer


def step(model: Twins, optimizer: LARS, draw: torch.Generator) -> None:
    views = [torch.randn(8, 3, 8, 8, generator=draw) for _ in range(2)]
    optimizer.zero_grad()
    barlow_twins(*model(views)).backward()
    optimizer.step()


def test_restored_tensors_are_bit_equal_and_so_is_the_next_step(tmp_path: Path) -> None:
    model, optimizer = trained(seed=0, num_steps=3)
    path = checkpoint.save_checkpoint(tmp_path, 3, model, optimizer, {"time_s": 0.1 + 0.2}, keep=1)
    assert path == tmp_path / "step-00000003"
    assert checkpoint.read_state(path) == {"format": 1, "step": 3, "time_s": 0.1 + 0.2}

    other, other_optimizer = trained(seed=1, num_steps=1)
    checkpoint.load_checkpoint(path, other, other_optimizer)
    for draw_seed in range(2):  # the second step depends on the first one's momentum
        for parts in zip(model.state_dict().items(), other.state_dict().items(), strict=True):
            (name, tensor), (other_name, other_tensor) = parts
            assert name == other_name
            assert torch.equal(tensor, other_tensor), (draw_seed, name)
            assert tensor.stride() == other_tensor.stride(), name
        for left, right in zip(model.parameters(), other.parameters(), strict=True):
            assert torch.equal(optimizer.state[left]["mu"], other_optimizer.state[right]["mu"])
            assert optimizer.state[left]["mu"].stride() == other_optimizer.state[right]["mu"].stride()
        step(model, optimizer, torch.Generator().manual_seed(draw_seed))
        step(other, other_optimizer, torch.Generator().manual_seed(draw_seed))


def test_names_say_what_is_inside(tmp_path: Path) -> None:
    model, optimizer = trained(seed=0, num_steps=1)
    path = checkpoint.save_checkpoint(tmp_path, 1, model, optimizer, {}, keep=1)
    assert sorted(p.name for p in path.iterdir()) == [
        "MANIFEST.json", "model.safetensors", "optim.safetensors", "state.json",
    ]  # fmt: skip
    weights = load_file(path / "model.safetensors")
    assert {name.split(".")[0] for name in weights} == {"backbone", "projector"}
    assert set(load_file(path / "optim.safetensors")) == {
        f"mu.{name}" for name, _ in model.named_parameters()
    }


@pytest.mark.parametrize(
    ("file", "rename", "message"),
    [
        ("model.safetensors", {"backbone.conv1.weight": None}, "lacks backbone.conv1.weight"),
        (
            "model.safetensors",
            {"backbone.conv1.weight": "backbone.conv0.weight"},
            "lacks backbone.conv1.weight",
        ),
        ("model.safetensors", {"": "extra.weight"}, "unknown extra.weight"),
        ("optim.safetensors", {"mu.backbone.conv1.weight": None}, "lacks backbone.conv1.weight"),
        ("optim.safetensors", {"": "mu.other"}, "unknown other"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(
    tmp_path: Path, file: str, rename: dict[str, str | None], message: str
) -> None:
    model, optimizer = trained(seed=0, num_steps=1)
    path = checkpoint.save_checkpoint(tmp_path, 1, model, optimizer, {}, keep=1)
    content = load_file(path / file)
    for old, new in rename.items():
        tensor = content.pop(old, torch.zeros(1))
        if new:
            content[new] = tensor
    save_file(content, path / file)
    with pytest.raises(ValueError, match=message):
        checkpoint.load_checkpoint(path, model, optimizer)


def test_a_wider_model_does_not_fit(tmp_path: Path) -> None:
    model, optimizer = trained(seed=0, num_steps=1)
    path = checkpoint.save_checkpoint(tmp_path, 1, model, optimizer, {}, keep=1)
    wider = build_model(ModelConfig(backbone="resnet10", stem="cifar", width=16, projector=(16, 16)), 0)
    with pytest.raises(ValueError, match=r"conv1\.weight is \[8, 3, 3, 3\], not \[16, 3, 3, 3\]"):
        checkpoint.load_checkpoint(path, wider, LARS(parameter_groups(wider), lr=0.1))


def test_keeps_the_newest_and_finds_them_through_damage(tmp_path: Path) -> None:
    model, optimizer = trained(seed=0, num_steps=1)
    assert checkpoint.find_checkpoint(tmp_path) is None
    assert checkpoint.newest_step(tmp_path) is None
    for number in (1, 2, 3):
        checkpoint.save_checkpoint(tmp_path, number, model, optimizer, {}, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    assert checkpoint.newest_step(tmp_path) == 3

    weights = tmp_path / "step-00000003" / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[len(raw) // 2] ^= 1
    weights.write_bytes(raw)
    with pytest.warns(UserWarning, match="step-00000003: model.safetensors has changed"):
        assert checkpoint.find_checkpoint(tmp_path) == tmp_path / "step-00000002"
    (tmp_path / "step-00000002" / durable.MANIFEST).write_text("{")
    everything = pytest.raises(ValueError, match=r"every checkpoint in .* is damaged")
    with pytest.warns(UserWarning, match="skipping a damaged folder"), everything:
        checkpoint.find_checkpoint(tmp_path)


def test_an_emptied_manifest_is_damage(tmp_path: Path) -> None:
    model, optimizer = trained(seed=0, num_steps=1)
    path = checkpoint.save_checkpoint(tmp_path, 1, model, optimizer, {}, keep=1)
    assert checkpoint.find_checkpoint(tmp_path) == path
    (path / durable.MANIFEST).write_text('{"format": 1, "files": {}}')
    refused = pytest.raises(ValueError, match="is damaged")
    with pytest.warns(UserWarning, match="does not name any file"), refused:
        checkpoint.find_checkpoint(tmp_path)


def test_the_scaler_survives_json(tmp_path: Path) -> None:
    model, optimizer = trained(seed=0, num_steps=1)
    scaler = torch.amp.GradScaler("cpu", init_scale=3.0)
    loss = model([torch.ones(2, 3, 8, 8)] * 2)[0].sum()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update(1.0 / 3.0)
    path = checkpoint.save_checkpoint(tmp_path, 1, model, optimizer, {"scaler": scaler.state_dict()}, keep=1)
    restored = torch.amp.GradScaler("cpu")
    restored.load_state_dict(json.loads((path / "state.json").read_text())["scaler"])
    assert restored.state_dict() == scaler.state_dict()
    assert restored.get_scale() == scaler.get_scale()
