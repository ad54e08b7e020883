"""Here: which number type the network runs in, for a setting and a device.

Not here: the objective and batch-norm statistics, which are never below float32.
"""

from __future__ import annotations

import contextlib

import torch


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of autocast for `--train.precision` on `device`; float32 means none.

    "auto" is bf16 wherever it is the faster one: on GPUs that have it and on CPUs with matrix units for it
    (Intel AMX: twice the rate of float32 in a ResNet's training step); else fp16 on a GPU and float32 on a
    CPU, where bf16 would be emulated. `ValueError` for fp16 on a CPU.
    """
    if precision == "auto":
        if device.type == "cpu":
            return torch.bfloat16 if _cpu_has("amx_bf16") else torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("--train.precision fp16 needs a GPU; on a CPU there are fp32 and bf16")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """Autocast to `dtype` on `device`; nothing for float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def _cpu_has(feature: str) -> bool:
    # Older torch has no get_capabilities: then the safe answer.
    capabilities = getattr(torch.cpu, "get_capabilities", dict)
    return bool(capabilities().get(feature, False))
