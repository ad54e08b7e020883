"""Here: time, memory, operations and bytes sent of the loss in each form, beside the official formulation.

Not here: tables of the loader's bench; anything but the loss and its gradient at the embeddings.

    barlow bench loss --samples 256,2048 --dims 1024,8192
    torchrun --standalone --nproc-per-node 4 -m barlow.bench.loss --samples 256 --dims 8192

N samples are those of all ranks together. The rounds of all contestants alternate, so that a machine that
slows down slows them all; a round counts with its slowest rank.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from barlow.bench.traffic import counted
from barlow.distributed import World, barrier, broadcast_value, gather_values, process_group, world_size
from barlow.objectives import barlow_twins, choose_form
from barlow.objectives.forms import FORMS

LAMBD = 0.0051
Loss = Callable[[Tensor, Tensor], Tensor]


def official(z1_ND: Tensor, z2_ND: Tensor) -> Tensor:
    """The official formulation: batch norm, C, the sum of C over the ranks, autograd through all of it.

    Batch norm is synchronised on GPUs. On CPUs torch's can't be, and each rank uses its own statistics: as
    much work, but for a small exchange.
    """
    num_dims = z1_ND.shape[1]
    norm: nn.Module = nn.BatchNorm1d(num_dims, affine=False, device=z1_ND.device)
    if z1_ND.is_cuda:
        norm = nn.SyncBatchNorm.convert_sync_batchnorm(norm)
    return correlation_loss(norm, z1_ND, z2_ND, LAMBD)


def correlation_loss(norm: nn.Module, z1_ND: Tensor, z2_ND: Tensor, lambd: float) -> Tensor:
    """The loss of two embeddings by the whole matrix C, which autograd follows all the way."""
    num_dims = z1_ND.shape[1]
    c_DD = norm(z1_ND).T @ norm(z2_ND)
    c_DD.div_(len(z1_ND) * world_size())
    if world_size() > 1:
        dist.all_reduce(c_DD)
    on = torch.diagonal(c_DD).add(-1).square().sum()
    # Without its last element C is D - 1 rows of D + 1 elements that begin with one of the diagonal.
    off = c_DD.flatten()[:-1].view(num_dims - 1, num_dims + 1)[:, 1:].square().sum()
    return on + lambd * off


CONTESTANTS: dict[str, Loss] = {
    "official": official,
    **{form: functools.partial(barlow_twins, lambd=LAMBD, form=form) for form in FORMS},
}


@dataclass
class Result:
    """What one contestant needed for loss and gradient, on the rank that needed most."""

    name: str
    operations: int = 0
    collectives: int = 0
    sent_bytes: float = 0.0
    peak_bytes: int = 0
    """Memory beyond the embeddings, at the most."""
    seconds: list[float] = field(default_factory=list)
    """Of each round."""


def embeddings(num_samples: int, num_dims: int, world: World, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """This rank's rows of two random views, [n, D]."""
    rows = num_samples // world.size
    generator = torch.Generator().manual_seed(world.rank)
    shared_ND = torch.randn(rows, num_dims, generator=generator)
    z1_ND, z2_ND = (
        (shared_ND + torch.randn(rows, num_dims, generator=generator)).to(world.device, dtype)
        for _ in range(2)
    )
    return z1_ND.requires_grad_(), z2_ND.requires_grad_()


def measure(
    num_samples: int, num_dims: int, rounds: int, world: World, dtype: torch.dtype = torch.float32
) -> list[Result]:
    """Every contestant whose matrices fit into memory. All ranks call it together."""
    z1_ND, z2_ND = embeddings(num_samples, num_dims, world, dtype)
    # The official formulation holds C, its squares and their gradients at once.
    matrices = {"official": 5, "correlation": 2, "gram": 0, "gram_features": 0}
    free = broadcast_value(_free_bytes(world)) / world.size
    results = [Result(name) for name in CONTESTANTS if matrices[name] * 4 * num_dims**2 < free]
    for result in results:
        step = functools.partial(_step, CONTESTANTS[result.name], z1_ND, z2_ND)
        _warm_up_and_count(result, step, world)
    for _ in range(rounds):
        for result in results:
            barrier()
            begin_s = time.perf_counter()
            _step(CONTESTANTS[result.name], z1_ND, z2_ND)
            _finish(world)
            result.seconds.append(max(gather_values(time.perf_counter() - begin_s)))
    return results


