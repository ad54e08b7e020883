"""kNN while a run trains: the number that `barlow eval` gives, which images, and nothing changed by it."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from barlow.config import Config
from barlow.data import Index, open_index
from barlow.distributed import World
from barlow.evaluate import evaluate, features
from barlow.evaluate.online import OnlineKnn, online_knn
from barlow.model import Twins, build_model
from barlow.train import loop
from barlow.train.checkpoint import find_checkpoint
from commands import barlow_here
from tiny_run import tiny_config, write_pictures

Capture = pytest.CaptureFixture[str]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_pictures(folder / "train", per_class=20)
    write_pictures(folder / "held-out", per_class=6, seed=1)
    return folder


def twins(config: Config) -> Twins:
    return build_model(config.model, config.train.seed)


def judge_of(path: Path, config: Config) -> OnlineKnn:
    judge = online_knn(open_index(path), config, CPU)
    assert judge is not None
    return judge


def test_training_is_the_same_with_it(data: Path, tmp_path: Path) -> None:
    config = tiny_config()
    run = tmp_path / "run"
    loop.train(open_index(data / "train"), config, run, World(0, 1, 0, CPU), 1, online_knn)
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "knn_top1" in line] == [15]  # the end only: 3 epochs of 10
    silent = tmp_path / "silent"
    loop.train(open_index(data / "train"), config, silent, World(0, 1, 0, CPU), 1)
    for name in ("model.safetensors", "optim.safetensors"):
        left, right = (r / "checkpoints" / "step-00000015" / name for r in (run, silent))
        assert left.read_bytes() == right.read_bytes()


def test_it_is_what_barlow_eval_says(data: Path, tmp_path: Path, capfd: Capture) -> None:
    """Of a run by the command line, whose last line has it."""
    flags = ("--preset", "cifar10-cpu", "--model.backbone", "resnet10", "--model.width", "8",
             "--model.projector", "24", "--data.image_size", "16", "--data.eval_resize", "16",
             "--optim.batch_size", "12", "--optim.epochs", "2", "--train.log_every", "99",
             "--train.precision", "fp32", "--evaluate.knn_k", "5",
             "--evaluate.online_every_epochs", "1")  # fmt: skip
    result = barlow_here(capfd, "train", data / "train", "--run", tmp_path / "run", *flags)
    assert result.code == 0, result.err
    lines = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], "knn_top1" in line) for line in lines] == [(1, False), (5, True), (10, True)]
    config = replace(tiny_config(), evaluate=replace(tiny_config().evaluate, linear_epochs=1, linear_crops=1))
    said = evaluate(
        tmp_path / "run", data / "train", held_out=data / "held-out", baselines=False, quiet=True,
        config=replace(config, evaluate=replace(config.evaluate, knn_temperature=0.1)),
    )  # fmt: skip
    assert lines[-1]["knn_top1"] == said["knn"]["top1"]
    assert f"kNN {lines[-1]['knn_top1']:.1f} %" in result.out


def test_a_backbone_is_as_before(data: Path) -> None:
    config = tiny_config()
    model = twins(config)
    before = copy.deepcopy(model.state_dict())
    random_state = torch.get_rng_state()
    judge = judge_of(data / "train", config)
    model.train()
    first = judge(model.backbone)
    assert first == judge(model.backbone)
    assert model.backbone.training
    assert model.backbone.bn1.training
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert first is not None
    assert 0 <= first <= 100


def test_which_images_it_takes(data: Path, tmp_path: Path) -> None:
    config = tiny_config()
    assert judge_of(data / "train", config).how.startswith("kNN on 18 images by 60 labelled ones")
    few = replace(config, evaluate=replace(config.evaluate, online_images=24))
    judge = judge_of(data / "train", few)
    assert judge.how.startswith("kNN on 6 images by 24 labelled ones")
    assert torch.bincount(judge._train_labels_N).tolist() == [8, 8, 8]
    assert torch.bincount(judge._test_labels_M).tolist() == [2, 2, 2]
    alone = write_pictures(tmp_path / "alone", per_class=10)  # no held-out images: a fifth of each class
    judge = judge_of(alone, config)
    assert judge.how.startswith("kNN on 6 images by 24 labelled ones")
    assert {judge._train.name(i) for i in range(24)}.isdisjoint({judge._test.name(i) for i in range(6)})


def test_an_image_that_cannot_be_decoded_takes_no_part(data: Path, tmp_path: Path) -> None:
    """Neither a vote nor a question under another one's label: all is as if the two images were not there."""
    damaged, without = (Path(shutil.copytree(data, tmp_path / name)) for name in ("damaged", "without"))
    for place in ("train/blue/blue-003.jpg", "held-out/cyan/cyan-001.jpg"):
        content = (damaged / place).read_bytes()
        (damaged / place).write_bytes(content[:-100])
        (without / place).unlink()
    config = tiny_config()
    replacing = replace(config, data=replace(config.data, on_error="replace", max_replaced=0.1))
    forward = features.network(twins(config).backbone, torch.float32)
    found, expected = judge_of(damaged / "train", replacing), judge_of(without / "train", config)
    for part in ("train", "test"):
        of = [
            judge._features(getattr(judge, f"_{part}"), labels, forward, lambda: False)
            for judge in (found, expected)
            for labels in [judge._train_labels_N if part == "train" else judge._test_labels_M]
        ]
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(*of, strict=True))
        assert len(of[0][1]) == {"train": 59, "test": 17}[part]
    assert found(twins(config).backbone) == expected(twins(config).backbone)


def test_an_image_that_never_comes_keeps_no_signal_waiting(data: Path, tmp_path: Path) -> None:
    """Step 5 is judged, by an image that is a pipe; SIGTERM comes meanwhile."""
    hanging, run = Path(shutil.copytree(data, tmp_path / "hanging")), tmp_path / "run"
    stuck = hanging / "held-out" / "cyan" / "cyan-001.jpg"
    Index.scan(hanging / "held-out").write(hanging / "held-out")  # before it is one
    stuck.unlink()
    os.mkfifo(stuck)
    config = tiny_config()
    config = replace(config, evaluate=replace(config.evaluate, online_every_epochs=1.0))

    def send() -> None:
        while not (run / "metrics.jsonl").exists() or (run / "metrics.jsonl").read_bytes().count(b"\n") < 4:
            time.sleep(0.01)
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    begin_s = time.monotonic()
    stopped_by = loop.train(open_index(hanging / "train"), config, run, World(0, 1, 0, CPU), 1, online_knn)
    assert time.monotonic() - begin_s < 30
    sender.join()
    assert stopped_by == signal.SIGTERM
    assert find_checkpoint(run / "checkpoints") == run / "checkpoints" / "step-00000005"
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert not any("knn_top1" in line for line in lines)


def test_without_labels_or_wish_there_is_none(data: Path, tmp_path: Path) -> None:
    config = tiny_config()
    flat = write_pictures(tmp_path / "flat", per_class=4, flat=True)
    assert online_knn(open_index(flat), config, CPU) is None
    one = write_pictures(tmp_path / "one", per_class=4)
    for name in ("blue", "cyan"):
        shutil.rmtree(one / name)
    assert online_knn(open_index(one), config, CPU) is None
    never = replace(config, evaluate=replace(config.evaluate, online_every_epochs=0.0))
    assert online_knn(open_index(data / "train"), never, CPU) is None
