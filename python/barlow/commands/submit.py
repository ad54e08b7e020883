"""Here: the subcommand submit: the flags of train and of a SLURM job to a job, or to its batch script.

Not here: the job (train/submit.py), the flags of train by themselves (cli.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import tyro

from barlow.commands.arguments import MAX_PROCESSES, MAX_THREADS, Data, check
from barlow.config import PRESETS, Config
from barlow.train.launch import CONFIG_FILE
from barlow.train.lock import refuse_if_running
from barlow.train.submit import Slurm, Task, minutes, script
from barlow.train.submit import submit as hand_over


def submitting(default: Config) -> Callable[..., None]:
    """The subcommand with one config's values as the defaults of its flags."""

    def submit(
        data: Data,
        *,
        run: Path,
        preset: Annotated[str | None, tyro.conf.arg(metavar=f"{{{','.join(PRESETS)}}}")] = None,
        method: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
        ablation: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
        nproc: int = 0,
        allow_changes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = (),
        print_only: bool = False,
        slurm: Annotated[Slurm, tyro.conf.arg(name="")] = Slurm(),  # noqa: B008
        config: Annotated[Config, tyro.conf.arg(name="")] = default,
    ) -> None:
        """Trains as a SLURM job that requeues itself until the run is done.

        Prints the job's id. The flags are those of train, and what to ask SLURM for. Shortly before the time
        limit, and when the job is preempted, every process finishes its step, a checkpoint is written and the
        job is requeued. The output of the processes is in RUN/slurm. Needs submitit (docs/multi-node.md).

        Args:
            data: Shards, or a tar or folder of images, where the nodes find them.
            run: Folder of the run, where the nodes find it.
            preset: Recipe that the other flags change.
            method: Train by another method than Barlow Twins, such as byol or vicreg (docs/ablations.md).
            ablation: A row of the paper's ablations (docs/ablations.md).
            nproc: Processes on each node; 0 is one for each GPU, or one.
            allow_changes: As in train.
            print_only: Print the batch script and submit nothing.
            slurm: What SLURM is asked for.
            config: The recipe.
        """
        if preset is None and not (run / CONFIG_FILE).exists():
            raise ValueError(f"--preset is needed to start a run: one of {', '.join(PRESETS)}")
        check("--nproc", nproc, 0, MAX_THREADS)
        check("--gpus", slurm.gpus, 0, MAX_THREADS)
        check("--nodes", slurm.nodes, 1, MAX_PROCESSES)
        check("--max-restarts", slurm.max_restarts, 0, MAX_THREADS)
        check("--grace", slurm.grace, 30, 60 * minutes(slurm.time))
        processes = nproc or slurm.gpus or 1
        refuse_if_running(run)
        _check(config, data, processes * slurm.nodes, allow_changes)
        data, run = data.absolute(), run.absolute()
        named = {"preset": preset, "method": method, "ablation": ablation}
        arguments = ["train", str(data), "--run", str(run)]
        arguments += [word for name, value in named.items() if value for word in (f"--{name}", value)]
        arguments += flags(config, default)
        arguments += ["--allow-changes", *allow_changes] if allow_changes else []
        task = Task(arguments, processes, slurm.max_restarts)
        if print_only:
            print(script(run, task, slurm), end="")
        else:
            job = hand_over(run, task, slurm)
            print(f"submitted job {job}; its output will be in {run / 'slurm'}")

    return submit


def _check(config: Config, data: Path, world_size: int, allowed: tuple[str, ...]) -> None:
    """What can be known here: a job that has waited for a day should not end with a misspelt flag."""
    from barlow.data import open_index, views
    from barlow.train.identity import check_names
    from barlow.validation import validate

    check_names(allowed)
    validate(config, num_samples=len(open_index(data)), world_size=world_size)
    views.training(config.data)


def flags(config: Config, default: Config) -> list[str]:
    """The flags that make the one config of the other."""
    return [word for section in dataclasses.fields(Config) for word in _words(config, default, section.name)]


def _words(config: Config, default: Config, section: str) -> Iterator[str]:
    before = dataclasses.asdict(getattr(default, section))
    for name, value in dataclasses.asdict(getattr(config, section)).items():
        flag = name.replace("_", "-")
        if value == before[name]:
            continue
        if isinstance(value, bool):
            yield f"--{section}.{'' if value else 'no-'}{flag}"
        elif isinstance(value, tuple):
            yield from (f"--{section}.{flag}", *map(str, value))
        else:
            yield f"--{section}.{flag}={value}"
