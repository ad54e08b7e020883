"""An evaluation that was interrupted goes on where it was, to the numbers of one that never was."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_run
from barlow.config import EvaluateConfig
from barlow.distributed import World
from barlow.evaluate import evaluate, evaluation, linear, partition, recipes, unfinished
from barlow.evaluate.classifier import train_classifier
from barlow.evaluate.protocols import PROTOCOLS
from barlow.evaluate.unfinished import Part, Unfinished
from barlow.model import build_model, weights
from processes import run

CPU = torch.device("cpu")
CONFIG = tiny_run.tiny_config(width=4)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("interrupted")
    tiny_run.write_pictures(folder / "train", per_class=9, seed=1)
    tiny_run.write_pictures(folder / "held-out", per_class=5, seed=2)
    content = weights.encode(build_model(CONFIG.model, 5).backbone.state_dict(), CONFIG.model, CONFIG)
    (folder / "w.safetensors").write_bytes(content)
    return folder


def stop_after(epochs: int) -> Any:
    def progress(done: int, of: int) -> None:
        if done == epochs:
            raise KeyboardInterrupt

    return progress


Probe = Callable[..., list[linear.Result]]


def probe_of(asked: list[int], standardize: bool) -> Probe:
    """Probes of three rates on drawn features; `asked` notes the epochs whose features they want."""
    draw = torch.Generator().manual_seed(0)
    passes = [torch.randn(40, 6, generator=draw) + 3 for _ in range(5)]
    labels, test = torch.arange(40) % 7, torch.randn(20, 6, generator=draw) + 3
    config = dataclasses.replace(
        EvaluateConfig(), linear_epochs=5, linear_batch_size=16, linear_standardize=standardize
    )

    def probe(**options: Any) -> list[linear.Result]:
        return linear.probe(
            lambda epoch: asked.append(epoch) or passes[epoch], labels, test, torch.arange(20) % 7,
            num_classes=7, config=config, seed=3, device=CPU, factors=(1.0, 0.1, 0.01), **options,
        )  # fmt: skip

    return probe


@pytest.mark.parametrize("standardize", [False, True])
def test_a_linear_probe_goes_on(tmp_path: Path, standardize: bool) -> None:
    asked: list[int] = []
    probe = probe_of(asked, standardize)
    whole = probe()
    begun = Part(Unfinished(tmp_path / "e.json", {}, every_s=0), "linear")
    with pytest.raises(KeyboardInterrupt):
        probe(part=begun, progress=stop_after(3))
    asked.clear()
    assert probe(part=Part(Unfinished(tmp_path / "e.json", {}), "linear")) == whole
    assert asked == ([0, 3, 4] if standardize else [3, 4])
    assert probe(part=Part(Unfinished(tmp_path / "e.json", {}), "another")) == whole


def probes_that_two_share(world: World, out: str) -> list[Any]:
    """Results of probes that were not stopped, of stopped ones gone on with, and the epochs these took."""
    asked: list[int] = []
    probe = probe_of(asked, standardize=False)
    whole = probe()
    with pytest.raises(KeyboardInterrupt):
        probe(part=Part(Unfinished(Path(out), {}, every_s=0), "linear"), progress=stop_after(3))
    asked.clear()
    again = probe(part=Part(Unfinished(Path(out), {}), "linear"))
    return [[dataclasses.astuple(result) for result in each] for each in (whole, again)] + [asked]


def test_linear_probes_that_ranks_share_go_on(tmp_path: Path) -> None:
    """Rank 0 trains two of them and rank 1 the third; what one rank saves serves two, and a single one."""
    found = run(probes_that_two_share, 2, str(tmp_path / "e.json"))
    assert found[0] == found[1]
    whole, again, asked = found[0]
    assert again == whole
    assert asked == [3, 4]
    alone = probe_of(asked, standardize=False)(part=Part(Unfinished(tmp_path / "e.json", {}), "linear"))
    assert [dataclasses.astuple(result) for result in alone] == whole
    assert asked == [3, 4, 3, 4]


@pytest.mark.parametrize("name", ["finetune", "places205"])
def test_a_classifier_goes_on(place: Path, tmp_path: Path, name: str) -> None:
    parts = partition.load(place)
    assert isinstance(parts, partition.Partition)
    recipe = recipes.recipe_of(name).adapted(epochs=4, batch_size=8, batch_norm="synchronised")
    trained: list[int] = []

    def train(**options: Any) -> tuple[Any, dict[str, torch.Tensor]]:
        backbone = build_model(CONFIG.model, 5).backbone.eval()
        result, classifier = train_classifier(
            backbone, parts, recipe, data=CONFIG.data, seed=1, device=CPU, dtype=torch.float32, **options
        )
        return result, classifier.state_dict()

    whole, tensors = train()
    begun = Part(Unfinished(tmp_path / "e.json", {}, every_s=0), name)
    with pytest.raises(KeyboardInterrupt):
        train(part=begun, progress=stop_after(2))
    goes_on = Part(Unfinished(tmp_path / "e.json", {}), name)
    again, same = train(part=goes_on, progress=lambda done, of: trained.append(done))
    assert trained == [3, 4]
    assert again == whole
    assert all(torch.equal(tensor, same[name]) for name, tensor in tensors.items())


def test_protocols_that_are_done_are_not_done_again(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(**options: Any) -> dict[str, Any]:
        found = evaluate(
            place / "w.safetensors", place, protocols=("retrieval", "linear"), seeds=2, device="cpu",
            out=tmp_path / "e.json", **options,
        )  # fmt: skip
        return {key: value for key, value in found.items() if key != "seconds"}

    whole = measured(quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["e.json"]
    (tmp_path / "e.json").unlink()
    monkeypatch.setattr(evaluation, "_WORTH_S", 0.0)
    good = PROTOCOLS["linear"].run

    def stopping(job: Any, row: Any, seed: int) -> Any:
        if (row.name, seed) == ("untrained", 1):
            raise KeyboardInterrupt
        return good(job, row, seed)

    with monkeypatch.context() as patch:
        patch.setitem(PROTOCOLS, "linear", dataclasses.replace(PROTOCOLS["linear"], run=stopping))
        with pytest.raises(KeyboardInterrupt):
            measured(quiet=True)
    (left,) = tmp_path.iterdir()
    assert sorted(path.stem for path in left.glob("*-*.json")) == [
        "trained-linear-0", "trained-linear-1", "trained-retrieval-0", "untrained-linear-0",
        "untrained-retrieval-0",
    ]  # fmt: skip
    # By other settings nothing of that is taken, and nothing lost.
    settings = dataclasses.replace(CONFIG.evaluate, linear_epochs=2)
    measured(quiet=True, config=dataclasses.replace(CONFIG, evaluate=settings))
    assert left.is_dir()
    capsys.readouterr()
    assert measured() == whole
    told = capsys.readouterr().out
    assert told.count("done before") == 5
    assert "untrained: linear, seed 0: done before" in told
    assert [path.name for path in tmp_path.iterdir()] == ["e.json"]


def test_what_cannot_be_kept_costs_no_number(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk, or when another process of the same evaluation has just removed the folder."""
    monkeypatch.setattr(evaluation, "_WORTH_S", 0.0)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x.json")

    monkeypatch.setattr(unfinished.Unfinished, "_begin", full)
    with pytest.warns(UserWarning, match=r"what is done is not kept: .*No space left on device: 'x\.json'"):
        found = evaluate(
            place / "w.safetensors", place, protocols=("knn",), device="cpu", quiet=True, baselines=False,
            out=tmp_path / "e.json",
        )  # fmt: skip
    assert found["knn"]["top1"] > 0


def test_other_labels_are_another_evaluation(place: Path) -> None:
    parts = partition.load(place)
    assert isinstance(parts, partition.Partition)
    others = dataclasses.replace(parts, train_labels_N=parts.train_labels_N.flip(0))
    assert parts.digest() != others.digest()
    assert parts.digest() == partition.load(place).digest()
