"""Fixtures that several test files need, and what holds for all of them."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# A shell starts background jobs deaf to Ctrl-C, and children inherit that: the tests send it to them.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Operations of tiny networks are shorter than the time for which OpenMP's threads spin after each: if others
# want the cores too, a step costs up to ten times its work. Threads that sleep instead give the same bits.
# To be set before torch is imported, here and in the processes that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


# Files of some seconds of a core and more, the longest first. Whole files are dealt out (their fixtures are
# made once): a long one that comes last would be waited for alone.
LONGEST_FIRST = (
    "submit", "loader_stages", "compile", "preempt", "train", "demo", "step_options", "official", "methods",
    "doctor", "examples", "recipes", "evaluate", "protocols", "tuning", "export", "foreign", "reproduce",
    "reproduce_grid", "draws", "nodes", "lost", "bench_step", "cli_runs", "cli", "saving", "loss_forms",
    "voc", "ablations", "crash_points", "micro_batches", "kills", "loader_liveness", "loader_trouble",
    "objective_ranks", "bench", "throughput", "loss_training", "accumulate", "blackbox", "rehearsal",
    "batchnorm", "moved",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--only-gpu", action="store_true", help="only the tests that skip where there is no GPU")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--only-gpu"):
        items[:] = [item for item in items if any("GPU" in reason for reason in _skip_reasons(item))]
    places = {f"test_{name}.py": place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def _skip_reasons(item: pytest.Item) -> list[str]:
    return [mark.kwargs.get("reason", "") for mark in item.iter_markers("skipif")]


def pytest_collection_finish() -> None:
    # What is imported and collected by now stays: the tests' full collections need not walk through it.
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else extensions complain at the end that their objects were never freed


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Tiny operations on several threads wait for each other, which takes minutes on a busy machine."""
    before = os.sched_getaffinity(0)
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    os.sched_setaffinity(0, {sorted(before)[worker % len(before)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@pytest.fixture(scope="session")
def reported_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run of nine steps on labelled pictures, trained and evaluated; read it, change nothing in it."""
    import tiny_run
    from barlow.evaluate import evaluate
    from barlow.train import launch

    folder = tmp_path_factory.mktemp("report")
    tiny_run.write_pictures(folder / "data" / "train", per_class=12, seed=1)
    tiny_run.write_pictures(folder / "data" / "held-out", per_class=5, seed=2)
    with one_core():
        launch(folder / "data" / "train", tiny_run.tiny_config(), folder / "run", nproc=1, preset="tiny")
        evaluate(folder / "run", folder / "data", quiet=True)
    return folder / "run"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images beside the checkout (or beside its worktrees); tests skip without it."""
    for parent in Path(__file__).resolve().parents[2:4]:
        if (parent / "shared" / "data").is_dir():
            return parent / "shared" / "data"
    pytest.skip("no real images beside the checkout")
