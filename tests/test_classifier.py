"""The classifier's training against a plain loop of torch, alone and on two ranks, what it leaves alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import tiny_run
from barlow.config import DataConfig
from barlow.data import Loader, normalise, views
from barlow.distributed import World
from barlow.evaluate import features, partition, recipes
from barlow.evaluate.classifier import train_classifier, trainable
from barlow.evaluate.recipes import Recipe
from barlow.model import ViewBatchNorm, build_backbone
from processes import run

CPU = torch.device("cpu")
DATA = DataConfig(image_size=16, eval_resize=16, threads=1)
TUNING = Recipe(source="a test", epochs=3, batch_size=12, lr_head=0.5, lr_backbone=0.05, weight_decay=1e-3)
PROBE = dataclasses.replace(
    recipes.RECIPES["places205"]["vissl"], epochs=3, batch_size=12, drops=(1, 2), lr_head=0.1
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Operations this small take longer on two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    tiny_run.write_pictures(folder / "train", per_class=10, seed=1)  # the last batch has 6 of 12
    tiny_run.write_pictures(folder / "held-out", per_class=5, seed=2)
    return folder


def backbone() -> nn.Module:
    torch.manual_seed(5)
    made = build_backbone(dataclasses.replace(tiny_run.tiny_config().model, width=4))
    with torch.no_grad():
        for name, buffer in made.named_buffers():
            # Statistics that are not the initial ones, so that evaluation mode differs from training mode.
            if name.endswith("running_var"):
                buffer.fill_(0.5)
    return made.eval()


def parts_of(pictures: Path) -> partition.Partition:
    parts = partition.load(pictures)
    assert isinstance(parts, partition.Partition)
    return parts


def trained(pictures: Path, recipe: Recipe, seed: int = 3, dtype: torch.dtype = torch.float32, **more: Any):
    parts = more.pop("parts", None) or parts_of(pictures)
    body = more.pop("body", None) or backbone()
    device = more.pop("device", CPU)
    return train_classifier(body, parts, recipe, data=DATA, seed=seed, device=device, dtype=dtype, **more)


def plain(body: nn.Module) -> nn.Module:
    """The same network with torch's own batch norm."""
    for parent in list(body.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, ViewBatchNorm):
                theirs = nn.BatchNorm2d(norm.num_features)
                theirs.load_state_dict(norm.state_dict())
                setattr(parent, name, theirs)
    return body


def images_of(pictures: Path, part: str, seed: int = 0) -> Loader:
    view = views.linear_probe(16) if part == "train" else views.evaluation(16, 16)
    shuffle = part == "train"
    return Loader(
        pictures / part, views=view, batch_size=12, seed=seed, shuffle=shuffle, drop_last=False, threads=1
    )


def plain_loop(
    pictures: Path, recipe: Recipe, seed: int, schedule: Any, *, nesterov: bool = False, norm: bool = False
) -> tuple[list[float], float, nn.Module]:
    """What the official evaluate.py does, written down again on the loader's batches."""
    body = plain(backbone()).train(recipe.lr_backbone > 0)
    drawn = torch.randn(3, 32, generator=torch.Generator().manual_seed(seed)) * 0.01
    linear = nn.Linear(32, 3)
    linear.weight.data.copy_(drawn)
    linear.bias.data.zero_()
    head = nn.Sequential(nn.BatchNorm1d(32), linear) if norm else nn.Sequential(linear)
    decayed = [{"params": linear.parameters(), "lr": recipe.lr_head}]
    if norm:
        decayed.append({"params": head[0].parameters(), "lr": recipe.lr_head, "weight_decay": 0.0})
    if recipe.lr_backbone:
        decayed.append({"params": body.parameters(), "lr": recipe.lr_backbone})
    optimizer = torch.optim.SGD(
        decayed, lr=1.0, momentum=0.9, weight_decay=recipe.weight_decay, nesterov=nesterov
    )
    scheduler = schedule(optimizer)
    train, test = images_of(pictures, "train", seed), images_of(pictures, "held-out")
    accuracies, mean_loss = [], 0.0
    for _ in range(recipe.epochs):
        body.train(recipe.lr_backbone > 0)
        head.train()
        losses = []
        for batch in train:
            x = normalise(batch.views[0], DATA.mean, DATA.std)
            loss = functional.cross_entropy(head(body(x)), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += [loss.item()] * len(batch.ids)
        mean_loss = sum(losses) / len(losses)
        body.eval()
        head.eval()
        right = [
            head(body(normalise(batch.views[0], DATA.mean, DATA.std))).argmax(1) == batch.labels
            for batch in test
        ]
        accuracies.append(100 * torch.cat(right).double().mean().item())
        scheduler.step()
    train.close()
    test.close()
    return accuracies, mean_loss, nn.ModuleDict({"backbone": body, "head": head})


def test_fine_tuning_is_the_official_loop(pictures: Path) -> None:
    result, model = trained(pictures, TUNING)
    accuracies, loss, reference = plain_loop(
        pictures, TUNING, 3, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, TUNING.epochs)
    )
    ours, theirs = model.backbone.state_dict(), reference["backbone"].state_dict()  # pyright: ignore[reportIndexIssue]
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=2e-3, atol=2e-4, msg=name)
    torch.testing.assert_close(model.head.linear.weight, reference["head"][0].weight, rtol=2e-3, atol=2e-4)  # pyright: ignore
    assert abs(result.train_loss - loss) < 1e-3
    assert result.top1 == pytest.approx(accuracies[-1])
    assert result.best_top1 == pytest.approx(max(accuracies))
    assert result.best_epoch == accuracies.index(max(accuracies)) + 1
    assert result.top5 is None


