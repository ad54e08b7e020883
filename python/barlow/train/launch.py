"""Here: from a command to running ranks: every check before anything is written, the run folder, torchrun.

Not here: training (`loop.py`), the command line's syntax.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import logging
import os
import platform
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from barlow import __version__, durable
from barlow.config import Config, load, to_json
from barlow.train import tracker
from barlow.train.lock import FILE_NAME as LOCK_FILE
from barlow.train.lock import alone, refuse_if_running
from barlow.train.preempt import SIGNALS, Requests, end_at_once, exit_code
from barlow.train.status import told
from barlow.validation import num_micro_batches, validate

if TYPE_CHECKING:  # the command line imports this file, and torch takes seconds
    import torch

    from barlow.data import Index
    from barlow.train.observer import MakeJudge

CONFIG_FILE = "config.json"
RUN_FILE = "run.json"
IMPORTED = "imported"
"""Entry of run.json that says which file of another trainer the run began with (barlow.official)."""
_LAUNCHER = "BARLOW_LAUNCHER_PID"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Fields that may change when a run goes on: they decide when and how it executes, not what it computes. (What
# becomes of damaged images is among them: up to the one that ended a run it makes no difference.)
FREE_FIELDS = (
    "train.steps", "train.log_every", "data.threads", "data.prefetch", "data.device_stage", "data.on_error",
    "data.max_replaced", "objective.form", "checkpoint.", "evaluate.", "train.wandb",
    "train.compile", "train.fused_lars", "train.channels_last", "train.gradient_compression",
    "train.micro_batch",  # within the bounds of `_check_micro_batches`
)  # fmt: skip


def launch(
    data: Path,
    config: Config,
    run: Path,
    *,
    nproc: int = 0,
    preset: str | None = None,
    judge: MakeJudge | None = None,
) -> None:
    """Trains on `data` in the folder `run`, or goes on from its newest checkpoint; returns when it is done.

    Starts `nproc` ranks (0: one for each GPU, else one); inside torchrun or SLURM this process is one rank.
    `ValueError`, `DataError` or `OSError` for whatever cannot work, before anything is written or started;
    `SystemExit` with the exit code of the rank that failed first, which has shown its own error, or with
    128 + the number of the SIGTERM or SIGUSR1 that stopped the run. `judge` is as in `observer.MakeJudge`.
    """
    data, run = Path(data).absolute(), Path(run).absolute()
    if not in_rank():
        refuse_if_running(run)  # before the slow imports
    import torch

    from barlow.data import open_index

    nproc = nproc or max(1, torch.cuda.device_count())
    if nproc > 1 and not in_rank():
        index = open_index(data)
        check(config, index, nproc, run)
        with alone(run):
            check(config, index, nproc, run)  # again: now nobody else changes the folder
            prepare(run, config, data, index, nproc, preset, device=None)
            start_ranks(nproc, ["-m", "barlow", "--", "train", str(data), "--run", str(run)])
    elif stopped_by := _as_rank(data, config, run, preset, judge):
        raise SystemExit(exit_code(stopped_by))


def check(config: Config, index: Index, world_size: int, run: Path) -> None:
    """Raises `ValueError` for a config that cannot run on this data, or a folder that holds another run."""
    import torch

    from barlow.data import views
    from barlow.data.staged import check_stage
    from barlow.model.precision import training_dtype
    from barlow.train.checkpoint import CHECKPOINTS, newest_step

    if len(index) == 0:
        raise ValueError(f"{index.source} holds no images")
    _refuse_what_was_imported_for_evaluation(run)
    validate(config, num_samples=len(index), world_size=world_size)
    views.training(config.data)
    check_stage(config.data.device_stage)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training_dtype(config.train.precision, device, config.model, config.data.image_size)
    tracker.check(config.train.wandb)
    if run.exists() and not run.is_dir():
        raise ValueError(f"--run {run} is a file")
    if not (run / CONFIG_FILE).exists():
        if run.is_dir() and any(path.name != LOCK_FILE for path in run.iterdir()):
            raise ValueError(f"--run {run} is neither empty nor a run of barlow")
        return
    if newest_step(run / CHECKPOINTS) is None:
        return  # until there is a checkpoint, the folder binds nobody
    saved = load(run / CONFIG_FILE)
    changed = [text for text in _differences(saved, config) if not text.startswith(FREE_FIELDS)]
    if changed:
        raise ValueError(f"{run} was started with another config: {'; '.join(changed)}; choose another --run")
    record = durable.read_json(run / RUN_FILE)
    if record.get("index_digest") != index.digest():
        raise ValueError(
            f"{run} was started on other data ({record.get('num_samples')} images of {record.get('data')}); "
            f"{index.source} has {len(index)} images and another index digest"
        )
    _check_micro_batches(run, saved, record.get("world_size", 1), config, world_size)


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
) -> None:
    """Writes the resolved config and what a reader needs to repeat the run. A launcher knows no `device`."""
    import torch

    path = run / RUN_FILE
    before: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):  # nothing hangs on it: it is written anew
        before = durable.read_json(path)
    record = {
        "data": str(data),
        "num_samples": len(index),
        "index_digest": index.digest(),
        "preset": preset or before.get("preset"),
        "world_size": world_size,
        "device": torch.cuda.get_device_name(device) if device and device.type == "cuda" else str(device),
        "started_s": before.get("started_s", time.time()),
        "versions": {
            "python": platform.python_version(),
            "barlow": __version__,
            "torch": metadata.version("torch"),
            "numpy": metadata.version("numpy"),
        },
        **({IMPORTED: before[IMPORTED]} if IMPORTED in before else {}),
    }
    durable.write_file(run / CONFIG_FILE, to_json(config))
    durable.write_file(path, json.dumps(record, indent=2) + "\n")


def in_rank() -> bool:
    """Whether torchrun or srun started this process as one of several."""
    return "RANK" in os.environ or int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def follow_launcher() -> None:
    """In a rank that `launch` started: ends with the launcher, and leaves Ctrl-C to it. Elsewhere nothing.

    To be called before the slow imports: both can happen while they last.
    """
    if _LAUNCHER not in os.environ:
        return
    # Without its launcher a rank would train on unseen, beside the run that is started next.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ[_LAUNCHER]):
        raise SystemExit(1)
    signal.signal(signal.SIGINT, _interrupted)
    logging.getLogger("barlow").setLevel(logging.WARNING)  # the launcher has given the notes


def _interrupted(number: int, frame: FrameType | None) -> NoReturn:
    # A terminal's Ctrl-C arrives twice, by itself and through torchrun: the second one would cut short
    # what the first has set off.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise SystemExit(130)


def _as_rank(data: Path, config: Config, run: Path, preset: str | None, judge: MakeJudge | None) -> int:
    """Trains as one rank; the number of the signal that stopped the run, or 0."""
    from barlow.data import open_index
    from barlow.distributed import agree, barrier, gather_values, process_group
    from barlow.train.loop import train

    with contextlib.ExitStack() as stack:
        world = stack.enter_context(process_group())
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(_only_the_first_failure_speaks())
        if world.rank > 0:
            warnings.simplefilter("ignore")  # the first rank gives the same ones
        index = open_index(data)
        if world.rank == 0:
            check(config, index, world.size, run)
            if _LAUNCHER not in os.environ:  # which would hold it
                stack.enter_context(alone(run))
                check(config, index, world.size, run)
        agree("the version of barlow", __version__)
        agree("the config", to_json(config))
        agree("the data", index.digest())
        if world.rank == 0:
            prepare(run, config, data, index, world.size, preset, device=world.device)
        neighbours = gather_values(socket.gethostname()).count(socket.gethostname())
        threads = max(1, len(os.sched_getaffinity(0)) // neighbours)
        with told(run if world.rank == 0 else None) as outcome:
            stopped_by = outcome.stopped_by = train(index, config, run, world, threads, judge)
        barrier()
    return stopped_by


def start_ranks(nproc: int, arguments: list[str]) -> None:
    """Runs `torchrun ARGUMENTS` with `nproc` ranks, without torchrun's own words, which would bury a rank's.

    SIGTERM and SIGUSR1 are passed on to the ranks, which have half a minute (or the seconds of torchrun's
    TORCH_ELASTIC_SHUTDOWN_TIMEOUT) to end by themselves; with the second such signal everything ends at once.
    `SystemExit` with 128 + the number of the signal, or the exit code of the rank that failed first.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # torchrun would set 1 and warn; this is what the ranks will use anyway.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // nproc)))
    os.environ[_LAUNCHER] = str(os.getpid())
    with tempfile.TemporaryDirectory(prefix="barlow-") as logs, _passing_signals_on():
        options = ["--standalone", "--nproc-per-node", str(nproc), "--log-dir", logs]
        if "--signals-to-handle" in torchrun.get_args_parser().format_help():
            # Without those of `_passing_signals_on`. Older versions put their own handler in SIGTERM's place;
            # it doesn't tell a copy of the signal from a second one.
            options += ["--signals-to-handle", "SIGINT,SIGHUP,SIGQUIT"]
        logging.disable(logging.CRITICAL)
        try:
            torchrun.run(torchrun.parse_args([*options, *arguments]))
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(exit_code(error.sigval)) from None
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if failure.exitcode < 0:
                name = signal.Signals(-failure.exitcode).name
                print(f"barlow: error: rank {rank} was killed by {name}", file=sys.stderr)
            code = failure.exitcode
            raise SystemExit(code if code > 0 else exit_code(-code)) from None
        finally:
            logging.disable(logging.NOTSET)
            del os.environ[_LAUNCHER]


