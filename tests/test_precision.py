"""bf16 where a CPU's kernels get gradients wrong: the fault, where a ResNet meets it, the refusal."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.grad import conv2d_weight

from barlow.config import ModelConfig
from barlow.model.backbone import build_backbone
from barlow.model.precision import autocast_dtype, training_dtype

CPU = torch.device("cpu")
NARROW = ModelConfig(backbone="resnet10", width=8, projector=(8,))
STEMS = [("imagenet", 16), ("cifar", 4)]
"""And the largest image of which one pixel reaches a convolution of stride 2."""


def pixels_into_strided_convolutions(model: ModelConfig, image_size: int) -> list[int]:
    """The sides of what goes into every convolution that has a stride and looks at several pixels."""
    sides: list[int] = []
    backbone = build_backbone(model).eval()
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d) and module.stride[0] > 1 and module.kernel_size[0] > 1:
            module.register_forward_pre_hook(lambda _, inputs: sides.append(inputs[0].shape[-1]))
    backbone(torch.zeros(1, 3, image_size, image_size))
    return sides


@pytest.mark.parametrize(("stem", "last"), STEMS)
def test_the_sizes_that_are_refused_are_those_that_leave_one_pixel(stem: str, last: int) -> None:
    model = replace(NARROW, stem=stem)
    assert min(pixels_into_strided_convolutions(model, last)) == 1
    assert min(pixels_into_strided_convolutions(model, last + 1)) == 2
    for size in (1, last):
        assert training_dtype("auto", CPU, model, size) == torch.float32
        with pytest.raises(ValueError, match=f"--data.image-size of more than {last}$"):
            training_dtype("bf16", CPU, model, size)
        assert training_dtype("fp32", CPU, model, size) == torch.float32
    assert training_dtype("bf16", CPU, model, last + 1) == torch.bfloat16
    assert training_dtype("auto", CPU, model, last + 1) == autocast_dtype("auto", CPU)


def error(channels: int, side: int, *, last: bool) -> float:
    """Of the gradient of a 3x3 convolution's weights with stride 2 in bf16, relative."""
    layout = torch.channels_last if last else torch.contiguous_format
    generator = torch.Generator().manual_seed(channels)
    weight = (torch.randn(channels, channels, 3, 3, generator=generator) * 0.1).to(memory_format=layout)
    x = torch.randn(8, channels, side, side, generator=generator).contiguous(memory_format=layout)
    dy = torch.randn(8, channels, (side + 1) // 2, (side + 1) // 2, generator=generator)
    exact, half = (
        conv2d_weight(x.to(dtype), list(weight.shape), dy.to(dtype), stride=2, padding=1).float()
        for dtype in (torch.float32, torch.bfloat16)
    )
    return float((half - exact).norm() / exact.norm())


@pytest.mark.skipif(not torch.cpu.get_capabilities().get("amx_bf16"), reason="needs a CPU with AMX")
@pytest.mark.skipif(not torch.__version__.startswith("2.15"), reason="other torch has another oneDNN")
def test_the_fault_is_there_where_it_is_refused_and_not_above() -> None:
    """When this fails with a newer torch, the refusal can go."""
    cases = [(channels, last) for channels in (8, 64, 256) for last in (False, True)]
    assert not max(error(channels, 1, last=last) for channels, last in cases) < 10
    assert max(error(channels, 2, last=last) for channels, last in cases) < 0.05
