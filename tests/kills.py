"""Kills a training run again and again, and looks at what is left: `python tests/kills.py --kills 200`.

A tiny run saves every few steps in the background. Each of its lives ends by SIGKILL at a random moment (half
of them just after a checkpoint has begun to be written or removed), and after each death

- every folder that bears a checkpoint's name verifies, no folder that a reader would take is litter;
- the newest is at most one interval behind the step that had been begun, by the count of this process;
- the metrics up to it are all there.

A life that ends by itself must leave weights, momentum, position of the loader and metrics bit for bit as a
run that was never killed. Then the next run begins. This process only imports what a run needs; every life is
a fork of it, so that one costs a second and not five.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from barlow import durable
from barlow.config import Config
from barlow.train import launch, loop  # noqa: F401 (a life needs it and shall not have to import it)
from barlow.train.learner import Learner
from commands import make_images, metrics
from tiny_run import tiny_config

EPOCHS = 4
STEPS_PER_EPOCH = 6
COMPARED = ("model.safetensors", "optim.safetensors")


class Steps:
    """The last step begun and the last one finished, in memory that a life shares with who kills it."""

    def __init__(self) -> None:
        self._both = (ctypes.c_int64 * 2).from_buffer(mmap.mmap(-1, 16))

    @property
    def begun(self) -> int:
        return self._both[0]

    @property
    def finished(self) -> int:
        return self._both[1]

    def begin_at(self, step: int) -> None:
        """As of a life that has begun no step yet."""
        self._both[:] = (step, step)

    def watch(self) -> None:
        """From now on this process's steps are counted."""
        make = Learner.step

        def counted(learner: Learner, step: int, *arguments: Any, **how: Any) -> Any:
            self._both[0] = step
            result = make(learner, step, *arguments, **how)
            self._both[1] = step
            return result

        Learner.step = counted  # pyright: ignore[reportAttributeAccessIssue]


def configuration(interval: int) -> Config:
    """24 steps, a checkpoint every so many, the newest two kept and every second epoch's for good."""
    config = tiny_config(epochs=EPOCHS, width=4)
    return replace(
        config,
        optim=replace(config.optim, batch_size=8),
        checkpoint=replace(config.checkpoint, every_steps=interval, keep=2, keep_every_epochs=2),
    )


def life(images: Path, config: Config, run: Path, log: Path, steps: Steps) -> int:
    """Forks a process that trains in the folder; its id. It leaves by its exit code, never into our code."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        # One core each: two threads that wait for each other are slow where others work too.
        os.sched_setaffinity(0, {random.choice(sorted(os.sched_getaffinity(0)))})
        steps.watch()
        launch(images, config, run, nproc=1)
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def outcome(run: Path) -> dict[str, Any]:
    """What a finished run must have in common with every other."""
    folder = run / "checkpoints"
    last = folder / f"step-{EPOCHS * STEPS_PER_EPOCH:08d}"
    state = json.loads((last / "state.json").read_text())
    return {
        "files": {name: (last / name).read_bytes() for name in COMPARED},
        "state": {name: state[name] for name in ("step", "loader", "scaler")},
        "metrics": metrics(run),
        "checkpoints": sorted(path.name for path in folder.iterdir()),
    }


def after_death(run: Path, steps: Steps, interval: int) -> tuple[str, int]:
    """At what moment it came, and the step of the newest checkpoint; checks all that is left."""
    folder = run / "checkpoints"
    names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    whole = [name for name in names if "." not in name]
    for name in whole:
        durable.verify_folder(folder / name, (*COMPARED, "state.json"))
    newest = int(whole[-1][5:]) if whole else 0
    assert newest <= steps.finished <= steps.begun <= newest + interval, (newest, steps.finished, steps.begun)
    lines = run / "metrics.jsonl"
    text = lines.read_bytes() if lines.exists() else b""
    told = [json.loads(line)["step"] for line in text.split(b"\n")[:-1]]
    assert told == list(range(1, len(told) + 1)), told
    assert newest <= len(told) or not text, (newest, len(told))  # no checkpoint without the lines up to it
    if any(".tmp-" in name for name in names):
        return "a checkpoint was being written", newest
    if any(".old-" in name for name in names):
        return "one was being removed", newest
    return "between two" if whole else "before the first", newest


def kill_somewhere(pid: int, run: Path, draw: random.Random, longest_s: float) -> bool:
    """Kills at a random moment of a life; False if it was over before."""
    folder, deadline_s = run / "checkpoints", time.monotonic() + draw.uniform(0, longest_s)
    passed, wanted = 0, draw.randrange(1, 6) if draw.random() < 0.5 else 0
    before: set[str] = set()
    while time.monotonic() < deadline_s or wanted:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return False
        if wanted:
            now = {path.name for path in folder.glob(f"*-{pid}")}
            passed += len(now - before)
            before = now
            if passed >= wanted:
                time.sleep(draw.uniform(0, 0.02))
                break
        time.sleep(0.0005)
    os.kill(pid, signal.SIGKILL)
    return True


def kill_until(kills: int, interval: int, seed: int, folder: Path) -> dict[str, Any]:
    """Does it all in `folder`; the numbers. `AssertionError`, `Damaged` for whatever is not as it must be."""
    images, config = make_images(folder / "images", STEPS_PER_EPOCH * 8, side_px=16), configuration(interval)
    draw, began_s, log = random.Random(seed), time.monotonic(), folder / "log"
    steps = Steps()
    assert os.waitpid(life(images, config, folder / "unbroken", log, steps), 0)[1] == 0, log.read_text()
    longest_s = time.monotonic() - began_s
    expected = outcome(folder / "unbroken")
    assert [line["step"] for line in expected["metrics"]] == list(range(1, EPOCHS * STEPS_PER_EPOCH + 1))
    assert steps.finished == EPOCHS * STEPS_PER_EPOCH
    moments: Counter[str] = Counter()
    lost: Counter[int] = Counter()
    finished, newest, run = 0, 0, folder / "run"
    while moments.total() < kills:
        steps.begin_at(newest)
        pid = life(images, config, run, log, steps)
        killed = kill_somewhere(pid, run, draw, longest_s)
        status = os.waitpid(pid, 0)[1]
        if os.WIFSIGNALED(status) and killed:
            moment, newest = after_death(run, steps, interval) if run.exists() else ("before anything", 0)
            moments[moment] += 1
            lost[steps.finished - newest] += 1
            if moments.total() % 100 == 0:
                print(dict(moments), dict(sorted(lost.items())), file=sys.stderr, flush=True)
            continue
        assert status == 0, log.read_text()[-3000:]
        found = outcome(run)
        for part, value in expected.items():
            assert found[part] == value, (part, found[part], value) if part != "files" else part
        finished, newest = finished + 1, 0
        shutil.rmtree(run)
    return {
        "kills": moments.total(),
        "finished runs, all bit-equal": finished,
        "moments": dict(moments.most_common()),
        "steps between checkpoints": interval,
        "steps lost: kills": dict(sorted(lost.items())),
        "seconds": round(time.monotonic() - began_s),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--interval", type=int, default=3, help="steps between two checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work; on a tmpfs a checkpoint takes no time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="barlow-kills-", dir=arguments.folder) as folder:
        found = kill_until(arguments.kills, arguments.interval, arguments.seed, Path(folder))
        print(json.dumps(found))


if __name__ == "__main__":
    main()