def test_a_transfer_probe_is_the_plain_loop(pictures: Path) -> None:
    result, model = trained(pictures, PROBE)
    accuracies, loss, reference = plain_loop(
        pictures,
        PROBE,
        3,
        lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1, 2], 0.1),
        nesterov=True,
        norm=True,
    )
    for name, tensor in reference["head"].state_dict().items():  # pyright: ignore[reportIndexIssue]
        own = model.head.state_dict()[name.replace("0.", "norm.").replace("1.", "linear.")]
        torch.testing.assert_close(own, tensor, rtol=1e-4, atol=1e-5, msg=name)
    assert abs(result.train_loss - loss) < 1e-4
    assert result.top1 == pytest.approx(accuracies[-1])


@pytest.mark.parametrize("recipe", [TUNING, PROBE], ids=["fine-tuning", "probe"])
def test_the_backbone_that_came_in_is_not_touched(pictures: Path, recipe: Recipe) -> None:
    body = backbone().train()
    before, grads = features.digest(body), [p.requires_grad for p in body.parameters()]
    _, model = trained(pictures, recipe, body=body)
    assert features.digest(body) == before
    assert body.training
    assert [p.requires_grad for p in body.parameters()] == grads
    assert all(p.grad is None for p in body.parameters())
    assert (features.digest(model.backbone) == before) == (recipe is PROBE)


def test_a_seed_gives_the_same_numbers_and_another_one_others(pictures: Path) -> None:
    (first, model), (again, same), (_, other) = (trained(pictures, TUNING, seed) for seed in (3, 3, 4))
    assert first == again
    assert features.digest(model) == features.digest(same) != features.digest(other)


def test_frozen_batch_norm_keeps_its_statistics_and_trains_its_scales(pictures: Path) -> None:
    recipe = dataclasses.replace(TUNING, batch_norm="frozen")
    _, model = trained(pictures, recipe)
    before, after = backbone().state_dict(), model.backbone.state_dict()
    for name in before:
        statistic = "running" in name or "tracked" in name
        assert torch.equal(before[name], after[name]) == statistic, name


def test_bf16_learns_what_float32_learns(pictures: Path) -> None:
    recipe = dataclasses.replace(TUNING, lr_backbone=0.005, epochs=2)
    (exact, _), (rounded, model) = (
        trained(pictures, recipe, dtype=d) for d in (torch.float32, torch.bfloat16)
    )
    assert rounded.train_loss != exact.train_loss
    assert rounded.train_loss == pytest.approx(exact.train_loss, abs=0.02)
    assert model.head.linear.weight.dtype == torch.float32


def test_what_cannot_be_trained_on_is_refused(pictures: Path) -> None:
    with pytest.raises(ValueError, match="batches of 1 images can't be shared by 1 processes"):
        trained(pictures, dataclasses.replace(TUNING, batch_size=1))
    parts = parts_of(pictures)
    one = dataclasses.replace(parts, train=parts.train.subset([0]), train_labels_N=parts.train_labels_N[:1])
    with pytest.raises(ValueError, match="1 training images are too few"):
        trained(pictures, TUNING, parts=one)


