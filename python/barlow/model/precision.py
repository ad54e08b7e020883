"""Here: which number type the network runs in, for a setting and a device.

Not here: the objective and batch-norm statistics, which are never below float32.
"""

from __future__ import annotations

import contextlib

import torch

from barlow.config import ModelConfig


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


def training_dtype(precision: str, device: torch.device, model: ModelConfig, image_size: int) -> torch.dtype:
    """`autocast_dtype` for training `model` on views of `image_size` pixels a side; `ValueError` as there.

    On CPUs bf16 is not to be had where a convolution of stride 2 and more than one pixel reads a single one:
    oneDNN, as torch 2.15 has it, then makes up the weights' gradient (off by factors of 1e5 and more with
    AMX). "auto" takes float32 there; asked for, it is a `ValueError`.
    """
    dtype = autocast_dtype(precision, device)
    if device.type != "cpu" or dtype != torch.bfloat16 or image_size > _last_single_pixel(model):
        return dtype
    if precision == "auto":
        return torch.float32
    raise ValueError(
        f"--train.precision bf16: for views of {image_size} pixels a CPU gets wrong gradients from torch "
        f"(one pixel is left for a 3x3 convolution of stride 2); take fp32, or --data.image-size of more "
        f"than {_last_single_pixel(model)}"
    )


def _last_single_pixel(model: ModelConfig) -> int:
    """The largest side of an image of which the fourth stage of a ResNet gets one pixel."""
    halvings = 4 if model.stem == "imagenet" else 2  # stem, pool, stages two and three; or these two alone
    return 2**halvings


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """Autocast to `dtype` on `device`; nothing for float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def _cpu_has(feature: str) -> bool:
    # Older torch has no get_capabilities: then the safe answer.
    capabilities = getattr(torch.cpu, "get_capabilities", dict)
    return bool(capabilities().get(feature, False))
