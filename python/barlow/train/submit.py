"""Here: a training run as a SLURM job, through submitit: the batch script, what each node runs, requeueing.

Not here: the command line (commands/submit.py), what a node's processes do (node.py, ranks.py).

submitit writes the batch script, starts one task on each node, counts time-outs and calls `scontrol requeue`.
It carries what a task is to do through a pickle. All that is in ours is the name of `Task` and a command
line, so nothing of a run depends on it: checkpoints, config and weights are in the run's own files.
"""

# The package is optional.
# pyright: reportMissingImports=false

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from barlow.train.preempt import exit_code

FOLDER = "slurm"
"""In the run's folder: batch scripts, submitit's files, the output of every task."""
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?")
_FIRST_PORT, _PORTS = 12288, 16384  # below those that outgoing connections take by chance


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """What SLURM is asked for."""

    partition: str | None = None
    """Partition; by default the cluster's."""
    nodes: int = 1
    """Machines."""
    gpus: int = 0
    """GPUs of each node."""
    time: str = "24:00:00"
    """Limit of one stretch, as sbatch has it: minutes, hours:minutes:seconds or days-hours[:minutes]."""
    cpus: int = 0
    """Cores of each node; 0 is the cluster's default."""
    mem: float = 0.0
    """Memory of each node in GB; 0 is the cluster's default."""
    account: str | None = None
    """Account that pays."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features that nodes must have."""
    job_name: str | None = None
    """Name in the queue; by default that of the run's folder."""
    grace: int = 120
    """Seconds before the limit at which the run saves and goes back into the queue."""
    stretches: int = 1000
    """How often it may go back after reaching the limit; preemptions do not count."""
    max_restarts: int = 3
    """Restarts from the last checkpoint, in one stretch, after a process has died."""
    sbatch: tuple[str, ...] = ()
    """Further options of sbatch as NAME=VALUE, such as exclude=node7."""
    setup: tuple[str, ...] = ()
    """Shell commands before the run, such as "module load cuda"."""


def script(run: Path, task: Task, slurm: Slurm) -> str:
    """The batch script that `submit` would hand to sbatch. `ValueError` as there."""
    executor = _executor(run, task, slurm)
    return executor._make_submission_file_text(executor._submitit_command_str, "")


def submit(run: Path, task: Task, slurm: Slurm) -> str:
    """Hands the job to sbatch and gives its id. `ValueError` without submitit or SLURM, or if it refuses."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = _executor(run, task, slurm)
    (run / FOLDER).mkdir(parents=True, exist_ok=True)
    try:
        return str(executor.submit(task).job_id)
    except (FailedJobError, FailedSubmissionError) as error:
        raise ValueError(f"sbatch refused the job: {error}") from error


def minutes(time: str) -> int:
    """Of a limit as sbatch writes it, rounded up."""
    match = _TIME.fullmatch(time)
    if match is None:
        raise ValueError(f"--time {time!r} is none of MINUTES, HOURS:MINUTES:SECONDS, DAYS-HOURS[:MINUTES]")
    days, *given = (int(part) if part else 0 for part in match.groups())
    if match["days"] or match["third"]:
        hours, mins, seconds = given
    else:
        hours, (mins, seconds, _) = 0, given
    total = (days * 24 + hours) * 60 + mins + -(-seconds // 60)
    if total < 1:
        raise ValueError(f"--time {time} is no time")
    return total


class Task:
    """What submitit runs on each node: the node's processes, until they have ended or are to be requeued."""

    def __init__(self, arguments: list[str], nproc: int, max_restarts: int) -> None:
        """`arguments` are those of `barlow`, for `nproc` processes on every node."""
        self.arguments, self.nproc, self.max_restarts = arguments, nproc, max_restarts

    def command(self, nodes: int, job: str, endpoint: str) -> list[str]:
        """The node's command line; all `nodes` nodes of the job meet at `endpoint`."""
        options = (
            "--nnodes", nodes, "--nproc-per-node", self.nproc, "--max-restarts", self.max_restarts,
            "--rdzv-backend", "c10d", "--rdzv-id", job, "--rdzv-endpoint", endpoint,
        )  # fmt: skip
        return [sys.executable, "-m", "barlow.train.node", *map(str, options), "--", *self.arguments]

    def __call__(self) -> None:
        """Runs the node's processes; `SystemExit` with their exit code unless that is 0."""
        from submitit import JobEnvironment

        job = JobEnvironment()
        number = int(job.raw_job_id)
        endpoint = f"{job.hostnames[0]}:{_FIRST_PORT + number % _PORTS}"
        command = self.command(job.num_nodes, job.raw_job_id, endpoint)
        # SLURM sends the job's signal to every process of a step, and it would kill those that don't know it.
        self._process = subprocess.Popen(command, preexec_fn=_ignore_user_signals)
        signal.signal(signal.SIGTERM, self._stop)
        self._wait()
        if code := self._process.wait():
            raise SystemExit(code if code > 0 else exit_code(-code))

    def checkpoint(self) -> Any:
        """Ends the run with a checkpoint; submitit calls it on the job's signal and queues what it gives."""
        from submitit.helpers import DelayedSubmission

        self._stop()
        self._wait()
        return DelayedSubmission(Task(self.arguments, self.nproc, self.max_restarts))

    def _stop(self, number: int = signal.SIGTERM, frame: FrameType | None = None) -> None:
        # A SIGTERM of SLURM's comes with a preemption, after which SLURM requeues the job itself, and with
        # scancel, after which nobody should. Either way the run saves, and submitit is not asked.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGTERM)

    def _wait(self) -> None:
        # Popen.wait holds a lock meanwhile, and a signal's handler could never wait inside of it.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)


def _ignore_user_signals() -> None:
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def _executor(run: Path, task: Task, slurm: Slurm) -> Any:
    try:
        from submitit import SlurmExecutor
    except ImportError:
        raise ValueError("barlow submit needs submitit: pip install 'submitit<2'") from None
    try:
        executor = SlurmExecutor(run / FOLDER, max_num_timeout=slurm.stretches)
    except RuntimeError:
        raise ValueError("there is no srun here: submit on a machine of a SLURM cluster") from None
    further = dict(_named(option) for option in slurm.sbatch)
    shown = shlex.join(task.command(slurm.nodes, "$SLURM_JOB_ID", "FIRST_NODE:PORT"))
    asked = {
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "gpus_per_node": slurm.gpus or None,
        "cpus_per_task": slurm.cpus or None,
        "mem": f"{round(slurm.mem * 1024)}MB" if slurm.mem else None,
    }
    executor.update_parameters(
        nodes=slurm.nodes,
        ntasks_per_node=1,
        time=minutes(slurm.time),
        signal_delay_s=slurm.grace,
        job_name=slurm.job_name or run.name,
        additional_parameters={"requeue": True, **further},
        setup=[*slurm.setup, f"# On each node: {shown}"],
        **{name: value for name, value in asked.items() if value is not None},
    )
    return executor


def _named(option: str) -> tuple[str, str]:
    name, equals, value = option.partition("=")
    if not name or not equals:
        raise ValueError(f"--sbatch {option} must be NAME=VALUE")
    return name.lstrip("-"), value
