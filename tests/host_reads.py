"""What a step may not do if a GPU is to be kept busy: make the host look at a value on the device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import Self

READS = (
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim",
    "unique_consecutive", "bincount", "repeat_interleave",
)  # fmt: skip
"""Operators whose result, or the shape of it, is known only when the device has got so far."""


METHODS = ("tolist", "numpy", "cpu")
"""What reads whole tensors; of one on a CPU without calling an operator."""


class HostReads(TorchDispatchMode):
    """Counts them inside, indexing by masks, and tensors that are made from numbers of the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.operators = 0
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Self:
        for name in METHODS:
            self._patch.setattr(torch.Tensor, name, self._counted(name, getattr(torch.Tensor, name)))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patch.undo()

    def _counted(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            self.found[name] += 1
            return method(*arguments, **keywords)

        return call

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        self.operators += 1
        by_mask = name in ("index", "index_put_") and any(
            isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        if name in READS or by_mask or name == "lift_fresh":
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


class Crossings(TorchDispatchMode):
    """Lists the copies from one kind of device to another inside, and reads of values."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        target = (kwargs or {}).get("device")
        if func is torch.ops.aten.copy_.default:
            target, source = args[0].device, args[1].device
        else:
            source = args[0].device if args and isinstance(args[0], Tensor) else None
        if source is not None and target is not None and torch.device(target).type != source.type:
            self.found.append(f"{func}: {source} to {target}")
        if func._schema.name.removeprefix("aten::") in READS:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))
