"""Here: SimSiam (Chen, He, CVPR 2021, arXiv 2011.10566): cosine to a target without gradient.

Not here: the predictor (`barlow.model.build_predictor`), batch norm after the projector's last layer.
"""

from __future__ import annotations

from torch import Tensor

from barlow.objectives.global_batch import Group, batch_cosine, embeddings, full_precision


def simsiam(z1_ND: Tensor, z2_ND: Tensor, p1_ND: Tensor, p2_ND: Tensor, *, group: Group = None) -> Tensor:
    """-(cos(p1, z2) + cos(p2, z1)) / 2, the mean over the samples of all ranks, in [-1, 1], on every rank.

    `z1_ND`, `z2_ND` are this rank's projections of the two views and `p1_ND`, `p2_ND` the predictor's outputs
    for them, all [n, D] floating point; n may differ between ranks. No gradient flows into the projections
    here, it reaches them through the predictions (algorithm 1). Computed in float32 (float64 for float64);
    backward gives W times the gradient of the global batch at this rank's rows.

    The method also has batch norm without scale and offset at the end of the projector, D = 2048, a hidden
    layer of 512 in the predictor and a constant learning rate for it (facebookresearch/simsiam, builder.py
    and `--fix-pred-lr`).
    """
    z1_ND, z2_ND, p1_ND, p2_ND = embeddings(z1_ND.detach(), z2_ND.detach(), p1_ND, p2_ND)
    with full_precision(z1_ND):
        return -(batch_cosine(p1_ND, z2_ND, group) + batch_cosine(p2_ND, z1_ND, group)) / 2
