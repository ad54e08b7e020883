"""Here: BYOL (Grill et al., NeurIPS 2020, arXiv 2006.07733): loss, momentum of the target, its update.

Not here: the predictor (`barlow.model.build_predictor`), the making of the target network.
"""

# torch._foreach_* are what torch.optim itself is made of; they are private in name only.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from barlow.objectives.global_batch import Group, batch_cosine, embeddings, full_precision


def byol(z1_ND: Tensor, z2_ND: Tensor, p1_ND: Tensor, p2_ND: Tensor, *, group: Group = None) -> Tensor:
    """|p1 - z2|^2 + |p2 - z1|^2 of rows of length 1, mean over the samples of all ranks, on every rank.

    `z1_ND`, `z2_ND` are the target network's projections of this rank's two views, `p1_ND`, `p2_ND` the
    predictions of the online network, all [n, D] floating point; n may differ between ranks. Equation 2 of
    the paper and its mirror image, in [0, 8]. No gradient flows into the targets. Computed in float32
    (float64 for float64); backward gives W times the gradient of the global batch at this rank's rows.
    """
    z1_ND, z2_ND, p1_ND, p2_ND = embeddings(z1_ND.detach(), z2_ND.detach(), p1_ND, p2_ND)
    with full_precision(z1_ND):
        return 4 - 2 * (batch_cosine(p1_ND, z2_ND, group) + batch_cosine(p2_ND, z1_ND, group))


def target_momentum(step: int, num_steps: int, base: float = 0.996) -> float:
    """The share of the target that stays at step 0 <= step <= num_steps: `base` at the start, 1 at the end.

    1 - (1 - base) * (cos(pi * step / num_steps) + 1) / 2 (the paper's section on optimization). 0.996 is for
    1000 epochs; google-deepmind/deepmind-research (byol/configs/byol.py) has 0.99 for 100 and 300 epochs,
    0.97 for 40.
    """
    if not (0 <= step <= num_steps and num_steps > 0 and 0 <= base <= 1):
        raise ValueError(f"no momentum at step {step} of {num_steps} from a base of {base}")
    return 1 - (1 - base) * (math.cos(math.pi * step / num_steps) + 1) / 2


@torch.no_grad()
def advance_target_(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """target = momentum * target + (1 - momentum) * online for every parameter, in place.

    Buffers stay: the target's running statistics are those of its own passes. `ValueError` if the two modules
    don't have the same parameters.
    """
    theirs, ours = dict(target.named_parameters()), dict(online.named_parameters())
    if {name: p.shape for name, p in theirs.items()} != {name: p.shape for name, p in ours.items()}:
        raise ValueError("target and online network differ in their parameters")
    torch._foreach_lerp_(list(theirs.values()), [ours[name] for name in theirs], 1 - momentum)
