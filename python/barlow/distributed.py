"""Here: who takes part in a run (rank, size, device), joining and leaving, and the collectives of the rest.

Not here: starting processes, anything about models or data. The only file beside the launcher that reads the
environment.

Every collective is a no-op in a single process, so nothing above this floor asks whether it is distributed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import TCPStore, rendezvous  # pyright: ignore[reportPrivateImportUsage]

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class World:
    """This process's place in the run; `local_rank` counts within the machine."""

    rank: int
    size: int
    local_rank: int
    device: torch.device


@contextlib.contextmanager
def process_group(device: Device = "auto", timeout_s: float = 1800.0) -> Iterator[World]:
    """Joins the run that torchrun or SLURM describes in the environment, and leaves it at the end.

    Without either the world is this process and no group is made. `device="auto"` takes NCCL if every rank
    has a GPU of its own and gloo on CPUs otherwise; `timeout_s` bounds every collective, so that the death of
    one rank ends the others. Raises `ValueError` for an incomplete environment and `RuntimeError` when the
    ranks can't meet or `device="cuda"` can't be had.
    """
    place = _torchrun() or _slurm()
    if place is None or place.size == 1:
        world = World(0, 1, 0, _lone_device(device))
        if world.device.type == "cuda":
            torch.cuda.set_device(world.device)
        yield world
        return
    world = _join(place, device, timeout_s)
    try:
        yield world
    except BaseException:
        # The others may wait in a collective that this rank will never enter: NCCL's orderly shutdown
        # would wait for it too, so pull the plug. Closing gloo's sockets already fails its peers.
        if world.device.type == "cuda":
            dist.distributed_c10d._abort_process_group()
        else:
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


@dataclass(frozen=True)
class _Place:
    rank: int
    size: int
    local_rank: int
    url: str


