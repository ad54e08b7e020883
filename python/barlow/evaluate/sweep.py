"""Here: linear probes of many learning rates in one pass over cached features, and the one to report.

Not here: the probe itself (linear.py).

Source of the idea: the linear evaluation of DINOv2 (facebookresearch/dinov2, dinov2/eval/linear.py) trains
probes of many rates side by side. There the best on the validation images counts, which are those reported;
here a held-out part of the training images chooses, as in Kornblith et al., CVPR 2019, and the chosen probe
is then trained again on all training images.
"""

from __future__ import annotations

import torch

from barlow.config import Config
from barlow.evaluate import accuracy, linear, partition, published
from barlow.evaluate.job import Job, Json, Row

Labelled = tuple[torch.Tensor, torch.Tensor]
"""Features [N, F] and their labels [N]."""


def run(job: Job, row: Row, seed: int) -> Json:
    """`top1` and `top5` of the test images in percent, the rate, and what each rate had on the held-out part.

    The features are those of the test view, the same every epoch. No test image is looked at before the rate
    is chosen; of equal rates the smallest one is.
    """
    settings, parts = job.config.evaluate, job.labelled
    train_NF, test_MF, labels_N = job.features(row, "train"), job.features(row, "test"), parts.train_labels_N
    held_N = torch.from_numpy(partition.fixed_share(parts.train, labels_N, settings.sweep_held_out))
    if not held_N.any():
        raise ValueError(f"every class of {parts.train.source} has a single image: nothing can be held out")

    def probes(
        rows_T: torch.Tensor | None, test: Labelled, rates: list[float], what: str
    ) -> list[linear.Result]:
        with job.talk.stage(f"{row.name}: linear sweep, {what}, epochs") as progress:
            return linear.probe(
                lambda epoch: train_NF,
                labels_N,
                *test,
                rows_T=rows_T,
                num_classes=job.num_classes,
                config=settings,
                seed=seed,
                device=job.device,
                factors=[rate / settings.linear_lr for rate in rates],
                progress=progress,
            )

    rates = sorted(settings.sweep_lrs)
    held = (train_NF[held_N], labels_N[held_N])
    tried = probes((~held_N).nonzero()[:, 0], held, rates, f"{len(rates)} rates")
    best = max(range(len(rates)), key=lambda i: tried[i].top1)
    (final,) = probes(None, (test_MF, parts.test_labels_M), [rates[best]], "the best one")
    return linear.short_batch("linear sweep", job) | {
        "top1": final.top1,
        "top5": final.top5,
        "learning_rate": rates[best],
        "held_out_images": int(held_N.sum()),
        "held_out_top1": {
            f"{rate:g}": accuracy.rounded(t.top1) for rate, t in zip(rates, tried, strict=True)
        },
    }


def settings(config: Config) -> Json:
    """For eval.json."""
    settings = config.evaluate
    probe = {k: v for k, v in linear.settings(config).items() if k not in ("learning_rate", "cached_crops")}
    return {
        **probe,
        "training_view": "the test view",
        "learning_rates": list(settings.sweep_lrs),
        "held_out": settings.sweep_held_out,
    }


def deviations(config: Config) -> list[str]:
    """Of its own settings; that it is no official protocol is said in docs/evaluation.md."""
    told = published.differences(
        config,
        "linear sweep",
        (
            ("sweep_lrs", "learning rates"),
            ("sweep_held_out", "held-out share"),
            ("linear_epochs", "epochs"),
            ("linear_batch_size", "images per step"),
            ("linear_weight_decay", "weight decay"),
        ),
    )
    if config.evaluate.linear_standardize:
        told.append("linear sweep: every feature is standardised by the training images")
    return told
