"""The examples in docs/examples/: their losses against the papers, and each run as a reader runs it."""

from __future__ import annotations

import importlib.util
import math
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from barlow.config import CIFAR10_MEAN, CIFAR10_STD, IMAGENET_MEAN, IMAGENET_STD
from barlow.data import Loader, to_float, views
from commands import ROOT, finish, start
from tiny_run import write_pictures

EXAMPLES = ROOT / "docs" / "examples"
Array = NDArray[np.float64]


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert isinstance(module, ModuleType)
    return module


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"), per_class=24, size=40)


def losses(name: str, *arguments: object) -> list[float]:
    """What an example prints of its steps; it must end well."""
    result = finish(start(*arguments, launcher=(str(EXAMPLES / f"{name}.py"),)))
    assert result.code == 0, result.err
    assert not result.err
    found = re.findall(r"^step (\d+) of (\d+)  loss (\S+)$", result.out, re.MULTILINE)
    assert [int(step) for step, _, _ in found] == list(range(1, len(found) + 1))
    assert {int(of) for _, of, _ in found} == {len(found)}
    return [float(loss) for _, _, loss in found]


def written_out_nt_xent(z1: Array, z2: Array, temperature: float) -> float:
    """Equation 1 of the SimCLR paper, pair by pair."""
    z = [row / math.sqrt((row**2).sum()) for row in (*z1, *z2)]
    total = 0.0
    for i in range(len(z)):
        j = (i + len(z1)) % len(z)
        others = sum(math.exp(z[i] @ z[k] / temperature) for k in range(len(z)) if k != i)
        total -= math.log(math.exp(z[i] @ z[j] / temperature) / others)
    return total / len(z)


def written_out_dino(student: Array, teacher: Array, centre: Array) -> float:
    """Algorithm 1 of the DINO paper with multi-crop, pair by pair."""

    def softmax(scores: Array, temperature: float) -> Array:
        powers = np.exp((scores - scores.max()) / temperature)
        return powers / powers.sum()

    terms = [
        -(softmax(teacher[g, n] - centre, 0.04) * np.log(softmax(student[v, n], 0.1))).sum()
        for g in range(len(teacher))
        for v in range(len(student))
        for n in range(student.shape[1])
        if v != g
    ]
    return sum(terms) / len(terms)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_is_the_paper_s(temperature: float) -> None:
    z1, z2 = torch.randn(2, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss = example("simclr").nt_xent(z1, z2, temperature)
    assert loss.item() == pytest.approx(written_out_nt_xent(z1.numpy(), z2.numpy(), temperature), rel=1e-12)


@pytest.mark.parametrize("num_views", [2, 5])
def test_dino_s_loss_is_the_paper_s(num_views: int) -> None:
    generator = torch.Generator().manual_seed(1)
    student = torch.rand(num_views, 3, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    teacher = torch.rand(2, 3, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    centre = torch.rand(6, dtype=torch.float64, generator=generator)
    loss = example("dino").dino_loss(student, teacher, centre)
    expected = written_out_dino(student.detach().numpy(), teacher.detach().numpy(), centre.numpy())
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    loss.backward()
    assert student.grad is not None
    assert student.grad.abs().max() > 0
    assert teacher.grad is None


def test_simclr_learns(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "backbone.safetensors"
    found = losses("simclr", pictures, "--steps", 12, "--batch-size", 24, "--size", 16, "--out", out)
    # The first value from the formula, on the same weights and the same pixels.
    torch.manual_seed(0)
    model = example("simclr").SimCLR()
    recipe = views.simclr(16, strength=0.5, blur=False)
    with Loader(pictures, views=recipe, batch_size=24, seed=0) as loader:
        batch = next(iter(loader))
    x1, x2 = to_float(batch.views, CIFAR10_MEAN, CIFAR10_STD)
    z1, z2 = model(torch.cat([x1, x2])).detach().double().chunk(2)
    assert found[0] == pytest.approx(written_out_nt_xent(z1.numpy(), z2.numpy(), 0.5), abs=2e-4)
    assert len(found) == 12
    assert np.mean(found[-3:]) < found[0] - 0.1
    with safe_open(out, "pt") as weights:
        assert set(weights.keys()) == set(model.backbone.state_dict())


def test_dino_takes_the_paper_s_steps(pictures: Path, tmp_path: Path) -> None:
    """Two steps done again here: what is printed at the second depends on student, teacher and centre."""
    out = tmp_path / "teacher.safetensors"
    settings = ("--batch-size", 8, "--size", 32, "--local-crops", 2, "--prototypes", 64)
    found = losses("dino", pictures, "--steps", 3, *settings, "--out", out)
    assert len(found) == 3
    assert np.isfinite(found).all()

    dino = example("dino")
    torch.manual_seed(0)
    student, teacher = dino.Scorer(64), dino.Scorer(64)
    teacher.load_state_dict(student.state_dict())
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-4, weight_decay=0.04)
    centre = torch.zeros(64)
    recipe = views.dino(2, size=32, local_size=16)
    with Loader(pictures, views=recipe, batch_size=8, seed=0) as loader:
        for expected, batch in zip(found[:2], loader, strict=False):
            assert [view.shape[-1] for view in batch.views] == [32, 32, 16, 16]
            crops = to_float(batch.views, IMAGENET_MEAN, IMAGENET_STD)
            mine, its = student(crops), teacher(crops[:2]).detach()
            written = written_out_dino(mine.detach().double().numpy(), its.double().numpy(), centre.numpy())
            assert written == pytest.approx(expected, abs=2e-3)
            optimizer.zero_grad()
            dino.dino_loss(mine, its, centre).backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 3.0)
            optimizer.step()
            centre = 0.9 * centre + 0.1 * its.flatten(0, 1).mean(0)
            momentum = 1 - 0.02 * (math.cos(math.pi / 3) + 1) / 2
            for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
                old.data = momentum * old.data + (1 - momentum) * new.data
    with safe_open(out, "pt") as weights:
        assert set(weights.keys()) == set(student.backbone.state_dict())
