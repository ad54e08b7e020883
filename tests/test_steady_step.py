"""A step between two lines of metrics never makes the host wait for the device.

Shown here without a GPU in two ways: by the operators of whole steps, GPU code included (gpu_kernels.py), and
by tensors that are on a GPU in name only. tests/test_gpu.py lets CUDA itself complain.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from barlow.config import Config
from barlow.data import to_float
from barlow.distributed import World
from barlow.model import build_model
from barlow.objectives import barlow_twins
from barlow.objectives.forms import FORMS
from barlow.optim import LARS
from barlow.train.guard import Guard
from barlow.train.learner import Learner, Plan
from gpu_kernels import kernels_on_cpu
from host_reads import Crossings, HostReads
from processes import run
from tiny_run import tiny_config

VERDICT = {"tolist": 1}
"""What the guard reads: a copy in the host's memory, one step late. Nobody waits for it."""
ALONE = World(0, 1, 0, torch.device("cpu"))


def config_of(objective: str, **train: object) -> Config:
    base = tiny_config()
    model, settings = replace(base.model, projector=(16, 4)), replace(base.train, **train)
    return replace(base, model=model, train=settings, objective=replace(base.objective, name=objective))


def views_u8(config: Config) -> list[Tensor]:
    generator, side = torch.Generator().manual_seed(0), config.data.image_size
    shape = (config.optim.batch_size, 3, side, side)
    return [torch.randint(256, shape, generator=generator, dtype=torch.uint8) for _ in range(2)]


def reads_of_a_step(
    config: Config, *, check: bool = False, world: World = ALONE, late: bool = True
) -> HostReads:
    """Of the third step; the ones before may look, to set things up. `late`: the guard's way on a GPU."""
    learner = Learner(config, Plan.of(config, 5), world)
    learner._guard = Guard(world.device, 1, late=late)
    # Floats, as bytes become them by code of our own on a CPU, which makes tensors of arrays.
    rows = config.optim.batch_size // world.size
    views = to_float([v[:rows] for v in views_u8(config)], config.data.mean, config.data.std)
    for step in (1, 2):
        learner.step(step, views, check=False)
    with HostReads() as reads:
        learner.step(3, views, check=check)
    return reads


# w_mse has to know whether its matrices could be factorised; mixed_barlow_twins reads a number of the CPU's.
@pytest.mark.parametrize("objective", ["barlow_twins", "simclr", "byol", "fft", "vicreg"])
def test_no_operator_of_a_step_reads_a_value(objective: str) -> None:
    with kernels_on_cpu():
        reads = reads_of_a_step(config_of(objective))
    assert reads.operators > 500
    assert reads.found == VERDICT


def on_two_ranks(world: World) -> list[dict[str, int]]:
    torch.set_num_threads(1)
    configs = [config_of(objective) for objective in ("barlow_twins", "simclr")]
    sharded = replace(configs[0], objective=replace(configs[0].objective, form="gram_features"))
    with kernels_on_cpu():
        return [dict(reads_of_a_step(config, world=world).found) for config in (*configs, sharded)]


def test_several_processes_do_not_ask_each_other_for_what_they_know() -> None:
    # DistributedDataParallel divides each gradient by a number, which it keeps in a tensor of the CPU.
    parameters = len(list(build_model(config_of("barlow_twins").model, 0).parameters()))
    for found in run(on_two_ranks, 2, timeout_s=300):
        assert found == [{"_local_scalar_dense": parameters, **VERDICT}] * 3


def test_neither_do_micro_batches_nor_a_channels_first_step() -> None:
    for train in ({"micro_batch": 5}, {"channels_last": False}):
        assert reads_of_a_step(config_of("barlow_twins", **train)).found == VERDICT, train


def test_a_step_that_checks_its_loss_is_seen() -> None:
    reads = reads_of_a_step(config_of("barlow_twins"), check=True, late=False)
    assert reads.found == {"_local_scalar_dense": 1}
    with HostReads() as reads:
        torch.arange(3)[torch.tensor([True, False, True])]
    assert reads.found == {"lift_fresh": 1, "index": 1}


def test_nothing_crosses_to_or_from_the_gpu_but_the_images() -> None:
    """Tensors without memory that are on a GPU in name; backward passes cannot be taken with them."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        images = [torch.empty(4, 3, 8, 8, dtype=torch.uint8, device="cuda") for _ in range(2)]
        to_float(images, (0.5,) * 3, (0.2,) * 3, device="cuda")  # constants go over once
        with Crossings() as crossings:
            floats = to_float(images, (0.5,) * 3, (0.2,) * 3, device="cuda", dtype=torch.bfloat16)
            assert {x.dtype for x in floats} == {torch.bfloat16}
            z1, z2 = (torch.empty(8, 6, device="cuda", requires_grad=True) for _ in range(2))
            for form in FORMS:
                assert barlow_twins(z1, z2, form=form).device.type == "cuda"
            weight = torch.nn.Parameter(torch.empty(3, 4, device="cuda"))
            weight.grad = torch.empty_like(weight)
            LARS([{"params": [weight], "adapt": True}], lr=0.1, weight_decay=0.1).step()
        assert not crossings.found
        with Crossings() as crossings:
            to_float([mode.from_tensor(torch.zeros(4, 3, 8, 8, dtype=torch.uint8))], (0.5,) * 3, (0.2,) * 3,
                     device="cuda")  # fmt: skip
        assert len(crossings.found) == 1
