"""Here: the weighted k-nearest-neighbour classifier on feature matrices, and plain neighbour search.

Not here: computing features (job.py), splitting data.

Source of the protocol: Wu et al., CVPR 2018 (non-parametric instance discrimination), section 3.4, as
used for self-supervised features since: cosine similarity s, the k nearest training images vote for
their class with weight exp(s / temperature).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from barlow.config import Config
from barlow.evaluate import accuracy, published, sharing
from barlow.evaluate.job import Job, Json, Row

_BLOCK_BYTES = 256 << 20
"""Bound on one block of similarities; a block needs about twice this with its search."""
_ROWS = 65_536
ALL_VOTE, FEWER_VOTE = "kNN: all", "kNN: neighbours"
"""How the lines about the number of neighbours begin: that of a result, and that of the settings."""
_MIN_NORM = 1e-12
"""As functional.normalize has it: features that are all 0 are like nothing."""


def neighbours(
    bank_NF: Tensor, queries_MF: Tensor, k: int, *, block_bytes: int = _BLOCK_BYTES
) -> tuple[Tensor, Tensor]:
    """The `k` bank rows nearest to each query by cosine: (similarity float32 [M, k], row int64 [M, k]).

    Nearest first; equal similarities go to the lower row. `k` may not exceed N. The whole [M, N]
    matrix is never held: queries are taken in blocks of at most `block_bytes`.
    """
    num_bank = bank_NF.shape[0]
    if not 1 <= k <= num_bank:
        raise ValueError(f"k must be between 1 and the {num_bank} images of the bank, not {k}")
    bank_NF = bank_NF.float()
    # Divided by afterwards: a bank of length 1 would be a second one in memory.
    norm_N = torch.cat([part.norm(dim=1) for part in bank_NF.split(_ROWS)]).clamp_min(_MIN_NORM)
    rows = max(1, block_bytes // (4 * num_bank))
    similarities, ids = [], []
    for queries_BF in queries_MF.split(rows):
        sim_BN = (functional.normalize(queries_BF.float(), dim=1) @ bank_NF.T).div_(norm_N)
        sim_Bk, id_Bk = _top(sim_BN, k)
        similarities.append(sim_Bk)
        ids.append(id_Bk)
    if not similarities:
        empty = torch.empty(0, k, device=bank_NF.device)
        return empty, empty.long()
    return torch.cat(similarities), torch.cat(ids)


def _top(sim_BN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values_Bk, ids_Bk = sim_BN.topk(min(k + 1, sim_BN.shape[1]), dim=1)
    # topk returns any of several equal entries, which only matters where the k-th and the next are equal.
    tied_B = (values_Bk[:, k - 1 : k] == values_Bk[:, k:]).any(1)
    ids_Bk = ids_Bk[:, :k]
    if tied_B.any():
        ids_Bk[tied_B] = _lowest_rows(sim_BN[tied_B], k)
    ids_Bk = ids_Bk.sort(dim=1).values
    values_Bk, order_Bk = sim_BN.gather(1, ids_Bk).sort(dim=1, descending=True, stable=True)
    return values_Bk, ids_Bk.gather(1, order_Bk)


def _lowest_rows(sim_BN: Tensor, k: int) -> Tensor:
    """The ids [B, k] of the k largest, where the lowest rows win among equals."""
    kth_B1 = sim_BN.topk(k, dim=1).values[:, -1:]
    above_BN, equal_BN = sim_BN > kth_B1, sim_BN == kth_B1
    places_B1 = k - above_BN.sum(1, keepdim=True)
    chosen_BN = above_BN | (equal_BN & (equal_BN.cumsum(1) <= places_B1))
    return chosen_BN.nonzero()[:, 1].view(-1, k)  # exactly k in each row


def votes(
    bank_NF: Tensor,
    labels_N: Tensor,
    queries_MF: Tensor,
    *,
    num_classes: int,
    k: int,
    temperature: float,
    block_bytes: int = _BLOCK_BYTES,
) -> Tensor:
    """Class scores float64 [M, num_classes]: the sum of exp(cosine / temperature) over the neighbours.

    A class without a single neighbour scores -inf, so that it is never counted among the top 5.
    """
    if temperature <= 0:
        raise ValueError(f"the temperature must be positive, not {temperature}")
    sim_Mk, id_Mk = neighbours(bank_NF, queries_MF, k, block_bytes=block_bytes)
    # Relative to the nearest neighbour: the ranking is the same and no temperature overflows.
    weight_Mk = ((sim_Mk - sim_Mk[:, :1]).double() / temperature).exp()
    scores_MC = torch.zeros(len(queries_MF), num_classes, dtype=torch.float64, device=sim_Mk.device)
    classes_Mk = labels_N[id_Mk]
    scores_MC.scatter_add_(1, classes_Mk, weight_Mk)
    voted_MC = torch.zeros_like(scores_MC, dtype=torch.bool).scatter_(1, classes_Mk, True)
    return scores_MC.masked_fill(~voted_MC, -torch.inf)


def run(job: Job, row: Row, seed: int) -> Json:
    """`top1` and, of more than five classes, `top5` of the test images in percent. Nothing is random.

    Each rank classifies its part of the test images.
    """
    bank_NF, test_MF = job.features(row, "train"), job.features(row, "test")
    settings, device = job.config.evaluate, job.device
    own = sharing.own_part(len(test_MF))
    scores_MC = votes(
        bank_NF.to(device),
        job.labelled.train_labels_N.to(device),
        test_MF[own].to(device),
        num_classes=job.num_classes,
        k=min(settings.knn_k, len(bank_NF)),
        temperature=settings.knn_temperature,
    )
    labels_M = job.labelled.test_labels_M[own].to(device)

    def percent(k: int) -> float | None:
        hits = int(accuracy.hits(scores_MC, labels_M, k).sum())
        return 100.0 * sharing.total(hits, device) / len(test_MF)

    result: Json = {"top1": percent(1), "top5": percent(5) if job.num_classes > 5 else None}
    if settings.knn_k > len(bank_NF):
        result["notes"] = [f"{ALL_VOTE} {len(bank_NF)} training images vote, not {settings.knn_k}"]
    return result


def settings(config: Config) -> Json:
    """For eval.json."""
    return {
        "k": config.evaluate.knn_k,
        "temperature": config.evaluate.knn_temperature,
        "similarity": "cosine",
        "weight": "exp(similarity / temperature)",
    }


def deviations(config: Config) -> list[str]:
    """From Wu et al.'s temperature and DINO's k."""
    return published.differences(config, "kNN", (("knn_k", "neighbours"), ("knn_temperature", "temperature")))
