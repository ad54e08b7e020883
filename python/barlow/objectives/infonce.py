"""Here: InfoNCE between the two views, with which section 5 of the Barlow Twins paper compares its own loss.

Not here: SimCLR's NT-Xent (simclr.py), whose arithmetic this shares.
"""

from __future__ import annotations

from torch import Tensor

from barlow.objectives.global_batch import Group
from barlow.objectives.simclr import Counts, contrast


def infonce(
    z1_ND: Tensor, z2_ND: Tensor, temperature: float = 0.1, *, group: Group = None, counts: Counts = None
) -> Tensor:
    """The mean over samples b of -s_bb / t + log sum_{b' != b} exp(s_bb' / t), a scalar on every rank.

    s_bb' is the cosine between view 1 of b and view 2 of b'. Section 5 of the Barlow Twins paper, which takes
    the sum and not the mean: only the other view's samples contrast, and the positive pair not with itself.
    At least 2 samples in all. Everything else as in `simclr`.
    """
    return contrast(z1_ND, z2_ND, temperature, both_views=False, group=group, counts=counts)
