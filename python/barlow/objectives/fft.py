"""Here: Barlow Twins with the relaxed regulariser of Shigeto et al., "Learning decorrelated representations
efficiently using fast Fourier transform" (CVPR 2023, arXiv 2301.01569).

Not here: the matrix C; its invariance term is exact, its off-diagonal is seen only in sums.

The D dimensions are cut into G blocks of b. For blocks g and h the entries of C between them are summed along
each of the b wrapped diagonals, s_gh[k] = sum_m C[gb + m, hb + (m + k) mod b], which is a circular
correlation and costs O(b log b) per sample by FFT. The regulariser is the sum of |s_gh[k]|^q over all of them
but s_gg[0], the sums of C's own diagonal. With b = 1 that is the exact one, with b = D the cheapest.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from barlow.distributed import all_reduce
from barlow.objectives.global_batch import Group, embeddings, full_precision, standardize
from barlow.objectives.rows import to_device


def fft_barlow_twins(
    z1_ND: Tensor,
    z2_ND: Tensor,
    lambd: float = 2**-11,
    *,
    block: int | None = None,
    exponent: int = 2,
    generator: torch.Generator | None = None,
    eps: float = 0.0,
    group: Group = None,
) -> Tensor:
    """sum_i (1 - C_ii)^2 + lambd * (relaxed regulariser) with C of `barlow_twins`, a scalar on every rank.

    `z1_ND`, `z2_ND`: this rank's embeddings, [n, D] floating point, n may differ between ranks. `block` is b,
    1 to D, by default D; where it doesn't divide D the last block is filled with zeros. `exponent` is q, 1 or
    2. `generator`, a CPU generator in the same state on every rank, draws the order of the dimensions anew at
    each call, without which the relaxation has unwanted minima; without one the order stays.

    Defaults: yutaro-s/scalable-decorrelation-ssl, in1k-r50-d8192/pretrain/sbarlow.sh (lambd 2^-11, q = 2,
    b = 8192 = D; sbarlow-b128.sh has b = 128), whose loss is this one times 0.024 and has eps = 1e-5.
    Computed in float32 (float64 for float64); backward gives W times the gradient of the global batch at this
    rank's rows. `ValueError` for a block, an exponent, a lambd or shapes that can't be.
    """
    views = embeddings(z1_ND, z2_ND)
    num_dims = z1_ND.shape[1]
    block = num_dims if block is None else block
    if not 1 <= block <= num_dims:
        raise ValueError(f"block must be from 1 to the {num_dims} dimensions, not {block}")
    if exponent not in (1, 2) or lambd < 0:
        raise ValueError(f"exponent must be 1 or 2 and lambd not negative, not {exponent} and {lambd}")
    with full_precision(z1_ND):
        x_2ND, count = standardize(torch.stack(views), eps, group)
        diagonal_D = all_reduce((x_2ND[0] * x_2ND[1]).sum(0), group, alike=True) / count
        invariance = (diagonal_D - 1).square().sum()
        if generator is not None:
            x_2ND = x_2ND[:, :, to_device(torch.randperm(num_dims, generator=generator), x_2ND.device)]
        sums_GGB = _wrapped_diagonals(x_2ND, block, group) / count
        own = torch.eye(len(sums_GGB), dtype=torch.bool, device=sums_GGB.device)
        first_GG = sums_GGB[..., 0].masked_fill(own, 0)
        rest_GGB = sums_GGB[..., 1:]
        if exponent == 1:
            return invariance + lambd * (first_GG.abs().sum() + rest_GGB.abs().sum())
        return invariance + lambd * (first_GG.square().sum() + rest_GGB.square().sum())


def _wrapped_diagonals(x_2ND: Tensor, block: int, group: Group) -> Tensor:
    """N times s of the global batch [G, G, b]: products in the frequency domain, summed before going back."""
    filled_2ND = F.pad(x_2ND, (0, -x_2ND.shape[2] % block))
    spectra_2NGF = torch.fft.rfft(filled_2ND.unflatten(2, (-1, block)))
    a_FGN, b_FNG = spectra_2NGF[0].permute(2, 1, 0).conj(), spectra_2NGF[1].permute(2, 0, 1)
    products_FGG = torch.view_as_complex(all_reduce(torch.view_as_real(a_FGN @ b_FNG), group, alike=True))
    return torch.fft.irfft(products_FGG.permute(1, 2, 0), n=block)