@contextlib.contextmanager
def _passing_signals_on() -> Iterator[None]:
    """Inside, a request to stop ends torchrun in such a way that it passes the signal on and waits.

    Afterwards all handlers are as before: torchrun leaves those it installs, and the caller's process may
    have more to do.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException

    requests = Requests()

    def pass_on(number: int, frame: FrameType | None) -> None:
        request = requests.count(number)
        if request == 2:
            end_at_once(number)  # and the ranks with it (`follow_launcher`)
        if request == 1:
            raise SignalException(f"got {signal.Signals(number).name}", signal.Signals(number))

    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)}
    try:
        before |= {name: signal.signal(name, pass_on) for name in SIGNALS}
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


@contextlib.contextmanager
def _only_the_first_failure_speaks() -> Iterator[None]:
    """Lets the error of the rank that failed first through and turns those it causes in others into silence.

    torchrun gives each rank of an attempt a folder in one parent: whoever makes the marker there was first.
    """
    place = os.environ.get("TORCHELASTIC_ERROR_FILE")
    try:
        yield
    except Exception as error:
        if place:
            try:
                (Path(place).parent.parent / "first-failure").touch(exist_ok=False)
            except FileExistsError:
                raise SystemExit(1) from None
        if _lost_contact(error):
            # Whoever is gone said why, or could not: a traceback of this rank's explains nothing.
            rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "?"))
            print(f"barlow: error: rank {rank} has lost another rank", file=sys.stderr, flush=True)
            raise SystemExit(1) from None
        raise


def _lost_contact(error: Exception) -> bool:
    """Whether a collective failed because a peer is gone. gloo and NCCL say so in their texts only."""
    text = str(error)
    gloo = "gloo" in text and ("by peer" in text or "Broken pipe" in text)
    return isinstance(error, RuntimeError) and (gloo or "remote process exited" in text)


def _differences(before: Config, after: Config) -> list[str]:
    """`section.field: old -> new` for each field that differs."""
    old, new = dataclasses.asdict(before), dataclasses.asdict(after)
    return [
        f"{section}.{name} is {old[section][name]} there and {value} here"
        for section, fields in new.items()
        for name, value in fields.items()
        if old[section][name] != value
    ]
