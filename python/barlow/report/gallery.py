"""Here: what the report shows of images and network: training views, embeddings, features, neighbours.

Not here: HTML, charts, reading the run folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from barlow import durable
from barlow.config import Config
from barlow.data import Index, Loader, apply, decode, draw, views
from barlow.data.device import to_float
from barlow.evaluate import features, knn
from barlow.model import Twins, build_model
from barlow.model.weights import load_model
from barlow.report import pictures

NUM_SOURCES = 6
NUM_QUERIES = 8
NUM_NEIGHBOURS = 5
BANK_IMAGES = 10_000
"""Most training images searched for neighbours; of more, evenly spaced ones."""
JUDGED_IMAGES = 1000
"""Most queries behind the share of neighbours of the same class: the few that are shown would say little."""
MATRIX_IMAGES = 512
"""Images behind the cross-correlation matrix."""
_SHOWN_PX = 224
TIMES, DEGREES = "\u00d7", "\u00b0"


@dataclass(frozen=True)
class Shown:
    """One augmented view."""

    uri: str
    window: tuple[int, int, int, int]
    """x, y, width, height of the crop in source pixels."""
    steps: list[str]
    """What was done to it, in order, in words."""


@dataclass(frozen=True)
class Source:
    """One image and its two views."""

    uri: str
    width: int
    height: int
    caption: str
    views: list[Shown]


@dataclass(frozen=True)
class Features:
    """The backbone's features: of the training images that are searched, and of those that ask."""

    bank: Index
    bank_NF: Tensor
    num_train: int
    queries: Index
    query_ids: list[int]
    """Their numbers in the index that they were taken from."""
    queries_MF: Tensor
    held_out: bool
    """Whether the queries are held-out images; otherwise they are in the bank, too."""


@dataclass(frozen=True)
class Neighbour:
    """One found image."""

    uri: str
    caption: str
    similarity: float
    hit: bool | None
    """Whether it has the query's class; None without labels."""


@dataclass(frozen=True)
class Query:
    """One image and what lies nearest to it, nearest first."""

    uri: str
    caption: str
    found: list[Neighbour]


@dataclass(frozen=True)
class Neighbourhood:
    """Queries to show, and how often neighbours have the query's class."""

    shown: list[Query]
    num_searched: int
    num_train: int
    num_judged: int
    """Queries behind `same_class`; 0 without labels."""
    same_class: float
    """Share of the five nearest images of a query that have its class, over the judged queries."""


def newest_model(run: Path, config: Config) -> Twins | None:
    """The network of the newest valid checkpoint in evaluation mode, on the GPU if there is one, or None."""
    checkpoint = durable.newest_valid(run / "checkpoints", "step-*", ("model.safetensors",))
    if checkpoint is None:
        return None
    model = build_model(config.model, config.train.seed)
    load_model(model, checkpoint / "model.safetensors")
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def contact_sheet(index: Index, config: Config) -> list[Source]:
    """Evenly spaced images with the two views that epoch 0 of the training draws for them."""
    both = views.training(config.data)
    sources = []
    for i in spread(len(index), NUM_SOURCES):
        image = decode(index.read(i))
        height, width = image.shape[:2]
        shown = []
        for number, view in enumerate(both):
            parameters = draw(view, config.train.seed, 0, i, number, width, height)
            pixels_HW3 = np.ascontiguousarray(apply(image, parameters).transpose(1, 2, 0))
            uri = pictures.data_uri(pixels_HW3, max_side=_SHOWN_PX)
            shown.append(Shown(uri, parameters["window"], describe(parameters["operations"])))
        uri = pictures.data_uri(image, max_side=_SHOWN_PX)
        sources.append(Source(uri, width, height, label_of(index, i) or f"image {i}", shown))
    return sources


def embeddings(model: Twins, index: Index, config: Config) -> tuple[Tensor, Tensor]:
    """Of up to 512 evenly spaced images under the two training views, in evaluation mode: float32 [N, D]."""
    ids = spread(len(index), MATRIX_IMAGES)
    device, z1s, z2s = _device(model), [], []
    with (
        Loader(
            _subset(index, ids),
            views=views.training(config.data),
            batch_size=min(64, len(ids)),
            seed=config.train.seed,
            threads=config.data.threads,
            shuffle=False,
            drop_last=False,
        ) as loader,
        torch.no_grad(),
    ):
        for batch in loader:
            z1_BD, z2_BD = model(to_float(batch.views, config.data.mean, config.data.std, device=device))
            z1s.append(z1_BD.float().cpu())
            z2s.append(z2_BD.float().cpu())
    return torch.cat(z1s), torch.cat(z2s)


