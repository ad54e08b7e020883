"""Stages of the loader that panic or that are slow: an ordinary exception, an ordinary end, no thread left.

The stages do it on request: the extension is built once more, with the feature `trouble`, which does not
compile in a release. Every test is a function here that runs in a process of its own with that extension.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import golden
import nursery
import test_golden
from barlow import _native
from barlow.data import Index, Loader
from commands import ROOT
from photos import loader, num_threads, samples, write_folder

WORKER_STAGES = ("read", "decode", "augment")
VICTIM = 19
"""A sample; without shuffling in step 2."""
SLOW_S = 0.25
"""What each read takes longer on the slow disk: 40 images, two threads, five seconds an epoch."""
PLAIN: dict[str, Any] = {"shuffle": False, "prefetch": 4}


def plan(stage: str | None, sample: int | None = None, delay_s: float | None = None) -> None:
    getattr(_native, "plan_trouble")(stage, sample, delay_s)  # noqa: B009 (it is in no stub: no release has it)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a package with the other extension."""
    if shutil.which("cargo") is None:
        pytest.skip("needs cargo")
    command = ["cargo", "build", "--locked", "--package", "barlow-python", "--features"]
    build = subprocess.run(
        [*command, "extension-module,trouble", "--target-dir", str(ROOT / "target")],
        env={**os.environ, "PYO3_PYTHON": sys.executable}, cwd=ROOT,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert build.returncode == 0, build.stderr[-4000:]
    package = tmp_path_factory.mktemp("trouble") / "barlow"
    package.mkdir()
    for path in (ROOT / "python" / "barlow").iterdir():
        if not path.name.startswith(("_native.", "__pycache__")):
            (package / path.name).symlink_to(path)
    shutil.copy(ROOT / "target" / "debug" / "lib_native.so", package / "_native.abi3.so")
    return package.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_folder(tmp_path_factory.mktemp("photos"))
    Index.scan(folder).write(folder)
    return folder


@pytest.fixture
def run(place: Path, folder: Path) -> Callable[..., str]:
    def run(
        function: Callable[..., None], *arguments: object, folder: Path = folder, anew: bool = False
    ) -> str:
        """`function(folder, *arguments)` in a process of its own; what it prints on standard error."""
        program = "import sys\nfrom pathlib import Path\nimport test_loader_stages as tests\n"
        program += f"tests.{function.__name__}(Path(sys.argv[1]), *sys.argv[2:])\n"
        ended = nursery.run(
            [sys.executable, "-c", program, str(folder), *map(str, arguments)],
            timeout_s=120,
            kind=subprocess.Popen if anew else nursery.forked_with(place),
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(place), *sys.path])},
            cwd=Path(__file__).parent,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stderr

    return run


def test_a_release_has_no_such_thing() -> None:
    assert not hasattr(_native, "plan_trouble")


def the_golden_samples(folder: Path) -> None:
    with test_golden.epochs_of(golden.write(folder), threads=2) as batches:
        epochs = (batch for _ in range(golden.EPOCHS) for batch in batches)
        assert golden.digest(test_golden.samples(epochs)) == test_golden.EXPECTED


def test_a_build_without_lto_and_with_overflow_checks_gives_the_golden_samples(
    run: Callable[..., str], tmp_path: Path
) -> None:
    run(the_golden_samples, folder=tmp_path)


# Panics


def caught(batches: Loader) -> tuple[list[tuple[object, ...]], str]:
    """What came before a panic, and its text."""
    seen = []
    start = time.monotonic()
    try:
        seen.extend(batches)
    except RuntimeError as error:  # an ordinary one: not pyo3's PanicException, which is no Exception
        assert time.monotonic() - start < 5
        return samples(seen), str(error)
    raise AssertionError("no panic")


def a_panic_at_one_sample(folder: Path, stage: str) -> None:
    reference = samples(loader(folder, **PLAIN))
    index = Index.open(folder)
    for settings in ({"threads": 1}, {"threads": 3}, {"on_error": "replace", "max_replaced": 1}):
        batches = loader(folder, **PLAIN, **settings)
        plan(stage, VICTIM)
        for rows in (reference[:16], []):  # trying again changes nothing
            seen, text = caught(batches)
            assert seen == rows
            assert f"{stage} of {VICTIM} was to panic" in text
            assert "please report" in text
            assert str(index.shard(VICTIM)) in text
            assert str(index.name(VICTIM)) in text
            assert batches.state_dict() == {"epoch": 0, "step": 2}
            assert num_threads() == 0
        # Where the sample is not, another loader works, while it lasts; afterwards this one goes on.
        others = index.subset(list(range(16)))
        assert len(samples(loader(others, **PLAIN))) == 16
        plan(None)
        assert samples(batches) == reference[16:]
        assert batches.damaged == []
        assert batches.stats().replaced == 0


