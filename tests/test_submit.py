"""`barlow submit` against a stand-in for SLURM: its commands are scripts on the PATH that record their calls.

submitit is the real one, and so are the processes: `srun` starts a task on each of two "nodes", and the test
sends signals as SLURM does, to every process of a step.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest

import processes
from barlow.config import Config, load
from barlow.data import open_index
from barlow.distributed import World
from barlow.train.loop import train
from barlow.train.submit import minutes
from commands import TINY, Result, barlow_here, descendants, make_images, metrics, tensors, the_error

Capture = pytest.CaptureFixture[str]
JOB = 4242
LONG = (*TINY, "--optim.epochs", "5000", "--train.log_every", "1", "--checkpoint.every_epochs", "5000")
SBATCH = """#!/bin/sh
echo "sbatch $*" >> "$CLUSTER/calls"
cp "$1" "$CLUSTER/batch"
echo "Submitted batch job 4242"
"""
# A job that goes back into the queue leaves its nodes: SLURM ends what still runs there.
SCONTROL = """#!/bin/sh
echo "scontrol $*" >> "$CLUSTER/calls"
kill -TERM $(cat "$CLUSTER/tasks")
"""
SRUN = r"""#!/bin/bash
echo "srun $*" >> "$CLUSTER/calls"
while [[ "$1" == --* ]]; do
    case "$1" in --output) out=$2; shift ;; --error) err=$2; shift ;; esac
    shift