def features_of(model: Twins, train: Index, held_out: Index | None, config: Config) -> Features:
    """Of up to 10,000 training images, and of up to 1,000 held-out ones (without any: training images)."""
    bank = _subset(train, spread(len(train), BANK_IMAGES))
    asked = bank if held_out is None else held_out
    query_ids = spread(len(asked), JUDGED_IMAGES)
    queries = _subset(asked, query_ids)
    bank_NF = _features(model, bank, config)
    queries_MF = bank_NF[query_ids] if held_out is None else _features(model, queries, config)
    return Features(bank, bank_NF, len(train), queries, query_ids, queries_MF, held_out is not None)


def nearest(of: Features) -> Neighbourhood:
    """Queries, each with the five nearest images of the bank by cosine; those in it skip themselves."""
    extra = int(not of.held_out)
    k = min(NUM_NEIGHBOURS + extra, len(of.bank))
    similarity_Mk, found_Mk = knn.neighbours(of.bank_NF, of.queries_MF, k)
    found = [
        [
            (j, similarity)
            for j, similarity in zip(*row, strict=True)
            if of.held_out or j != of.query_ids[number]
        ][:NUM_NEIGHBOURS]
        for number, row in enumerate(zip(found_Mk.tolist(), similarity_Mk.tolist(), strict=True))
    ]
    theirs, own_names = class_names(of.bank), class_names(of.queries)
    judged = [
        theirs[j] == own
        for own, row in zip(own_names, found, strict=True)
        for j, _ in row
        if own is not None and theirs[j] is not None
    ]
    shown = []
    for number in spread(len(of.query_ids), NUM_QUERIES):
        own = own_names[number]
        row = [_neighbour(of.bank, j, similarity, own) for j, similarity in found[number]]
        shown.append(Query(_thumbnail(of.queries, number), own or f"image {of.query_ids[number]}", row))
    return Neighbourhood(
        shown,
        num_searched=len(of.bank),
        num_train=of.num_train,
        num_judged=len(of.query_ids) if judged else 0,
        same_class=sum(judged) / max(1, len(judged)),
    )


def spread(length: int, count: int) -> list[int]:
    """`count` evenly spaced numbers below `length` (all of them where there are fewer)."""
    count = min(length, count)
    return [(2 * i + 1) * length // (2 * count) for i in range(count)]


def label_of(index: Index, i: int) -> str | None:
    """The class name of an image, or None."""
    label = int(index.labels[i])
    return index.class_names[label] if label >= 0 else None


def class_names(index: Index) -> list[str | None]:
    """The class name of every image, None without a label."""
    names = index.class_names
    return [names[label] if label >= 0 else None for label in index.labels.tolist()]


def _subset(index: Index, ids: list[int]) -> Index:
    return index.subset(np.array(ids, dtype=np.uint32))


def _neighbour(bank: Index, j: int, similarity: float, own: str | None) -> Neighbour:
    name = label_of(bank, j)
    hit = name == own if own is not None and name is not None else None
    return Neighbour(_thumbnail(bank, j), name or f"image {j}", similarity, hit)


def _thumbnail(index: Index, i: int) -> str:
    return pictures.data_uri(decode(index.read(i)), max_side=112)


def _device(model: Twins) -> torch.device:
    return next(model.parameters()).device


def _features(model: Twins, index: Index, config: Config) -> Tensor:
    (view,) = views.evaluation(size=config.data.image_size, resize=config.data.eval_resize)
    with features.Passes(
        index,
        view,
        features.network(model.backbone, torch.float32),
        data=config.data,
        batch_size=min(64, config.evaluate.batch_size),
        device=_device(model),
    ) as passes:
        return passes(0)


def describe(operations: Sequence[tuple[Any, ...]]) -> list[str]:
    """The operations of drawn parameters in words, in the order in which they are applied."""
    return [_words(name, *value) for name, *value in operations]


def _words(name: str, value: float = 0.0) -> str:
    if name in ("brightness", "contrast", "saturation"):
        return f"{name} {TIMES}{value:.2f}"
    if name == "hue":
        return f"hue {360 * value:+.0f}{DEGREES}"
    if name == "blur":
        return f"blur, sigma {value:.2f} px"
    if name == "solarize":
        return f"solarize from {value:.0f}"
    return name
