"""Here: how many operations a step takes by the model's formulas, and how many a GPU could do at most.

Not here: measuring time (throughput.py).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from barlow.config import Config
from barlow.model import build_model
from barlow.objectives import Form
from barlow.objectives.forms import operations

_TERA = 1e12
PEAKS: tuple[tuple[str, float, float], ...] = (
    ("B200", 2250, 1125),
    ("H200", 989.4, 494.7),
    ("H100 PCIe", 756, 378),
    ("H100 NVL", 835, 417.5),
    ("H100", 989.4, 494.7),
    ("A100", 312, 156),
    ("A10G", 70, 35),
    ("A10", 125, 62.5),
    ("A30", 165, 82.5),
    ("A40", 149.7, 74.8),
    ("L40S", 362, 183),
    ("L4", 121, 60),
    ("V100", 125, 0),
    ("T4", 65, 0),
)
"""Part of a GPU's name, and teraFLOP per second of its matrix units without sparsity: in half precision, and
in TF32 (0: it has none). From NVIDIA's data sheets; the first that fits counts."""


def peak_flops(device_name: str, dtype: torch.dtype) -> float | None:
    """FLOP per second of a GPU for autocast to `dtype`; float32 is TF32, as torch convolves. Or None."""
    words = device_name.replace("-", " ").split()
    for name, half, tf32 in PEAKS:
        if all(word in words for word in name.split()):
            peak = tf32 if dtype == torch.float32 else half
            return peak * _TERA or None
    return None


def step_flops(config: Config, world_size: int, form: Form) -> float:
    """Additions and multiplications of one step on one rank: two views of its images forward and backward,
    and the matrix products of a Barlow Twins loss; other objectives count without their loss.

    What micro-batches compute twice counts once: utilisation is about what a step is good for.
    """
    images = config.optim.batch_size / world_size
    loss = 0.0
    if config.objective.name == "barlow_twins":
        loss = operations(form, config.optim.batch_size, config.model.projector[-1], world_size)
    return 2 * images * _flops_of_a_view(config) + loss


def _flops_of_a_view(config: Config) -> float:
    """Forward and backward, counted on tensors without memory. In evaluation mode, where a batch may be one
    image: a layer's operations are the same."""
    with torch.device("meta"):
        twins = build_model(config.model, 0).eval()
        image = torch.empty(1, 3, config.data.image_size, config.data.image_size)
    with FlopCounterMode(display=False) as counter:
        (z_ND,) = twins([image])
        torch.autograd.grad(z_ND.sum(), _trained(twins))
    return counter.get_total_flops()


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]