def a_panic_in_every_thread(folder: Path, stage: str) -> None:
    reference = samples(loader(folder, **PLAIN))
    batches = loader(folder, threads=4, **PLAIN)
    plan(stage)
    for _ in range(10):
        seen, text = caught(batches)
        assert seen == []
        assert f"{stage} of 0 was to panic" in text  # the first row's, whichever was first in time
        assert num_threads() == 0
    plan(None)
    assert samples(batches) == reference


def a_panic_in_delivery(folder: Path) -> None:
    """In the consumer's own thread, with a filled batch in its hands."""
    reference = samples(loader(folder, **PLAIN))
    batches = loader(folder, **PLAIN)
    plan("deliver", 2)
    for rows in (reference[:16], []):
        seen, text = caught(batches)
        assert seen == rows
        assert "deliver of 2 was to panic" in text
        assert batches.state_dict() == {"epoch": 0, "step": 2}
        assert num_threads() == 0
    plan(None)
    assert samples(batches) == reference[16:]


@pytest.mark.parametrize("stage", WORKER_STAGES)
def test_a_panic_is_an_ordinary_exception_with_its_address(run: Callable[..., str], stage: str) -> None:
    run(a_panic_at_one_sample, stage)


@pytest.mark.parametrize("stage", WORKER_STAGES)
def test_panics_of_all_threads_are_one_exception(run: Callable[..., str], stage: str) -> None:
    run(a_panic_in_every_thread, stage)


def test_a_panic_in_delivery_is_an_ordinary_exception(run: Callable[..., str]) -> None:
    run(a_panic_in_delivery)


# A slow disk


def in_mid_epoch(folder: Path) -> tuple[Loader, Iterator[Any]]:
    """A loader on the slow disk after its first batch, both threads in a read."""
    plan("read", None, SLOW_S)
    batches = loader(folder, **PLAIN)
    iterator = iter(batches)
    next(iterator)
    return batches, iterator


def a_slow_disk_gives_the_same(folder: Path) -> None:
    reference = samples(islice(loader(folder, **PLAIN), 2))
    batches, iterator = in_mid_epoch(folder)
    assert samples([next(iterator)]) == reference[8:]
    assert batches.stats().stages["read"].p50_ms > 1000 * SLOW_S / 2
    assert batches.stats().line.startswith("read limits: the consumer waits")


def leaving_a_slow_disk(folder: Path) -> None:
    for leave in ("break", "del", "close", "with", "load_state_dict"):
        batches, iterator = in_mid_epoch(folder)
        assert num_threads(2) == 2
        start = time.monotonic()
        if leave == "close":
            batches.close()
        elif leave == "with":
            with batches:
                pass
        elif leave == "load_state_dict":
            batches.load_state_dict({"epoch": 3, "step": 1})
        elif leave == "break":
            for _ in iterator:
                break
        del batches, iterator
        assert num_threads() == 0, leave
        # At most one read, and for "break" the batch that it waits for: four reads of each thread.
        assert time.monotonic() - start < 1 + 4 * SLOW_S * (leave == "break"), leave


def ctrl_c_on_a_slow_disk(folder: Path) -> None:
    for trial in range(5):
        batches, iterator = in_mid_epoch(folder)
        sent = []

        def press(sent: list[float] = sent) -> None:
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        timer = threading.Timer(0.1 + 0.03 * trial, press)
        timer.start()
        try:
            list(iterator)
            raise AssertionError("finished before the signal")
        except KeyboardInterrupt:
            heard = time.monotonic()
        assert heard - sent[0] < 1
        # A thread ends with its read, if it is not waited for.
        del batches, iterator
        assert num_threads() == 0
        assert time.monotonic() - heard < 1


def a_fork_on_a_slow_disk(folder: Path) -> None:
    batches, iterator = in_mid_epoch(folder)
    for _ in range(5):
        child = os.fork()
        if child == 0:
            start = time.monotonic()
            try:
                next(iterator)
            except RuntimeError:
                batches.close()
                os._exit(0 if time.monotonic() - start < 1 else 3)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    plan(None)
    assert samples(iterator) == samples(loader(folder, **PLAIN))[8:]


def an_exit_on_a_slow_disk(folder: Path) -> None:
    setattr(sys, "stuck", in_mid_epoch(folder))  # noqa: B010 (nobody lets go of it before the very end)
    print(time.monotonic(), file=sys.stderr)


def test_a_slow_disk_gives_the_same_batches(run: Callable[..., str]) -> None:
    run(a_slow_disk_gives_the_same)


def test_a_slow_disk_is_left_within_a_second(run: Callable[..., str]) -> None:
    run(leaving_a_slow_disk)


def test_ctrl_c_is_heard_on_a_slow_disk(run: Callable[..., str]) -> None:
    run(ctrl_c_on_a_slow_disk)


def test_forked_children_of_a_slow_disk_are_told(run: Callable[..., str]) -> None:
    run(a_fork_on_a_slow_disk)


def test_the_interpreter_exits_on_a_slow_disk(run: Callable[..., str]) -> None:
    said = float(run(an_exit_on_a_slow_disk, anew=True))
    # Torch takes a while to go, too.
    assert time.monotonic() - said < 5