def _step(loss: Loss, z1_ND: Tensor, z2_ND: Tensor) -> None:
    z1_ND.grad = z2_ND.grad = None
    with warnings.catch_warnings():  # of torch, about the official code's all-reduce inside autograd
        warnings.simplefilter("ignore")
        loss(z1_ND, z2_ND).backward()


def _warm_up_and_count(result: Result, step: Callable[[], None], world: World) -> None:
    with FlopCounterMode(display=False) as operations, counted() as traffic:
        step()
    result.operations = operations.get_total_flops()
    result.collectives, result.sent_bytes = traffic.calls, traffic.sent_bytes
    _finish(world)
    before = _reset_peak(world)
    step()
    _finish(world)
    result.peak_bytes = max(gather_values(_peak_bytes(world) - before))


def _finish(world: World) -> None:
    if world.device.type == "cuda":
        torch.cuda.synchronize()


def _reset_peak(world: World) -> int:
    """Forgets the peak of memory so far; the bytes in use now."""
    if world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)  # what glibc keeps for later is not in use
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): VmHWM becomes VmRSS
    return _proc_bytes("/proc/self/status", "VmRSS")


def _peak_bytes(world: World) -> int:
    if world.device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return _proc_bytes("/proc/self/status", "VmHWM")


def _free_bytes(world: World) -> int:
    if world.device.type == "cuda":
        return torch.cuda.mem_get_info()[0] * world.size
    return _proc_bytes("/proc/meminfo", "MemAvailable")


def _proc_bytes(path: str, name: str) -> int:
    lines = dict(line.split(":", 1) for line in Path(path).read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def table(num_samples: int, num_dims: int, size: int, results: list[Result], *, half: bool = False) -> str:
    """The results as Markdown; `size` is the number of ranks, `half` as in `choose_form`."""
    form, _ = choose_form(num_samples, num_dims, size, half=half)
    medians = {result.name: statistics.median(result.seconds) for result in results}
    lines = [
        f"N = {num_samples}, D = {num_dims}, W = {size}; auto is {form}",
        "",
        "| form | ms, median [min-max] | x faster | GFLOP a rank | peak MiB | collectives | MiB sent |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        times = [1e3 * seconds for seconds in result.seconds]
        middle, low, high = statistics.median(times), min(times), max(times)
        ratio = f"{medians['official'] / medians[result.name]:.2f}" if "official" in medians else "-"
        lines.append(
            f"| {result.name} | {middle:.1f} [{low:.1f}-{high:.1f}] | {ratio} | "
            f"{result.operations / 1e9:.3g} | {result.peak_bytes / 2**20:.0f} | {result.collectives} | "
            f"{result.sent_bytes / 2**20:.3g} |"
        )
    missing = [name for name in CONTESTANTS if name not in medians]
    if missing:
        lines += ["", f"Too large for this machine's memory: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """One table for each N and D."""
    parser = argparse.ArgumentParser(prog="python -m barlow.bench.loss", description=__doc__)
    parser.add_argument("--samples", default="256", help="samples of all ranks, as in 256,2048")
    parser.add_argument("--dims", default="1024,8192", help="dimensions of the embeddings")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each contestant")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--threads", type=int, default=0, help="of torch on a CPU, per rank; 0: torch's own")
    asked = parser.parse_args()
    samples, dims = ([int(number) for number in text.split(",")] for text in (asked.samples, asked.dims))
    run(samples, dims, asked.rounds, asked.dtype, asked.threads)


def run(samples: list[int], dims: list[int], rounds: int, dtype_name: str, threads: int) -> None:
    """Measures and prints one table for each N and D, as one rank of whoever started this process."""
    if threads:
        torch.set_num_threads(threads)
    dtype: torch.dtype = getattr(torch, dtype_name)
    with process_group() as world:
        for num_samples in samples:
            for num_dims in dims:
                results = measure(num_samples, num_dims, rounds, world, dtype)
                half = world.device.type == "cuda" and dtype.itemsize == 2
                if world.rank == 0:
                    print(table(num_samples, num_dims, world.size, results, half=half), flush=True)


if __name__ == "__main__":
    main()
