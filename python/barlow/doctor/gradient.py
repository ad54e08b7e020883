"""Here: one learning step of W ranks against the same step of one process, in float64.

Not here: the loss by itself (loss.py), the optimizer's formula (optimizer.py).

The one process is made of nothing of ours but the initial weights: torch.nn.BatchNorm, one forward pass for
each view, the loss written out from equations 1 and 2 of the paper, autograd. Every rank computes it alone.
"""

from __future__ import annotations

import contextlib
from functools import partial

import torch
from torch import Tensor, nn

from barlow.config import ModelConfig
from barlow.distributed import World, gather_values
from barlow.doctor.finding import Finding, distance, over_ranks
from barlow.model import Twins, ViewBatchNorm, ViewBatchNorm1d, build_model
from barlow.model.parallel import data_parallel
from barlow.objectives import barlow_twins
from barlow.optim import LARS, parameter_groups
from barlow.train.accumulate import backward, split

_MODEL = ModelConfig(backbone="resnet10", stem="cifar", width=8, projector=(24, 24, 20))
_LAMBD = 0.02
_SIZE_PX = 16
_ROUNDING = 1e-10
"""float64 through 30 layers loses five of its sixteen digits at most."""
_KINDS = ("convolutions", "batch-norm scales", "batch-norm shifts", "linear layers")


def findings(world: World) -> list[Finding]:
    """Loss, gradients of every kind of parameter, batch-norm statistics, micro-batches, weights of a step."""
    rows = _rows(world.size)
    views = [view.to(world.device) for view in _views(sum(map(len, rows)))]
    twins = _twins().to(world.device)
    reference = _of_torch(_twins()).to(world.device)
    parallel = data_parallel(twins)
    z1_ND, z2_ND = parallel([view[rows[world.rank]] for view in views])
    loss = barlow_twins(z1_ND, z2_ND, _LAMBD)
    loss.backward()
    expected = _loss(*(reference.projector(reference.backbone(view)) for view in views))
    expected.backward()
    ranks = f"of {world.size} ranks" if world.size > 1 else "of this rank"
    found = [over_ranks(f"loss {ranks} = one process", distance(loss, expected), _ROUNDING)]
    ours, theirs = _gradients(twins), _gradients(reference)
    for kind in _KINDS:
        error, detail = distance(ours[kind], theirs[kind]), _relation(ours[kind], theirs[kind])
        found.append(over_ranks(f"gradient {ranks} = one process: {kind}", error, _ROUNDING, detail))
    error = distance(_statistics(twins), _statistics(reference))
    found.append(over_ranks(f"batch-norm statistics {ranks} = one process", error, _ROUNDING))
    found.append(_in_micro_batches(views, rows[world.rank]))
    if world.size > 1:
        found.append(_same_weights(twins))
    return found


def _in_micro_batches(views: list[Tensor], rows: list[int]) -> Finding:
    """All gradients, with the backbone's batch norm at rest, which would see only the micro-batch."""
    twins, reference = (network.to(views[0].device) for network in (_twins(), _of_torch(_twins())))
    for network in (twins, reference):
        network.backbone.eval()
    batches = [partial(list, part) for part in split([view[rows] for view in views], 2)]
    scaler = torch.amp.GradScaler(views[0].device.type, enabled=False)
    parallel, loss_of = data_parallel(twins), lambda z: barlow_twins(z[0], z[1], _LAMBD)
    backward(parallel, batches, loss_of, scaler, contextlib.nullcontext)
    _loss(*(reference.projector(reference.backbone(view)) for view in views)).backward()
    ours, theirs = (torch.cat(list(_gradients(network).values())) for network in (twins, reference))
    return over_ranks(
        "gradient in micro-batches = whole batch", distance(ours, theirs), _ROUNDING, _relation(ours, theirs)
    )


def _same_weights(twins: Twins) -> Finding:
    """Ranks that differ in one bit after one step drift apart later."""
    LARS(parameter_groups(twins), lr=0.5).step()
    state = torch.cat([tensor.double().flatten() for tensor in twins.state_dict().values()])
    bits = state.view(torch.int64)
    sums = gather_values(
        [int(bits.sum()), int((bits * torch.arange(1, len(bits) + 1, device=bits.device)).sum())]
    )
    different = [rank for rank, other in enumerate(sums) if other != sums[0]]
    detail = f"rank {', '.join(map(str, different))} has other weights than rank 0"
    return Finding(
        "weights of all ranks after a step, bit for bit", float("inf") if different else 0.0, 0.0, detail
    )


def _rows(world_size: int) -> list[list[int]]:
    """Samples of each rank: shuffled, and one more on every second rank than on the others."""
    sizes = [5 + rank % 2 for rank in range(world_size)]
    order = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(2))
    return [part.tolist() for part in order.split(sizes)]


def _views(num_samples: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    images, *noise = torch.randn(
        3, num_samples, 3, _SIZE_PX, _SIZE_PX, generator=generator, dtype=torch.float64
    )
    return [images + 0.5 * n for n in noise]


def _twins() -> Twins:
    twins = build_model(_MODEL, seed=3).double()
    generator = torch.Generator().manual_seed(4)
    for name, parameter in twins.named_parameters():
        if parameter.ndim == 1 and name.endswith(
            "weight"
        ):  # blocks that begin as the identity hide half of it
            parameter.data.copy_(torch.rand(parameter.shape, generator=generator, dtype=torch.float64) + 0.5)
    return twins


def _of_torch(twins: Twins) -> Twins:
    """The same with torch's own batch norms."""
    for module in list(twins.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, ViewBatchNorm):
                kind = nn.BatchNorm1d if isinstance(child, ViewBatchNorm1d) else nn.BatchNorm2d
                norm = kind(int(child.num_features)).double()
                norm.load_state_dict(child.state_dict())
                setattr(module, name, norm)
    return twins


def _loss(z1_ND: Tensor, z2_ND: Tensor) -> Tensor:
    x_ND, y_ND = ((z - z.mean(0)) / z.std(0, correction=0) for z in (z1_ND, z2_ND))
    c_DD = x_ND.T @ y_ND / len(x_ND)
    square_DD = (c_DD - torch.eye(len(c_DD), dtype=c_DD.dtype, device=c_DD.device)).square()
    return (1 - _LAMBD) * square_DD.trace() + _LAMBD * square_DD.sum()


def _gradients(twins: Twins) -> dict[str, Tensor]:
    """All gradients of each kind of parameter, in one vector."""
    parts: dict[str, list[Tensor]] = {kind: [] for kind in _KINDS}
    for name, parameter in twins.named_parameters():
        scale_or_shift = _KINDS[1] if name.endswith("weight") else _KINDS[2]
        kind = {4: _KINDS[0], 2: _KINDS[3]}.get(parameter.ndim, scale_or_shift)
        gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        parts[kind].append(gradient.flatten())
    return {kind: torch.cat(vectors) for kind, vectors in parts.items()}


def _relation(found: Tensor, expected: Tensor) -> str:
    """How a gradient lies to the true one: projection on it, and cosine."""
    factor = float(found @ expected / (expected @ expected))
    cosine = float(found @ expected / (found.norm() * expected.norm()))
    return f"{factor:.4f} times the true gradient along it, cosine {cosine:.6f}"


def _statistics(twins: Twins) -> Tensor:
    return torch.cat([buffer.double().flatten() for buffer in twins.buffers()])