def _torchrun() -> _Place | None:
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        return None
    rank, size, local_rank = (_integer(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if not 0 <= rank < size:
        raise ValueError(f"RANK={rank} is not below WORLD_SIZE={size}")
    return _Place(rank, size, local_rank, "env://")


def _slurm() -> _Place | None:
    # SLURM_NTASKS is also set in a batch script's own shell, where only one process runs;
    # the number of tasks of the *step* is there only when srun started this process.
    if "SLURM_STEP_NUM_TASKS" not in os.environ:
        return None
    names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_JOB_ID")
    rank, size, local_rank, job = (_integer(name) for name in names)
    if size == 1:
        return None
    host = os.environ.get("MASTER_ADDR") or first_host(os.environ.get("SLURM_STEP_NODELIST", ""))
    # Jobs that share a node need different ports; below 32768 no outgoing connection takes it by chance.
    port = os.environ.get("MASTER_PORT") or str(12288 + job % 16384)
    return _Place(rank, size, local_rank, f"tcp://{host}:{port}")


def first_host(nodelist: str) -> str:
    """The first host of a SLURM node list: "gpu[07-09,12],n3" -> "gpu07"."""
    match = re.match(r"([^\[\],]+)(?:\[(\w+)[^\]]*\]([^\[\],]*))?", nodelist)
    if match is None:
        raise ValueError(f"can't read a host from SLURM_STEP_NODELIST={nodelist!r}")
    return "".join(part or "" for part in match.groups())


def _integer(name: str) -> int:
    text = os.environ.get(name)
    if text is None:
        raise ValueError(f"the environment describes a distributed run but lacks {name}")
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{name}={text!r} in the environment is not an integer") from None


def _join(place: _Place, device: Device, timeout_s: float) -> World:
    timeout = timedelta(seconds=timeout_s)
    try:
        store, _, _ = next(rendezvous(place.url, place.rank, place.size, timeout=timeout))
        store.set_timeout(timeout)
        # torchrun's static rendezvous has one store for all attempts, with the addresses of the dead in it.
        store = PrefixStore(f"barlow/{store.add(f'barlow/joined/{place.rank}', 1)}", store)
        # All ranks decide on the backend together: one that chose differently would hang the rest.
        mine = _own_gpu(place.local_rank)
        store.set(f"gpu/{place.rank}", json.dumps([socket.gethostname(), *mine] if mine else None))
        gpus = [json.loads(store.get(f"gpu/{rank}")) for rank in range(place.size)]
    except (RuntimeError, OSError) as error:
        raise RuntimeError(
            f"rank {place.rank} of {place.size} did not meet the others at {_address(place)}: {error}"
        ) from error
    on_gpu = _use_cuda(gpus, device)
    own = torch.device("cuda", mine[0]) if on_gpu and mine else torch.device("cpu")
    world = World(place.rank, place.size, place.local_rank, own)
    if on_gpu:
        torch.cuda.set_device(own)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", store=store, rank=world.rank, world_size=world.size, timeout=timeout,
        device_id=own if on_gpu else None,
    )  # fmt: skip
    return world


def own_store(prefix: str) -> Store:
    """A new connection to the store at which the ranks met: in the run's one, who waits keeps others out."""
    met = dist.distributed_c10d._get_default_store()
    while isinstance(met, PrefixStore):
        met = met.underlying_store
    assert isinstance(met, TCPStore)  # what torchrun and `_join` make
    return PrefixStore(prefix, TCPStore(met.host, met.port, is_master=False))


def _address(place: _Place) -> str:
    if place.url != "env://":
        return place.url
    return f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"


def _own_gpu(local_rank: int) -> tuple[int, str] | None:
    """Index and UUID of the GPU that this rank would use; a scheduler may show each rank only its own."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0 or (local_rank >= count and count > 1):
        return None
    index = local_rank if local_rank < count else 0
    return index, str(torch.cuda.get_device_properties(index).uuid)


def _use_cuda(gpus: list[list[Any] | None], device: Device) -> bool:
    """Whether to use GPUs, given [host, index, uuid] or None of every rank; the same answer on all."""
    if device == "cpu":
        return False
    owners: dict[tuple[str, str], int] = {}
    without = []
    for rank, gpu in enumerate(gpus):
        if gpu is None or owners.setdefault((gpu[0], gpu[2]), rank) != rank:
            without.append(rank)
    if not without:
        return True
    reason = f"rank {', '.join(map(str, without))} of {len(gpus)} has no GPU of its own"
    if device == "cuda":
        raise RuntimeError(reason)
    if len(without) < len(gpus):
        warnings.warn(f"{reason}: every rank uses the CPU", stacklevel=4)
    return False


def _lone_device(device: Device) -> torch.device:
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("this process has no GPU")
    return torch.device("cuda", 0) if device != "cpu" and torch.cuda.is_available() else torch.device("cpu")


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """Processes of the group (default: all); 1 where none was made."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def rank_in(group: dist.ProcessGroup | None = None) -> int:
    """This process's place in the group (default: all); 0 where none was made."""
    return dist.get_rank(group) if dist.is_available() and dist.is_initialized() else 0


_timed: Callable[[], contextlib.AbstractContextManager[None]] | None = None


@contextlib.contextmanager
def collectives_timed(around: Callable[[], contextlib.AbstractContextManager[None]]) -> Iterator[None]:
    """Inside, on all threads, every collective of tensors below that talks to other ranks runs in `around()`.

    Not those of DistributedDataParallel, nor those that a compiler has taken into its graphs.
    """
    global _timed
    before, _timed = _timed, around
    try:
        yield
    finally:
        _timed = before


def _timing() -> contextlib.AbstractContextManager[None]:
    # A compiler must not look at the variable: it would compile anew whenever that changes.
    if torch.compiler.is_compiling() or _timed is None:
        return contextlib.nullcontext()
    return _timed()


def all_reduce_(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Sums x over the ranks, in place and without gradient; returns x, which is the same on every rank."""
    if world_size(group) > 1:
        with _timing():
            dist.all_reduce(x, group=group)
    return x


def all_gather(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """[W, *x.shape]: x of every rank in rank order, without gradient."""
    size = world_size(group)
    if size == 1:
        return x.detach()[None]
    out = x.new_empty((size, *x.shape))
    with _timing():
        dist.all_gather_into_tensor(out.view(-1), x.detach().contiguous().view(-1), group=group)
    return out


def all_to_all(
    x: Tensor, send: list[int], receive: list[int], group: dist.ProcessGroup | None = None
) -> Tensor:
    """What the ranks sent to this one, in rank order, without gradient.

    `x` is flat: `send[r]` elements for rank r, one rank after the other; `receive[r]` come from it.
    """
    if world_size(group) == 1:
        return x.detach()
    out = x.new_empty(sum(receive))
    with _timing():
        dist.all_to_all_single(out, x.detach(), receive, send, group=group)
    return out


def all_reduce(x: Tensor, group: dist.ProcessGroup | None = None, *, alike: bool = False) -> Tensor:
    """The sum of x over the ranks, with its gradient.

    Its backward sums the gradient over the ranks. So if every rank goes on to compute the same loss L, the
    gradient is that of the sum of the W losses, W dL, and the mean over ranks that DistributedDataParallel
    takes gives dL: the convention of everything in this package. `alike` promises that all ranks do the same
    with the sum, as with a statistic of the batch that the loss is a function of. Then the gradients on the
    ranks are equal already, and backward multiplies by W where it would need a collective.
    """
    return x if world_size(group) == 1 else _AllReduce.apply(x, group, alike)  # pyright: ignore[reportReturnType]


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup | None, alike: bool) -> Tensor:
        ctx.group, ctx.alike = group, alike
        return all_reduce_(x.clone(memory_format=torch.contiguous_format), group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if ctx.alike:
            return grad * world_size(ctx.group), None, None
        return all_reduce_(grad.clone(memory_format=torch.contiguous_format), ctx.group), None, None


class LateMax:
    """The largest `value()` of any rank, as of one moment and known at a later one: nobody waits in between.

    A context manager; every rank enters it, and calls `ask` and `answer` in turn. The numbers (64 bits) go
    over a gloo group of their own, whatever the run's backend is: so no host waits for its device, and the
    order of the run's own collectives stays as it is. A single process always answers with its latest value.
    """

    def __init__(self, value: Callable[[], int]) -> None:
        self._value = value
        self._group: dist.ProcessGroup | None = None
        self._largest = torch.zeros(1, dtype=torch.int64)
        self._asked: dist.Work | None = None

    def __enter__(self) -> LateMax:
        if world_size() > 1:
            group = dist.new_group(backend="gloo")
            assert isinstance(group, dist.ProcessGroup)  # of which every rank is a member
            self._group = group
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._group is not None:
            dist.destroy_process_group(self._group)

    def ask(self) -> None:
        """Sends this rank's value off; returns at once."""
        if self._group is not None:
            self._largest.fill_(self._value())
            self._asked = dist.all_reduce(self._largest, dist.ReduceOp.MAX, self._group, async_op=True)

    def answer(self) -> int:
        """The largest of the values at the last `ask`, the same on every rank; waits until each has asked."""
        if self._asked is None:
            return self._value()
        self._asked.wait()
        return int(self._largest.item())


def merge_moments(count_R: Tensor, mean_RX: Tensor, m2_RX: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count [], mean and M2 [X...] of the union of R sets of samples (Chan et al., 1979).

    M2 is the sum of squared distances from the mean. Working with distances and never with sums of squares
    keeps the variance where the mean is far larger than the deviation.
    """
    count = count_R.sum()
    weight_RX = (count_R / count).view(-1, *[1] * (mean_RX.dim() - 1))
    # Relative to the first set's mean, so that sets with equal means give exactly that mean.
    mean = mean_RX[0] + (weight_RX * (mean_RX - mean_RX[0])).sum(0)
    m2 = m2_RX.sum(0) + count * (weight_RX * (mean_RX - mean).square()).sum(0)
    return count, mean, m2


def all_moments(
    count: int, mean: Tensor, m2: Tensor, group: dist.ProcessGroup | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """`merge_moments` over the ranks of a group with `count` samples on this one: a single all-gather."""
    packed = torch.cat([mean.new_full((1,), count), mean.flatten(), m2.flatten()])
    packed_R = all_gather(packed, group)
    mean_R, m2_R = packed_R[:, 1:].unflatten(1, (2, *mean.shape)).unbind(1)
    return merge_moments(packed_R[:, 0], mean_R, m2_R)


def gather_values(value: Any) -> list[Any]:
    """The value of every rank in rank order; anything that JSON carries."""
    size = world_size()
    if size == 1:
        return [json.loads(json.dumps(value))]
    data = json.dumps(value).encode()
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else "cpu"
    lengths = all_gather(torch.tensor(len(data), device=device)).tolist()
    padded = torch.zeros(max(lengths), dtype=torch.uint8, device=device)
    padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    rows = all_gather(padded).cpu()
    return [json.loads(bytes(row[:length].tolist())) for row, length in zip(rows, lengths, strict=True)]


def broadcast_value(value: Any, source: int = 0) -> Any:
    """Rank `source`'s value on every rank; for small things, since all ranks send theirs."""
    return gather_values(value)[source]


def agree(facts: Mapping[str, Any]) -> None:
    """Raises `ValueError` on every rank, naming entries and ranks, unless all have the first rank's values.

    The values are anything that JSON carries; an entry that a rank lacks is None there.
    """
    by_rank = gather_values(dict(facts))
    first, told = by_rank[0], []
    for name in sorted({name for each in by_rank for name in each}):
        # As text: NaN is no value of its own, and which numbers can work is judged elsewhere.
        others = [rank for rank, each in enumerate(by_rank) if repr(each.get(name)) != repr(first.get(name))]
        if others:
            shown = ", ".join(f"{by_rank[rank].get(name)} on rank {rank}" for rank in others[:4])
            more = f" (and on {len(others) - 4} more)" if len(others) > 4 else ""
            told.append(f"{name} is {shown}{more} and {first.get(name)} on rank 0")
    if told:
        raise ValueError(f"the ranks disagree: {'; '.join(told)}")


def barrier() -> None:
    """Returns once every rank has called it."""
    if world_size() > 1:
        gather_values(None)
