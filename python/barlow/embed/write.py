"""Here: `barlow embed`: a backbone over every image of a data set in order, to the file that is asked for.

Not here: the array while it grows (store.py), which row is which image (rows.py).

A row is a function of the image, the weights and the settings, and images go through the network in the same
batches whenever it begins or goes on: what was killed and goes on ends in the bytes of what was not.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from barlow import __version__, durable
from barlow.config import Config
from barlow.data import Index, Loader, open_index, views
from barlow.data.device import normalise
from barlow.distributed import World, barrier, broadcast_value, process_group
from barlow.embed.rows import check_parquet, write_lines, write_parquet
from barlow.embed.store import Store
from barlow.evaluate.console import Console
from barlow.evaluate.features import Progress, digest, network
from barlow.evaluate.resuming import differences
from barlow.model.foreign import described
from barlow.model.precision import autocast_dtype
from barlow.model.weights import load_backbone
from barlow.train.algorithms import algorithms
from barlow.train.lock import alone

DType = Literal["float32", "float16"]
_SAVED_IMAGES = 4096
"""After about so many images rows are forced to the disk; a kill costs no more than these."""
_SIZES = ("bytes", "rows_bytes")
"""What OUT.json says beside the settings: sizes of the array or table, and of the lines beside an array."""


def embed(
    target: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    dtype: DType = "float32",
    normalised: bool = False,
    batch_size: int = 256,
    precision: Literal["fp32", "bf16", "auto"] = "fp32",
    quiet: bool = False,
) -> Path:
    """Embeds all images of `data`, in the order of its index, by the backbone of a run or a weights file.

    `out` ends in `.npy`: an array [N, F] of `dtype`, and beside it OUT.rows.jsonl, a line for each row (id,
    shard, member, label, class). Or in `.parquet`: all of that in one table. Both have OUT.json beside them,
    which says what made them and how many bytes they have. `normalised`: each row has Euclidean norm 1.
    `batch_size`: images of each process and pass; `precision`: what the network computes in. Images are
    prepared as in evaluation.

    Every rank of torchrun does its share. What was interrupted goes on when it is called again, and ends in
    the same bytes. `ValueError`: `out` is there, or was begun, by other weights, data or settings, or it is
    damaged; another process is at it; numbers that `dtype` can't hold. Returns `out`.
    """
    out = Path(out)
    if out.suffix not in (".npy", ".parquet"):
        raise ValueError(f"OUT must end in .npy or .parquet: {out}")
    if batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, not {batch_size}")
    if out.suffix == ".parquet":
        check_parquet()
    backbone, model, run = load_backbone(target)
    config, index = described(model, run), open_index(data)
    if len(index) == 0:
        raise ValueError(f"{index.source} holds no images")
    with contextlib.ExitStack() as held, process_group() as world:
        settings = _settings(backbone, index, config, dtype, normalised, batch_size, precision, world)
        shape = (len(index), backbone.num_features)
        store = Store(out, shape, np.dtype(dtype), settings)
        talk = Console(quiet=quiet or world.rank > 0)
        rows = _by_the_first(world, out, store, index, settings, held)
        if rows is None:
            talk.say(f"{out} is there already, of these weights and images")
            return out
        if rows:
            talk.say(f"goes on after {rows:,} of {len(index):,} images")
        job = _Job(backbone, index, config, batch_size, precision, world, normalised)
        with talk.stage("images") as report, store, algorithms(world.device, deterministic=True):
            job.fill(store, rows, dtype, report)
        if world.rank == 0:
            _finish(store, out, index, settings)
            talk.say(f"wrote {out}")
        barrier()
    return out


def _settings(
    backbone: nn.Module, index: Index, config: Config, dtype: DType, normalised: bool, batch_size: int,
    precision: str, world: World,
) -> dict[str, Any]:  # fmt: skip
    """All that decides about the numbers, beside the machine."""
    data = config.data
    return {
        "weights_sha256": digest(backbone),
        "backbone": config.model.backbone,
        "data_sha256": index.digest(),
        "images": len(index),
        "image_size": data.image_size,
        "resize": data.eval_resize,
        "mean": list(data.mean),
        "std": list(data.std),
        "dtype": dtype,
        "normalised": normalised,
        "batch_size": batch_size,
        "precision": str(autocast_dtype(precision, world.device)).removeprefix("torch."),
        "processes": world.size,
        "device": world.device.type,
        "versions": {"barlow": __version__, "torch": metadata.version("torch")},
    }


def _by_the_first(
    world: World, out: Path, store: Store, index: Index, settings: dict[str, Any], held: contextlib.ExitStack
) -> int | None:
    """The rows that are there, None if `out` itself is; a refusal of the first rank is one on every rank.

    What is under way is this process's alone until `held` ends.
    """
    found: tuple[int | None, str | None] = (None, None)
    if world.rank == 0:
        try:
            found = (_begin(out, store, index, settings, held), None)
        except ValueError as error:
            found = (None, str(error))
    rows, refusal = broadcast_value(found)
    if refusal is not None:
        raise ValueError(refusal)
    return rows


def _begin(
    out: Path, store: Store, index: Index, settings: dict[str, Any], held: contextlib.ExitStack
) -> int | None:
    if not out.exists():
        with durable.naming(out):
            held.enter_context(alone(store.folder))
        if not out.exists():  # else another process has just finished it
            return store.begin()
    record, before = _beside(out, "json"), None
    with contextlib.suppress(OSError, ValueError):
        before = durable.read_json(record)
    num_bytes, rows_bytes = (before.pop(name, None) for name in _SIZES) if before else (None, None)
    if before is None:
        told = f"and {record.name}, which would say what made it, can't be read"
    elif differing := differences(before, settings):
        told = f"made otherwise: {differing}"
    elif (size := out.stat().st_size) != num_bytes:
        told = f"and damaged: it has {size} bytes, not {num_bytes}"
    else:
        told = ""
    if told:
        raise ValueError(
            f"{out} is there already, {told}; name another OUT, or remove {out.name} for it to be made anew"
        )
    rows = _beside(out, "rows.jsonl")
    if out.suffix == ".npy" and (not rows.is_file() or rows.stat().st_size != rows_bytes):
        write_lines(index, rows)
        warnings.warn(f"{rows} was missing or damaged: it is written anew", stacklevel=2)
    store.remove()  # if its writer died between the last two steps
    return None


class _Job:
    """Images to rows."""

    def __init__(
        self, backbone: nn.Module, index: Index, config: Config, batch_size: int, precision: str,
        world: World, normalised: bool,
    ) -> None:  # fmt: skip
        self._forward = network(backbone.to(world.device), autocast_dtype(precision, world.device))
        self._index, self._config, self._world = index, config, world
        self._normalised, self._batch_size = normalised, min(batch_size * world.size, len(index))

    @torch.no_grad()
    def fill(self, store: Store, rows: int, dtype: DType, report: Progress) -> None:
        """Puts this rank's share of all rows after the first `rows` into the store."""
        if rows == len(self._index):
            return
        data, done = self._config.data, rows
        (view,) = views.evaluation(size=data.image_size, resize=data.eval_resize)
        saved_steps = max(1, _SAVED_IMAGES // self._batch_size)
        with Loader(
            self._index,
            views=[view],
            batch_size=self._batch_size,
            rank=self._world.rank,
            world_size=self._world.size,
            threads=data.threads,
            shuffle=False,
            drop_last=False,
            epochs=1,
            pin_memory=self._world.device.type == "cuda",
        ) as loader:
            loader.load_state_dict({"epoch": 0, "step": rows // self._batch_size})
            for batch in loader:
                if len(batch.ids):
                    images_B3HW = normalise(batch.views[0], data.mean, data.std, device=self._world.device)
                    store.put(int(batch.ids[0]), self._numbers(self._forward(images_B3HW), dtype))
                done = min(done + self._batch_size, len(self._index))
                report(done, len(self._index))
                if (batch.step + 1) % saved_steps == 0 or done == len(self._index):
                    store.flush()
                    barrier()
                    if self._world.rank == 0:
                        store.advance(done)

    def _numbers(self, features_BF: Tensor, dtype: DType) -> NDArray[Any]:
        if self._normalised:
            features_BF = nn.functional.normalize(features_BF, dim=1)
        if not features_BF.isfinite().all():
            raise ValueError("some features are not finite: the weights are ill, or --precision too coarse")
        if dtype == "float16" and features_BF.abs().max() > torch.finfo(torch.float16).max:
            raise ValueError("some features are too large for float16: --dtype float32, or --normalise")
        return features_BF.cpu().numpy().astype(dtype)


def _beside(out: Path, kind: Literal["json", "rows.jsonl"]) -> Path:
    """A file that belongs to `out` alone: not to one of the same stem and another ending."""
    return out.with_name(f"{out.name}.{kind}")


def _finish(store: Store, out: Path, index: Index, settings: dict[str, Any]) -> None:
    """Everything to its name; the array or table comes last, and whoever finds it finds the rest as well."""
    finished, rows = store.path, _beside(out, "rows.jsonl")
    if out.suffix == ".npy":
        write_lines(index, rows)
    else:
        finished = store.folder / "table.parquet"
        with durable.naming(out):
            write_parquet(index, store.path, finished, settings)
    sizes = [file.stat().st_size if file.is_file() else None for file in (finished, rows)]
    record = {**settings, **dict(zip(_SIZES, sizes, strict=True))}
    durable.write_file(_beside(out, "json"), json.dumps(record, indent=2) + "\n")
    durable.move_file(finished, out)
    store.remove()
