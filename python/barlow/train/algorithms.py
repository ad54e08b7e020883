"""Here: which algorithms torch's libraries may choose while a run trains: the fastest, or always the same;
and whether what compiles some of them is there.

Not here: number types (model/precision.py), the order of the data, which needs nothing to be repeatable.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import torch

from barlow.config import TrainConfig

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_FIXED = (":4096:8", ":16:8")
"""What cuBLAS promises the same bits for (its manual, "Results reproducibility"); the first is the faster."""


def check_workspace(*, deterministic: bool) -> None:
    """`ValueError` if the environment asks cuBLAS for what is not `deterministic`, and that is wanted."""
    found = os.environ.get(_WORKSPACE)
    if deterministic and found not in (None, *_FIXED):
        raise ValueError(
            f"--train.deterministic needs {_WORKSPACE} to be {' or '.join(_FIXED)} or unset, not {found}"
        )


def check_compiler(train: TrainConfig, device: torch.device) -> None:
    """`ValueError` if a part of training is to be compiled and the compiler behind torch's is not there.

    A C++ one for a CPU (torch/_inductor/config.py, `cpp.cxx`), a C one for a GPU (triton/runtime/build.py).
    """
    flags = {"--train.compile": train.compile, "--train.fused-lars": train.fused_lars}
    wanted = [flag for flag, is_set in flags.items() if is_set]
    variable, usual, package = ("CC", "gcc clang", "gcc") if device.type == "cuda" else ("CXX", "g++", "g++")
    named = os.environ.get(variable, usual).split()
    if wanted and not any(map(shutil.which, named)):
        raise ValueError(
            f"{' and '.join(wanted)}: no compiler ({' or '.join(named)}) is here: apt-get install {package}, "
            f"or name one in the environment's {variable}"
        )


@contextlib.contextmanager
def algorithms(device: torch.device, *, deterministic: bool) -> Iterator[None]:
    """Within it cuDNN tries which of its algorithms is fastest; or, with `deterministic`, nothing is used
    whose results vary from one execution to the next. Afterwards all is as it was.

    Enter it before the first product of matrices on a GPU: cuBLAS reads its setting once. Whatever has no
    deterministic form is torch's `RuntimeError`. `ValueError` as of `check_workspace`.
    """
    check_workspace(deterministic=deterministic)
    cudnn: Any = torch.backends.cudnn  # a module that is an object with properties
    modes: Any = torch.utils.deterministic
    before = cudnn.benchmark, torch.are_deterministic_algorithms_enabled(), modes.fill_uninitialized_memory
    warned, workspace = torch.is_deterministic_algorithms_warn_only_enabled(), os.environ.get(_WORKSPACE)
    try:
        if deterministic:
            os.environ.setdefault(_WORKSPACE, _FIXED[0])
            cudnn.benchmark = False
            torch.use_deterministic_algorithms(True)
            modes.fill_uninitialized_memory = False  # a help to find bugs, at the price of writing all twice
        elif device.type == "cuda":
            cudnn.benchmark = True  # sizes never change: trying once pays for itself within a minute
        yield
    finally:
        cudnn.benchmark, enabled, modes.fill_uninitialized_memory = before
        torch.use_deterministic_algorithms(enabled, warn_only=warned)
        if workspace is None:
            os.environ.pop(_WORKSPACE, None)