done
export SLURM_JOB_ID=4242 SLURM_JOB_NUM_NODES=2 SLURM_NTASKS=2 SLURM_STEP_NUM_TASKS=2
export SLURM_JOB_NODELIST=localhost,localhost SLURM_LOCALID=0
for node in 0 1; do
    task=${out//%j/4242}; wrong=${err//%j/4242}
    SLURM_PROCID=$node SLURM_NODEID=$node "$@" >> "${task//%t/$node}" 2>> "${wrong//%t/$node}" &
    tasks[node]=$!
done
echo "${tasks[@]}" > "$CLUSTER/tasks"
code=0
for task in "${tasks[@]}"; do wait "$task" || code=$?; done
exit $code
"""


@dataclass
class Cluster:
    """One whose queue is the test."""

    folder: Path

    def calls(self, name: str = "") -> list[str]:
        path = self.folder / "calls"
        return (
            [line for line in path.read_text().splitlines() if line.startswith(name)] if path.exists() else []
        )

    def begin(self) -> subprocess.Popen[str]:
        """The job gets its nodes."""
        return subprocess.Popen(["bash", self.folder / "batch"], text=True)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    pytest.importorskip("submitit", reason="needs barlow[slurm]")
    commands = tmp_path / "cluster" / "bin"
    commands.mkdir(parents=True)
    for name, text in (("sbatch", SBATCH), ("scontrol", SCONTROL), ("srun", SRUN)):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    monkeypatch.setenv("CLUSTER", str(commands.parent))
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    here = Path(__file__).parents[1] / "python"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(here), *sys.path]))
    return Cluster(commands.parent)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


def stretch(
    cluster: Cluster, run: Path, until: Callable[[], bool], number: signal.Signals
) -> tuple[int, float]:
    """The job runs until then and is signalled; its exit code, and the seconds from the signal to the end.

    The signal goes to every process of the step, ranks included, but neither to the batch shell nor to srun.
    """
    job = cluster.begin()
    try:
        deadline_s = time.monotonic() + 150
        while not until():
            assert job.poll() is None, outputs(run)
            assert time.monotonic() < deadline_s, outputs(run)
            time.sleep(0.02)
        _, *step = descendants(job.pid)
        assert len(step) >= 6, "two tasks with an agent and a rank each"
        sent_s = time.monotonic()
        for pid in step:
            os.kill(pid, number)
        return job.wait(timeout=60), time.monotonic() - sent_s
    finally:
        for pid in (*descendants(job.pid), job.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        job.wait()


def outputs(run: Path) -> str:
    return "\n".join(f"--- {p.name}\n{p.read_text()}" for p in sorted((run / "slurm").glob("*_log.*")))


def last_step(run: Path) -> int:
    path = run / "metrics.jsonl"
    return metrics(run)[-1]["step"] if path.exists() and path.read_bytes().count(b"\n") else 0


def saved_steps(run: Path) -> list[int]:
    return sorted(int(p.name[5:]) for p in (run / "checkpoints").glob("step-????????"))


def train_here(world: World, images: Path, config: Config, run: Path) -> None:
    train(open_index(images), config, run, world, threads=1)


def test_a_job_is_requeued_and_the_run_goes_on_bit_equal(
    cluster: Cluster, images: Path, tmp_path: Path, capfd: Capture
) -> None:
    """Two nodes of one process each: the signal before the limit, then a preemption by SLURM itself."""
    run = tmp_path / "run"
    flags = ("--partition", "long", "--nodes", 2, "--time", "1-0", "--grace", 60)
    result = barlow_here(capfd, "submit", images, "--run", run, *LONG, *flags)
    assert result.code == 0, result.err
    assert f"submitted job {JOB}" in result.out
    assert [call.split()[0] for call in cluster.calls()] == ["sbatch"]

    code, took_s = stretch(cluster, run, lambda: last_step(run) >= 2, signal.SIGUSR2)
    assert code != 0
    assert took_s < 30, outputs(run)
    assert cluster.calls("scontrol") == [f"scontrol requeue {JOB}"], outputs(run)
    (first,) = saved_steps(run)
    assert f"stopped by SIGTERM after step {first}, which is saved" in outputs(run)

    code, took_s = stretch(cluster, run, lambda: last_step(run) >= first + 2, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM, outputs(run)
    assert took_s < 30
    assert cluster.calls("scontrol") == [f"scontrol requeue {JOB}"]  # SLURM requeues what it preempts
    assert saved_steps(run)[0] == first
    second = saved_steps(run)[-1]
    assert second > first
    assert [line["step"] for line in metrics(run)] == list(range(1, second + 1))

    config = load(run / "config.json")
    config = replace(config, train=replace(config.train, steps=second))
    processes.run(train_here, 2, images, config, tmp_path / "unbroken")
    assert metrics(run) == metrics(tmp_path / "unbroken")
    assert tensors(run, second) == tensors(tmp_path / "unbroken", second)


def test_the_batch_script_is_printed_and_nothing_is_submitted(
    cluster: Cluster, images: Path, tmp_path: Path, capfd: Capture
) -> None:
    run = tmp_path / "my run"
    asked = ("--partition", "a100", "--nodes", 2, "--gpus", 4, "--time", "90", "--grace", 200, "--cpus", 48,
             "--mem", 200, "--account", "vision", "--sbatch", "exclude=node7", "--setup", "module load cuda",
             "--max-restarts", 5)  # fmt: skip
    result = barlow_here(
        capfd, "submit", images, "--run", run, *TINY, *asked, "--print-only", "--train.fused-lars",
        "--objective.predictor", 16, 8,
    )  # fmt: skip
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    for line in (
        "partition=a100", "nodes=2", "gpus-per-node=4", "time=90", "signal=USR2@200", "cpus-per-task=48",
        "mem=204800MB", "account=vision", "exclude=node7", "requeue", "ntasks-per-node=1", "open-mode=append",
        "job-name='my run'",
    ):  # fmt: skip
        assert f"#SBATCH --{line}" in lines
    assert lines.index("module load cuda") < next(
        i for i, line in enumerate(lines) if line.startswith("srun")
    )
    (shown,) = [line for line in lines if line.startswith("# On each node: ")]
    assert "--nnodes 2 --nproc-per-node 4 --max-restarts 5 --rdzv-backend c10d" in shown
    assert f"-- train {images} --run '{run}' --preset demo --data.image-size" not in shown  # demo's own
    assert f"-- train {images} --run '{run}' --preset demo --model.width=8" in shown
    assert "--objective.predictor 16 8" in shown
    assert "--train.fused-lars" in shown
    assert cluster.calls() == []
    assert not run.exists()


def test_flags_make_the_config_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every field of a config at once, through the real command line."""
    from barlow import cli, train
    from barlow.commands.submit import flags

    seen: list[Config] = []
    monkeypatch.setattr(train, "launch", lambda data, config, *_, **__: seen.append(config))
    wanted = Config()
    for section in fields(Config):
        part = getattr(wanted, section.name)
        values = {field.name: another(getattr(part, field.name), str(field.type)) for field in fields(part)}
        wanted = replace(wanted, **{section.name: replace(part, **values)})
    words = flags(wanted, Config())
    assert len([word for word in words if word.startswith("--")]) == sum(
        len(fields(getattr(wanted, section.name))) for section in fields(Config)
    )
    cli._parse(["train", "images", "--run", str(tmp_path), "--preset", "imagenet", *words])()
    back = flags(Config(), wanted)
    assert seen == [wanted]
    assert "--train.no-fused-lars" in back
    assert flags(wanted, wanted) == []


def another(value: Any, kind: str) -> Any:
    """Another value of a field's type, which for fields is text."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 3
    if isinstance(value, float):
        return value / 3 + 1e-7
    if isinstance(value, tuple):
        return tuple(another(item, kind) for item in value) or (
            ("flip", "blur") if "flip" in kind else (5, 6)
        )
    names = re.findall(r"['\"](\w+)['\"]", kind)
    if kind == "Objective":
        return "byol"
    return next(name for name in names if name != value) if names else "a view -b 'c'"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--optim.batch_size", 50), "--optim.batch-size 50 is larger than the data set (48 images)"),
        (("--nodes", 3), "--optim.batch-size 8 is not divisible by the 3 processes"),
        (("--time", "soon"), "--time 'soon' is none of MINUTES"),
        (("--sbatch", "exclusive"), "--sbatch exclusive must be NAME=VALUE"),
        (("--grace", 4000, "--time", 60), "--grace must lie between 30 and 3600, not 4000"),
        (("--allow-changes", "optim.momentun"), "--allow-changes optim.momentun: there is no such name"),
    ],
)
def test_what_cannot_work_is_said_before_it_is_queued(
    cluster: Cluster, images: Path, tmp_path: Path, capfd: Capture, flags: tuple[object, ...], message: str
) -> None:
    result = barlow_here(capfd, "submit", images, "--run", tmp_path / "run", *TINY, *flags)
    assert result.code == 2
    assert the_error(result.err).startswith(message)
    assert cluster.calls() == []
    assert not (tmp_path / "run").exists()


def test_without_slurm_or_submitit_it_says_so(
    images: Path, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def submitted() -> Result:
        return barlow_here(capfd, "submit", images, "--run", tmp_path / "run", *TINY)

    monkeypatch.setitem(sys.modules, "submitit", None)
    assert "pip install 'submitit<2'" in the_error(submitted().err)
    monkeypatch.undo()
    pytest.importorskip("submitit", reason="needs barlow[slurm]")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert the_error(submitted().err).startswith("there is no srun here")


@pytest.mark.parametrize(
    ("time_", "expected"),
    [("90", 90), ("30:01", 31), ("2:00:00", 120), ("1-0", 1440), ("1-12:30", 2190), ("0-0:1:30", 2)],
)
def test_limits_are_read_as_sbatch_reads_them(time_: str, expected: int) -> None:
    assert minutes(time_) == expected


@pytest.mark.parametrize("time_", ["", "0", "1-", "a", "1:2:3:4", "-5"])
def test_other_limits_are_refused(time_: str) -> None:
    with pytest.raises(ValueError, match="--time"):
        minutes(time_)
