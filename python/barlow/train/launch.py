"""Here: from a command to a run: every check before anything is written, the run folder, what may change.

Not here: training (loop.py), starting and ending processes (ranks.py), the command line's syntax.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
import time
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from barlow import durable
from barlow.config import Config, load, to_json
from barlow.train import tracker
from barlow.train.beginning import Beginning
from barlow.train.lock import FILE_NAME as LOCK_FILE
from barlow.train.lock import alone, refuse_if_running
from barlow.train.preempt import exit_code
from barlow.train.ranks import (
    in_rank,
    launcher_holds_run,
    only_the_first_failure_speaks,
    restarted,
    start_ranks,
)  # fmt: skip
from barlow.train.status import told
from barlow.train.submit import FOLDER as SLURM_FOLDER
from barlow.validation import num_micro_batches, validate

if TYPE_CHECKING:  # the command line imports this file, and torch takes seconds
    import torch

    from barlow.data import Index
    from barlow.distributed import World
    from barlow.train.identity import Change
    from barlow.train.observer import MakeJudge

CONFIG_FILE = "config.json"
RUN_FILE = "run.json"
IMPORTED = "imported"
"""Entry of run.json that says which file of another trainer the run began with (barlow.official)."""
# Fields that may change when a run goes on: they decide when and how it executes, not what it computes. (What
# becomes of damaged images is among them: up to the one that ended a run it makes no difference.)
FREE_FIELDS = (
    "train.steps", "train.log_every", "train.lost_after", "train.wandb", "data.threads", "data.prefetch",
    "data.device_stage", "data.on_error", "data.max_replaced", "objective.form", "checkpoint.", "evaluate.",
    "train.compile", "train.fused_lars", "train.channels_last", "train.gradient_compression",
    "train.deterministic",
    "train.micro_batch",  # within the bounds of `_check_micro_batches`
)  # fmt: skip


def launch(
    data: Path,
    config: Config,
    run: Path,
    *,
    nproc: int = 0,
    preset: str | None = None,
    begin: Beginning = Beginning(),  # noqa: B008 (frozen)
    judge: MakeJudge | None = None,
) -> None:
    """Trains on `data` in the folder `run`, or goes on from its newest checkpoint; returns when it is done.

    Starts `nproc` ranks (0: one for each GPU, else one); inside torchrun or SLURM this process is one rank.
    `begin` says what else its user wishes of the beginning.
    `ValueError`, `DataError` or `OSError` for whatever cannot work, before anything is written or started;
    `SystemExit` with the exit code of the rank that failed first, which has shown its own error, or with
    128 + the number of the SIGTERM or SIGUSR1 that stopped the run. `judge` is as in `observer.MakeJudge`.
    """
    # As they were typed: errors name them so, and ranks on this machine start in the same folder.
    data, run, config = Path(data), Path(run), begin.applied(config)
    if not in_rank():
        refuse_if_running(run)  # before the slow imports
    import torch

    from barlow.data import open_index
    from barlow.train.settle import settled

    config = settled(config)
    nproc = nproc or max(1, torch.cuda.device_count())
    if nproc > 1 and not in_rank():
        index = open_index(data)
        check(config, index, nproc, run, begin)
        with alone(run):
            changes = check(config, index, nproc, run, begin)  # again: now nobody else changes the folder
            prepare(run, config, data, index, nproc, preset, device=None, begin=begin, changes=changes)
            start_ranks(nproc, ["-m", "barlow", "--", "train", str(data), "--run", str(run)])
    elif stopped_by := _as_rank(data, config, run, preset, begin, judge):
        raise SystemExit(exit_code(stopped_by))


def check(
    config: Config,
    index: Index,
    world_size: int,
    run: Path,
    begin: Beginning = Beginning(),  # noqa: B008 (frozen)
) -> list[Change]:
    """Raises `ValueError` for a config that cannot run on this data, or a folder that holds another run.

    Another run is one of other code or data or with another config; but for FREE_FIELDS and what `begin`
    allows. Gives those of the latter that are indeed different, and other files of the same version.
    """
    import torch

    from barlow.data import views
    from barlow.data.staged import check_stage
    from barlow.model.precision import training_dtype
    from barlow.train.algorithms import check_compiler, check_workspace
    from barlow.train.checkpoint import CHECKPOINTS, newest_step
    from barlow.train.identity import check_names

    check_names(begin.allow_changes)
    if len(index) == 0:
        raise ValueError(f"{index.source} holds no images")
    _refuse_what_was_imported_for_evaluation(run)
    validate(config, num_samples=len(index), world_size=world_size)
    views.training(config.data)
    check_stage(config.data.device_stage)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training_dtype(config.train.precision, device, config.model, config.data.image_size)
    check_workspace(deterministic=config.train.deterministic)
    check_compiler(config.train, device)
    tracker.check(config.train.wandb)
    if run.exists() and not run.is_dir():
        raise ValueError(f"--run {run} is a file")
    if not (run / CONFIG_FILE).exists() and run.is_dir() and _is_somebodys(run):
        raise ValueError(f"--run {run} is neither empty nor a run of barlow")
    newest = newest_step(run / CHECKPOINTS)
    begin.check_folder(run, newest, restarted=restarted())
    if newest is None:
        begin.check_weights(run, config, None, {})
        return []  # until there is a checkpoint, the folder binds nobody
    saved, record = load(run / CONFIG_FILE), durable.read_json(run / RUN_FILE)
    found = _check_same(run, config, index, begin, saved, record)
    begin.check_weights(run, config, newest, record)
    _check_micro_batches(run, saved, record.get("world_size", 1), config, world_size)
    return found


def _check_same(
    run: Path, config: Config, index: Index, begin: Beginning, saved: Config, record: dict[str, Any]
) -> list[Change]:
    from barlow.train import identity

    versions = record.get("versions")
    code = versions if isinstance(versions, dict) else {}
    before = {
        **identity.of_config(saved),
        **{name: code[name] for name in identity.of_code() if name in code},
        "data": record.get("index_digest"),
        **({"order": record["order_digest"]} if "order_digest" in record else {}),
    }
    now = {**identity.of_config(config), **identity.of_code(), **identity.of_data(config, index)}
    free = (*FREE_FIELDS, *begin.freed(run, saved, config))
    found = [c for c in identity.changes(before, now) if not c.name.startswith(free)]
    # Who mends something in a checkout means to go on with it: `prepare` says and records that.
    refused = [change for change in found if change.name not in (*begin.allow_changes, identity.CODE)]
    remedy = f"choose another --run, or allow it with --allow-changes {' '.join(c.name for c in refused)}"
    if [change.name for change in refused] == ["optim.epochs"]:
        remedy = begin.remedy(saved, config) + remedy
    if any(change.name == "data" for change in refused):
        raise ValueError(
            f"{run} was started on other data ({record.get('num_samples')} images of {record.get('data')}); "
            f"{index.source} has {len(index)} images and another index digest; {remedy}"
        )
    if refused:
        what = "by other code" if refused[0].name in identity.CODE_AND_DATA else "with another config"
        raise ValueError(f"{run} was started {what}: {'; '.join(map(str, refused))}; {remedy}")
    return found


def _is_somebodys(folder: Path) -> bool:
    # A run that died while its first file was written has nothing but a lock and part of that.
    return any(
        p.name not in (LOCK_FILE, SLURM_FOLDER) and not durable.is_leftover(p.name) for p in folder.iterdir()
    )


def _refuse_what_was_imported_for_evaluation(run: Path) -> None:
    imported: object = None
    with contextlib.suppress(OSError, ValueError):  # no run; or without a record, which is missed later on
        imported = durable.read_json(run / RUN_FILE).get(IMPORTED)
    if isinstance(imported, dict) and imported.get("cannot_train"):
        raise ValueError(f"{run} can't be trained further: {imported['cannot_train']}")


def _check_micro_batches(run: Path, saved: Config, saved_size: int, config: Config, world_size: int) -> None:
    # Each micro-batch is a group that batch norm averages over, on all processes together.
    before, now = num_micro_batches(saved, saved_size), num_micro_batches(config, world_size)
    if before != now:
        images = config.optim.batch_size // world_size
        fitting = next((m for m in range(1, images) if -(-images // m) == before), 0)
        remedy = f"--train.micro-batch {fitting}" if fitting or before == 1 else "fewer processes"
        raise ValueError(
            f"{run} was started with {before} micro-batches a step and this makes {now}, which is another "
            f"batch norm; go on with {remedy} or choose another --run"
        )


def prepare(
    run: Path,
    config: Config,
    data: Path,
    index: Index,
    world_size: int,
    preset: str | None,
    device: torch.device | None,
    begin: Beginning = Beginning(),  # noqa: B008 (frozen)
    changes: Sequence[Change] = (),
) -> None:
    """Writes the resolved config and what a reader needs to repeat the run. A launcher knows no `device`.

    The record keeps all `changes` that were ever allowed, each with the newest checkpoint's step then.
    """
    import torch

    from barlow.train import identity
    from barlow.train.checkpoint import CHECKPOINTS, newest_step

    path = run / RUN_FILE
    before: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):  # nothing hangs on it: it is written anew
        before = durable.read_json(path)
    samples = identity.of_data(config, index)
    for change in changes:
        if change.name == identity.CODE and change.name not in begin.allow_changes:
            warnings.warn(
                f"{run} goes on with other files of the same version of barlow: {change}; run.json keeps it",
                stacklevel=2,
            )
    changed = [
        {"after_step": newest_step(run / CHECKPOINTS), "name": c.name, "before": c.before, "now": c.now}
        for c in changes
    ]
    record = {
        "data": str(data.absolute()),
        "num_samples": len(index),
        "index_digest": samples["data"],
        "order_digest": samples["order"],
        "preset": preset or before.get("preset"),
        "world_size": world_size,
        "device": torch.cuda.get_device_name(device) if device and device.type == "cuda" else str(device),
        "started_s": before.get("started_s", time.time()),
        "versions": {
            "python": platform.python_version(),
            **identity.of_code(),
            **identity.of_libraries(),
            "numpy": metadata.version("numpy"),
        },
        "changes": [*before.get("changes", []), *changed],
        **({IMPORTED: before[IMPORTED]} if IMPORTED in before else {}),
    }
    saved = load(run / CONFIG_FILE) if (run / CONFIG_FILE).exists() else None
    record |= begin.record(before, saved, config, newest_step(run / CHECKPOINTS))
    files = [(run / CONFIG_FILE, to_json(config)), (path, json.dumps(record, indent=2) + "\n")]
    # A new folder is a run by its config; in an old one the record tells first what the config will have.
    for file, text in files if saved is None else reversed(files):
        durable.write_file(file, text)


def _as_rank(
    data: Path, config: Config, run: Path, preset: str | None, begin: Beginning, judge: MakeJudge | None
) -> int:
    """Trains as one rank; the number of the signal that stopped the run, or 0."""
    from barlow.data import open_index
    from barlow.distributed import agree, barrier, gather_values, process_group
    from barlow.train import identity
    from barlow.train.loop import train
    from barlow.train.watch import Watch

    with contextlib.ExitStack() as stack:
        world = stack.enter_context(process_group())
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(only_the_first_failure_speaks())
        stack.enter_context(Watch(world, config.train.lost_after))
        if world.rank > 0:
            warnings.simplefilter("ignore")  # the first rank gives the same ones
        # First of all: whatever else they do together hangs or fails if they disagree on this.
        facts = {**identity.of_code(), **identity.of_libraries(), **identity.of_config(config)}
        if identity.CODE in begin.allow_changes:
            del facts[identity.CODE]
        agree(facts)
        index = open_index(data)
        _by_the_first(world, lambda: check(config, index, world.size, run, begin))
        agree(identity.of_data(config, index))

        def claim() -> None:
            if not launcher_holds_run():
                stack.enter_context(alone(run))
            # Again: now nobody else changes the folder.
            changes = check(config, index, world.size, run, begin)
            prepare(
                run,
                config,
                data,
                index,
                world.size,
                preset,
                device=world.device,
                begin=begin,
                changes=changes,
            )

        _by_the_first(world, claim)
        neighbours = gather_values(socket.gethostname()).count(socket.gethostname())
        threads = max(1, len(os.sched_getaffinity(0)) // neighbours)
        with told(run if world.rank == 0 else None) as outcome:
            stopped_by = outcome.stopped_by = train(index, config, run, world, threads, judge)
        barrier()
    return stopped_by


def _by_the_first(world: World, act: Callable[[], object]) -> None:
    """Acts on the first rank. Its refusal is one on every rank, so that each machine's log has it."""
    from barlow.distributed import broadcast_value

    refusal = None
    if world.rank == 0:
        try:
            act()
        except ValueError as error:
            refusal = str(error)
    if (refusal := broadcast_value(refusal)) is not None:
        raise ValueError(refusal)