def on_a_rank(world: World, pictures: Path) -> dict[str, tuple[tuple, dict[str, torch.Tensor]]]:
    found = {}
    for name, recipe in (
        ("tuning", TUNING),
        ("probe", PROBE),
        ("a short last batch", dataclasses.replace(TUNING, batch_size=28)),  # which has 2 of the 30 images
        ("local", dataclasses.replace(TUNING, batch_norm="local")),
    ):
        result, model = trained(pictures, recipe)
        found[name] = (dataclasses.astuple(result), model.state_dict())
    if world.size > 1:
        odd = nn.Sequential(nn.BatchNorm1d(3))
        with pytest.raises(ValueError, match="BatchNorm1d has no synchronised statistics over 2 processes"):
            trainable(odd, "synchronised")
    return found


def test_two_ranks_train_what_one_does(pictures: Path) -> None:
    alone = on_a_rank(World(0, 1, 0, CPU), pictures)
    first, second = run(on_a_rank, 2, pictures, timeout_s=240)
    for name, (result, state) in alone.items():
        assert first[name][0] == second[name][0]
        assert all(torch.equal(t, second[name][1][n]) for n, t in first[name][1].items()), "ranks differ"
        same = all(torch.allclose(t, first[name][1][n], rtol=2e-3, atol=2e-4) for n, t in state.items())
        # Statistics of each process's own images are the one thing that depends on their number.
        assert same == (name != "local"), name
        if same:
            assert first[name][0][:4] == result[:4]
            assert first[name][0][4] == pytest.approx(result[4], abs=1e-4)


@pytest.mark.parametrize("protocol", recipes.RECIPES)
def test_the_recipes_are_the_published_ones(protocol: str) -> None:
    parameter = nn.Parameter(torch.zeros(()))
    for source, recipe in recipes.RECIPES[protocol].items():
        assert recipe.batch_size == 256
        assert recipe.momentum == 0.9
        optimizer = torch.optim.SGD([parameter], lr=1.0)
        milestones = {
            ("semi", "paper"): ([12, 16], 0.2), ("places205", "paper"): ([5, 9], 0.1),
            ("places205", "vissl"): ([4, 8, 12], 0.1), ("inat18", "paper"): ([28, 56], 0.1),
            ("inat18", "vissl"): ([24, 48, 72], 0.1),
        }.get(("semi" if recipe.lr_backbone else protocol, source))  # fmt: skip
        theirs = (
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
            if milestones is None
            else torch.optim.lr_scheduler.MultiStepLR(optimizer, *milestones)
        )
        for epoch in range(recipe.epochs):
            assert recipe.rate_factor(epoch) == pytest.approx(optimizer.param_groups[0]["lr"]), (
                source,
                epoch,
            )
            optimizer.step()
            theirs.step()
    numbers = {
        s: (r.epochs, r.lr_backbone, r.lr_head, r.weight_decay) for s, r in recipes.RECIPES[protocol].items()
    }
    if protocol in ("semi-1", "semi-10", "finetune"):
        assert numbers == {"official": (20, 0.005, 0.5, 0.0), "paper": (20, 0.002, 0.5, 0.0)}
    else:
        epochs = {"places205": 14, "inat18": 84}[protocol]
        assert numbers == dict.fromkeys(("paper", "vissl"), (epochs, 0.0, 0.01, 5e-4))


def test_a_recipe_is_found_by_its_source() -> None:
    assert recipes.recipe_of("inat18") is recipes.RECIPES["inat18"]["paper"]
    assert recipes.recipe_of("semi-1") is recipes.RECIPES["semi-1"]["official"]
    assert recipes.recipe_of("semi-1", "vissl") is recipes.RECIPES["semi-1"]["official"]
    assert recipes.recipe_of("inat18", "vissl") is recipes.RECIPES["inat18"]["vissl"]
    with pytest.raises(ValueError, match="lr_head must be positive"):
        dataclasses.replace(TUNING, lr_head=0.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("recipe", [TUNING, PROBE], ids=["fine-tuning", "probe"])
def test_a_gpu_learns_what_a_cpu_learns(pictures: Path, recipe: Recipe, dtype: torch.dtype) -> None:
    recipe = dataclasses.replace(recipe, lr_backbone=recipe.lr_backbone / 10, epochs=2)
    exact, _ = trained(pictures, recipe)
    there = torch.device("cuda")
    found, model = trained(pictures, recipe, dtype=dtype, device=there, body=backbone().to(there))
    assert found.train_loss == pytest.approx(exact.train_loss, abs=0.03)
    assert model.head.linear.weight.is_cuda
