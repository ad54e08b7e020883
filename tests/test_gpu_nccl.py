"""What several GPUs do, with one: data parallelism over NCCL in a group of one process.

NCCL refuses two processes on one GPU, so sums over ranks are shown by two GPUs only (test_gpu.py), and on
CPUs with gloo. This shows that a step goes through DistributedDataParallel, NCCL and the group of gloo beside
it at all: the options that we give them, the rehearsal, the layout of gradients in buckets, no waiting.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from barlow import distributed
from barlow.config import Config
from barlow.distributed import LateMax, World
from barlow.model import parallel
from barlow.train.feed import Feed
from barlow.train.learner import Learner, Plan
from test_steady_step import config_of, views_u8
from test_step_options import losses

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.skipif(not dist.is_nccl_available(), reason="needs NCCL"),
    pytest.mark.filterwarnings("default"),  # see test_gpu.py
]


@pytest.fixture
def world() -> Iterator[World]:
    device = torch.device("cuda", torch.cuda.current_device())
    store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group("nccl", store=store, rank=0, world_size=1, device_id=device)
    try:
        yield World(0, 1, 0, device)
    finally:
        dist.destroy_process_group()


def config(**train: object) -> Config:
    return config_of("barlow_twins", precision="fp32", **train)


@pytest.mark.parametrize(
    "train", [{}, {"micro_batch": 5}, {"gradient_compression": "bf16"}, {"compile": True}]
)
def test_a_parallel_step_over_nccl_is_the_plain_one(
    world: World, monkeypatch: pytest.MonkeyPatch, train: dict[str, object]
) -> None:
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        plain = losses(config(micro_batch=train.get("micro_batch", 0)), world)
        monkeypatch.setattr(parallel, "world_size", lambda: 2)  # else the network is not made parallel
        found = losses(config(**train), world)
    assert found == pytest.approx(plain, rel=2e-2 if "gradient_compression" in train else 1e-3)


def test_the_host_does_not_wait_for_a_parallel_step(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    settings = config()
    settings = replace(settings, train=replace(settings.train, precision="bf16"))
    learner, feed = Learner(settings, Plan.of(settings, 5), world), Feed(world.device)
    assert isinstance(learner._model, DistributedDataParallel)
    batches = [[view.pin_memory() for view in views_u8(settings)] for _ in range(7)]
    for step, views in enumerate(batches, start=1):
        torch.cuda.set_sync_debug_mode("error" if step > 3 else "default")
        try:
            learner.step(step, feed(views), check=False)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    loss, _ = learner.step(8, feed(batches[0]), check=True)
    assert torch.isfinite(loss)


def test_hosts_talk_over_gloo_beside_nccl(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda group=None: 2)
    with LateMax(lambda: 7) as largest:
        largest.ask()
        assert largest.answer() == 7
