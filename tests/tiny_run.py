"""Pictures and runs small enough to train inside a test."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from barlow import config
from barlow.config import Config, ModelConfig

COLOURS = {"amber": (150, 130, 110), "blue": (110, 120, 150), "cyan": (110, 150, 140)}


def write_pictures(
    folder: Path, *, per_class: int, size: int = 24, seed: int = 0, flat: bool = False
) -> Path:
    """Noisy stripes of random phase in three directions; the colours overlap, so raw pixels tell a little."""
    rng = np.random.default_rng(seed)
    for number, (name, colour) in enumerate(COLOURS.items()):
        place = folder if flat else folder / name
        place.mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            rows, columns = np.mgrid[0:size, 0:size]
            phase, pitch = rng.uniform(0, 6), rng.uniform(0.6, 0.9)
            waves = np.sin((rows, columns, rows + columns)[number] * pitch + phase)
            tint = np.array(colour) + rng.normal(0, 30, 3)
            pixels = tint * (0.6 + 0.4 * waves[..., None]) + rng.normal(0, 30, (size, size, 3))
            path = place / f"{name}-{i:03d}.jpg"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=92)
    return folder


def tiny_config(*, epochs: int = 3, width: int = 8) -> Config:
    """Seconds on one core: 16 px views, a ResNet-10 of this width, 24 dimensions."""
    base = config.cifar10_cpu()
    return dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, image_size=16, eval_resize=16, threads=1),
        model=ModelConfig(backbone="resnet10", width=width, stem="cifar", projector=(32, 24)),
        optim=dataclasses.replace(base.optim, batch_size=12, epochs=epochs, warmup_epochs=1),
        train=dataclasses.replace(base.train, log_every=1, precision="fp32"),
        evaluate=dataclasses.replace(base.evaluate, knn_k=5, linear_epochs=6, linear_crops=2, batch_size=10),
    )
