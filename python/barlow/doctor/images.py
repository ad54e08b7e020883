"""Here: the loader's promises on this machine: the same bytes by any instructions, threads, ranks.

Not here: speed (`barlow bench loader`), data sets of the user (`barlow verify`).
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from barlow.data import Loader, apply, draw, index_source, simd, views
from barlow.distributed import World, gather_values
from barlow.doctor.finding import Finding, over_ranks

_SIZE_PX = 48
_SEED = 5


def findings(world: World) -> list[Finding]:
    """Views by each instruction set, batches by each number of threads, slices and bytes of all ranks."""
    found = [_instructions()]
    with tempfile.TemporaryDirectory(prefix="barlow-doctor-") as folder:
        _write_images(Path(folder), num_images=8 * max(world.size, 3))
        index_source(folder)  # otherwise every loader would advise the user to
        batch_size = 4 * world.size
        one, *others = (_batches(folder, batch_size, threads=threads) for threads in (1, 2, 3))
        threads_agree = all(_digest(other) == _digest(one) for other in others)
        found.append(
            over_ranks("batches by 1, 2 and 3 loader threads, byte for byte", _miss(threads_agree), 0.0)
        )
        mine = _batches(folder, batch_size, threads=2, world=world)
        rows = slice(4 * world.rank, 4 * world.rank + 4)
        same = len(mine) == len(one) and all(
            torch.equal(part, whole[rows])
            for m, o in zip(mine, one, strict=True)
            for part, whole in zip(m, o, strict=True)
        )
        if world.size > 1:
            found.append(over_ranks("a rank's slices of the batches, byte for byte", _miss(same), 0.0))
            digests = gather_values(_digest(one))
            different = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
            detail = f"rank {', '.join(map(str, different))} makes other pixels than rank 0"
            found.append(Finding("pixels of all ranks, byte for byte", _miss(not different), 0.0, detail))
    return found


def _instructions() -> Finding:
    """The fast kernels against the portable ones, over every operation of the paper's views."""
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    portable, *fast = simd()
    wrong = 0
    for sample in range(24):
        for number, view in enumerate(views.barlow_twins(size=_SIZE_PX)):
            parameters = draw(view, _SEED, 0, sample, number, 120, 90)
            expected = apply(image, parameters, simd=portable)
            wrong += sum(int((apply(image, parameters, simd=name) != expected).sum()) for name in fast)
    detail = f"{wrong} values of pixels differ"
    return over_ranks(
        f"pixels by {', '.join(fast) or 'one instruction set'} = {portable}", _miss(not wrong), 0.0, detail
    )


def _write_images(folder: Path, num_images: int) -> None:
    generator = np.random.default_rng(1)
    for i in range(num_images):
        coarse = Image.fromarray(generator.integers(0, 256, (7, 9, 3), dtype=np.uint8))
        coarse.resize((90 + i, 70 + 3 * i), Image.Resampling.BICUBIC).save(
            folder / f"{i:03d}.jpg", quality=90
        )


def _batches(
    folder: str, batch_size: int, *, threads: int, world: World | None = None
) -> list[list[torch.Tensor]]:
    """One epoch: ids and both views of each batch, of one rank or as a single process sees it."""
    rank, size = (world.rank, world.size) if world else (0, 1)
    with Loader(
        folder, views=views.barlow_twins(size=_SIZE_PX), batch_size=batch_size, seed=_SEED, epochs=1,
        rank=rank, world_size=size, threads=threads,
    ) as loader:  # fmt: skip
        return [[batch.ids, *batch.views] for batch in loader]


def _digest(batches: list[list[torch.Tensor]]) -> str:
    digest = hashlib.sha256()
    for batch in batches:
        for tensor in batch:
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _miss(same: bool) -> float:
    return 0.0 if same else float("inf")
