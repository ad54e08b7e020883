"""Here: a module whose gradients are means over the ranks: DistributedDataParallel as training wants it.

Not here: processes and collectives (distributed.py), micro-batches, which ranks hold which samples.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal, TypeVar

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from barlow.distributed import world_size

Compression = Literal["none", "bf16"]
# A layer of the usual projector has 268 MB of gradients and is a bucket of its own, whatever the size. So
# this is about the backbone's 94 MB, whose last bucket nothing hides: 25 MB are a tenth of a millisecond
# on NVLink and two on a 100 Gb/s network, and far above what a collective costs at the least.
BUCKET_MB: float = 25
_Module = TypeVar("_Module", bound=nn.Module)


def data_parallel(
    module: _Module, *, static: bool = False, compression: Compression = "none"
) -> _Module | DistributedDataParallel:
    """The module with gradients that are means over the ranks after backward; itself in a single process.

    Parameters and buffers are made equal once, here. Buffers are not sent again at every step: what this
    package keeps in them (batch-norm statistics) comes out the same on every rank.

    `static` promises that every forward pass is followed by one backward pass, through the same parameters
    each time: not for steps in micro-batches. `compression="bf16"` sends gradients rounded to bf16, which
    halves their bytes: each rank's share is rounded, and every sum of two.
    """
    if world_size() == 1:
        return module
    names = inspect.signature(DistributedDataParallel).parameters
    # torch 2.15 renamed the option and warns about its old name.
    option = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    options: dict[str, Any] = {
        option: False,
        "gradient_as_bucket_view": True,
        "static_graph": static,
        "bucket_cap_mb": BUCKET_MB,
    }
    parallel = DistributedDataParallel(module, **options)
    if compression == "bf16":
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

        parallel.register_comm_hook(None, bf16_compress_hook)
    return parallel
