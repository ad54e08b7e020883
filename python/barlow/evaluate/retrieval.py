"""Here: how well the features of the test images find others of their class.

Not here: one view of an image finding the other (label_free.py), nearest neighbours of the report.

Source of the protocol: recall@k of Jegou et al. (TPAMI 2011) as metric learning has it (Song et al., CVPR
2016): every test image is a query, all other test images are the gallery, by cosine; it counts if one of
the k nearest has its class. mAP is over the whole ranking.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from barlow.config import Config
from barlow.evaluate import precision_recall, published, sharing
from barlow.evaluate.job import Job, Json, Row

_BLOCK_BYTES = 256 << 20
"""Bound on one block of similarities; sorting needs a few times as much."""


def run(job: Job, row: Row, seed: int) -> Json:
    """`recall_at_K` for each K of the settings, and `map`, in percent. Nothing is random.

    An image that is the only one of its class is no query. The ranks share the queries.
    """
    at = sorted(set(job.config.evaluate.retrieval_at))
    features_MF, labels_M = (
        job.features(row, "test").to(job.device),
        job.labelled.test_labels_M.to(job.device),
    )
    own = sharing.own_part(len(labels_M))
    first_Q, precision_Q = ranked(features_MF, labels_M, torch.arange(len(labels_M), device=job.device)[own])
    is_query_Q = precision_Q.isfinite()
    num_queries = sharing.total(int(is_query_Q.sum()), job.device)

    def share(sum_of_own: Tensor) -> float | None:
        together = sharing.sum_of(sum_of_own.double())
        return 100.0 * together / num_queries if num_queries else None

    result: Json = {f"recall_at_{k}": share((first_Q[is_query_Q] < k).sum()) for k in at}
    result["map"] = share(precision_Q[is_query_Q].sum())
    result["queries"] = num_queries
    if num_queries < len(labels_M):
        alone = len(labels_M) - num_queries
        result["notes"] = [f"retrieval: {alone} test images are the only ones of their class and no queries"]
    return result


def ranked(features_MF: Tensor, labels_M: Tensor, ids_Q: Tensor) -> tuple[Tensor, Tensor]:
    """Of the queries `ids_Q`: the place of the first image of their class from 0, and the average precision.

    int64 and float64 [Q]; without another image of the class the precision is NaN. Equal similarities are in
    the order of the index.
    """
    features_MF = functional.normalize(features_MF.float(), dim=1)
    rows = max(1, _BLOCK_BYTES // (4 * max(1, len(features_MF))))
    first, precision = [], []
    for ids_B in ids_Q.split(rows):
        sim_BM = features_MF[ids_B] @ features_MF.T
        sim_BM.scatter_(1, ids_B[:, None], torch.inf)  # itself comes first, and is cut off
        order_BM = sim_BM.argsort(dim=1, descending=True, stable=True)[:, 1:]
        relevant_BM = labels_M[order_BM] == labels_M[ids_B][:, None]
        first.append(relevant_BM.byte().argmax(1) if relevant_BM.shape[1] else torch.zeros_like(ids_B))
        precision.append(precision_recall.of_rankings(relevant_BM))
    if not first:
        return torch.zeros_like(ids_Q), torch.zeros(0, dtype=torch.float64, device=ids_Q.device)
    return torch.cat(first), torch.cat(precision)


def settings(config: Config) -> Json:
    """For eval.json."""
    return {
        "at": list(config.evaluate.retrieval_at),
        "similarity": "cosine",
        "queries": "every test image",
        "gallery": "all other test images",
    }


def deviations(config: Config) -> list[str]:
    """Of the k of its recalls; there are no other settings."""
    return published.differences(config, "retrieval", (("retrieval_at", "k"),))
