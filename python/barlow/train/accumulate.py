"""Here: forward and backward of one step, of the whole batch at once or a micro-batch at a time.

Not here: the optimizer, the schedule, what the loss is, how many micro-batches there are (validation.py).

The loss couples all samples, so a mean of micro-batches' gradients is the gradient of something else. What
takes the memory is the backbone, and it works on each image alone (but for batch norm, below). So:

1. The backbone runs over the micro-batches without gradient; only the representations [n, F] are kept.
2. Projector and loss run on all n of them and give the gradient of the loss by each representation.
3. The backbone runs over each micro-batch again, now with gradient, and takes those gradients in.

That is the gradient of the whole batch (GradCache: Gao et al., 2021, there for contrastive losses) for one
more forward pass of the backbone: 4/3 of its work, a backward pass being twice a forward pass.

Both runs over a micro-batch compute the same: dropout and the like draw the same random numbers, and batch
norm in the backbone normalises by the same samples, those of the micro-batch on all ranks, per view ("ghost"
batch norm); the projector's sees the whole batch. Running statistics advance after the first run only, once
per view in the order of the views, by the statistics of all its micro-batches together. Each gradient is
averaged over the ranks once, in the last micro-batch's backward pass, the projector's included.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from barlow.model import Twins, ViewBatchNorm
from barlow.model.batchnorm import no_advance_of, one_advance_of

Batch = Callable[[], list[Tensor]]
"""Makes the views of a micro-batch, each [m, 3, H, W] float; called twice, the same each time."""


def split(views: Sequence[Tensor], num_parts: int) -> list[list[Tensor]]:
    """Each view's rows in `num_parts` parts in order whose sizes differ by one at most, the larger first."""
    return [list(part) for part in zip(*(view.tensor_split(num_parts) for view in views), strict=True)]


def backward(
    model: Twins | DistributedDataParallel,
    batches: Sequence[Batch],
    loss_of: Callable[[list[Tensor]], Tensor],
    scaler: torch.amp.GradScaler,
    autocast: Callable[[], contextlib.AbstractContextManager[object]],
) -> tuple[Tensor, list[Tensor]]:
    """Adds the gradient of `loss_of(embeddings)` to every parameter; the loss and the embeddings.

    The embeddings of all batches, each view's [n, D], go to `loss_of` at once; it may have parameters of its
    own. Everything runs under `autocast()`, and gradients are multiplied by the scaler's factor. On several
    ranks every one must have the same number of batches; the gradients of a DistributedDataParallel model
    come out as means over the ranks. The model's parameters must not have gradients before. An exception of
    `loss_of` passes through before any parameter has got one. `ValueError` for several batches and a backbone
    with batch norms in training that are not ours: their statistics would advance in both runs.
    """
    if len(batches) > 1:
        return _accumulated(model, batches, loss_of, scaler, autocast)
    with autocast():
        embeddings = model(batches[0]())
        loss = loss_of(embeddings)
    scaler.scale(loss).backward()
    return loss, embeddings


def _accumulated(
    model: Twins | DistributedDataParallel,
    batches: Sequence[Batch],
    loss_of: Callable[[list[Tensor]], Tensor],
    scaler: torch.amp.GradScaler,
    autocast: Callable[[], contextlib.AbstractContextManager[object]],
) -> tuple[Tensor, list[Tensor]]:
    twins = model.module if isinstance(model, DistributedDataParallel) else model
    assert isinstance(twins, Twins)
    _check_norms(twins.backbone)
    random_states: list[list[Tensor]] = []
    parts: list[list[Tensor]] = []
    with torch.no_grad(), one_advance_of(twins.backbone):
        for batch in batches:
            random_states.append(_random_state(twins))
            # One for each: autocast keeps the weights it has cast until it ends, and not every version of
            # torch casts those that were cast without gradient again.
            with autocast():
                parts.append(twins.represent(batch()))
    representations = [torch.cat(view).requires_grad_() for view in zip(*parts, strict=True)]
    sizes = [len(part[0]) for part in parts]
    del parts
    with autocast():
        embeddings = twins.project(representations)
        loss = loss_of(embeddings)
    # Outside of the parallel model's forward pass: it takes no notice of the gradients that it will need.
    scaler.scale(loss).backward()
    by_view = [_gradient(h_NF).split(sizes) for h_NF in representations]
    with no_advance_of(twins.backbone):
        for number, (batch, state) in enumerate(zip(batches, random_states, strict=True)):
            last = number == len(batches) - 1
            with contextlib.nullcontext() if last else _unreduced(model):
                with _random_state_of(twins, state), autocast():
                    outputs = model(batch(), project=False)
                inputs = [view[number] for view in by_view]
                if last:
                    others = _others(model, twins.backbone)
                    outputs, inputs = [*outputs, *others], [*inputs, *map(torch.zeros_like, others)]
                torch.autograd.backward(outputs, inputs)
    return loss, embeddings


def _check_norms(backbone: nn.Module) -> None:
    for name, module in backbone.named_modules():
        theirs = isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, ViewBatchNorm)
        if theirs and module.training:
            kind = type(module).__name__
            raise ValueError(f"micro-batches need barlow.model.ViewBatchNorm; backbone.{name} is a {kind}")


def _gradient(x: Tensor) -> Tensor:
    """A representation's; zero if the loss took no notice of it."""
    return torch.zeros_like(x) if x.grad is None else x.grad


def _others(model: nn.Module, backbone: nn.Module) -> list[nn.Parameter]:
    """What a parallel model must hear of in its reducing backward pass, beside the backbone's parameters."""
    if not isinstance(model, DistributedDataParallel):
        return []
    of_backbone = set(backbone.parameters())
    return [p for p in model.parameters() if p.requires_grad and p not in of_backbone]


def _unreduced(model: nn.Module) -> contextlib.AbstractContextManager[object]:
    return model.no_sync() if isinstance(model, DistributedDataParallel) else contextlib.nullcontext()


def _gpus(twins: Twins) -> list[torch.device]:
    return sorted({p.device for p in twins.parameters() if p.is_cuda}, key=str)


def _random_state(twins: Twins) -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(gpu) for gpu in _gpus(twins))]


@contextlib.contextmanager
def _random_state_of(twins: Twins, states: list[Tensor]) -> Iterator[None]:
    """Inside, random numbers follow on `states`; afterwards on what they followed before."""
    gpus = _gpus(twins)
    with torch.random.fork_rng(devices=gpus):
        torch.set_rng_state(states[0])
        for gpu, state in zip(gpus, states[1:], strict=True):
            torch.cuda.set_rng_state(state, gpu)
        yield
