"""Here: how many directions embeddings or features use: their spectrum, and the numbers drawn from it.

Not here: losses, computing embeddings, what a number means for a run (train/alarms.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

_FIRST, _LAST = 10, 100
"""The eigenvalues, by place, that the power law is fitted to where there are as many."""


def spectrum(z_ND: Tensor) -> Tensor:
    """Eigenvalues of the (biased) covariance of N rows, float64 [min(N, D)], largest first, none negative.

    Through the [N, N] or the [D, D] Gram matrix of the centred rows, whichever is smaller, in float64. Rows
    that are not finite give NaN everywhere.
    """
    centred_ND = z_ND.double()
    centred_ND = centred_ND - centred_ND.mean(0)
    wide = centred_ND.shape[1] > centred_ND.shape[0]
    gram = (centred_ND @ centred_ND.T if wide else centred_ND.T @ centred_ND) / len(centred_ND)
    if not bool(gram.isfinite().all()):  # LAPACK would raise, or worse
        return gram.new_full((len(gram),), torch.nan)
    return torch.linalg.eigvalsh(gram).flip(0).clamp_min(0)


def effective_rank(spectrum_K: Tensor) -> float:
    """exp of the entropy of the normalised singular values: from 1, for a single direction, to their number.

    Source: RankMe (Garrido et al., ICML 2023), equation 1; here of centred rows, so that an offset that all
    rows share is not counted as a direction, and without its 1e-7, as 0 log 0 is taken as 0.
    """
    singular_K = spectrum_K.sqrt()
    total = singular_K.sum()
    if total == 0:
        return 1.0
    share_K = singular_K / total
    # Not torch.special.entr: on a GPU that is compiled when it is first called.
    return torch.xlogy(share_K, share_K).sum().neg().exp().item()


def fitted_places(count: int) -> tuple[int, int]:
    """First and last of `count` eigenvalues, by place from 1, that `power_law_exponent` fits to."""
    return max(2, min(_FIRST, count // 20)), min(_LAST, count // 2)


def power_law_exponent(spectrum_K: Tensor) -> float | None:
    """alpha of the law that the i-th eigenvalue falls as i^-alpha; None where fewer than 4 can be fitted.

    Source: alpha-ReQ (Agrawal et al., NeurIPS 2022). A straight line by least squares through log eigenvalue
    over log i, for i from 10 to 100; of fewer than 200 eigenvalues, from a twentieth of their number (at
    least 2) to half of it: the last ones are noise of a finite sample. Only positive eigenvalues are there.
    """
    present_K = spectrum_K[spectrum_K > 1e-12 * spectrum_K[:1]]
    first, last = fitted_places(len(present_K))
    if last - first + 1 < 4 or not bool(present_K.isfinite().all()):
        return None
    places = torch.arange(first, last + 1, dtype=torch.float64, device=present_K.device).log()
    heights = present_K[first - 1 : last].log()
    places = places - places.mean()
    return -((places * (heights - heights.mean())).sum() / places.square().sum()).item()
