"""A real grid of tiny cells: its files, what is kept and what is not, and that it survives any kill."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from barlow import durable
from barlow.reproduce import Request, Stopped, cell, command, grid, reproduce
from barlow.reproduce.progress import Display, clock, remaining_s, share
from barlow.reproduce.scales import SCALES, Scale
from barlow.train.lock import alone, is_held
from commands import ROOT, make_images
from conftest import one_core
from tiny_run import tiny_config

STEPS = 18


def tiny_scale() -> Scale:
    """Two cells of it take seconds; a checkpoint after every step."""

    def make() -> Any:
        base = tiny_config(epochs=6)
        return dataclasses.replace(
            base,
            train=dataclasses.replace(base.train, steps=STEPS, log_every=STEPS),
            checkpoint=dataclasses.replace(base.checkpoint, every_steps=1, keep=1),
            evaluate=dataclasses.replace(base.evaluate, online_every_epochs=0.0),
        )

    return dataclasses.replace(
        SCALES["cifar10-minute"], make=make, train_images=0, bank_images=20, test_images=10
    )


SCALES["tiny"] = tiny_scale()
"""Only where this file is imported."""


def request(folder: Path, **settings: Any) -> Request:
    usual = {"experiment": "table-5", "data": folder / "data", "out": folder / "grid", "scale": "tiny"}
    return Request(**{**usual, "seeds": 1, "only": ["only-invariance"], **settings})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reproduce")
    make_images(path / "data")
    return path


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, Any]:
    """Two cells that nothing disturbed."""
    with one_core():
        return reproduce(request(folder, out=folder / "whole"))


def results(out: Path) -> dict[str, dict[str, Any]]:
    return {p.parent.name: json.loads(p.read_text()) for p in sorted(out.glob(f"cells/*/{cell.RESULT}"))}


def test_a_grid_leaves_results_and_no_weights(folder: Path, whole: dict[str, Any]) -> None:
    out = folder / "whole"
    assert json.loads((out / "table-5.json").read_text()) == whole
    assert whole["cells_done"] == whole["cells"] == 2
    assert [row["name"] for row in whole["rows"]] == ["baseline", "only-invariance"]
    kept = results(out)
    for row in whole["rows"]:
        weights = row["details"]["0"]["weights_sha256"]
        (found,) = [result for result in kept.values() if result["weights_sha256"] == weights]
        assert found["step"] == STEPS
        assert row["linear"] == {"seeds": {"0": found["linear"]}, "mean": found["linear"], "std": None}
    assert whole["untrained"]["knn"]["seeds"].keys() == {"0"}
    assert sum("untrained" in result for result in kept.values()) == 1
    assert whole["images"] == {"train": 38, "bank": 20, "test": 10}
    assert not list(out.glob("cells/*/run/checkpoints"))
    assert "only invariance" in (out / "table-5.md").read_text()
    assert (out / "table-5.svg").read_text().startswith("<svg")
    assert "RankMe" in next(out.glob("cells/*/log.txt")).read_text()
    assert {claim["linear"]["state"] for claim in whole["claims"]} == {"not decided"}  # a single seed


def test_a_grid_that_is_done_trains_nothing_again(
    folder: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid._Lanes, "start", lambda *_: pytest.fail("a finished cell was started"))
    assert reproduce(request(folder, out=folder / "whole")) == whole
    # Rows that are not asked for this time stay in the results.
    fewer = reproduce(request(folder, out=folder / "whole", only=["baseline"]))
    assert [row["name"] for row in fewer["rows"]] == ["baseline", "only-invariance"]


def test_a_grid_killed_anywhere_goes_on_and_ends_the_same(folder: Path, whole: dict[str, Any]) -> None:
    """kill -9 of the command: its cells die with it; the next one ends with the undisturbed weights."""
    out = folder / "grid"
    script = (
        f"import sys; sys.path[:0] = [{str(ROOT / 'tests')!r}]\n"
        "from pathlib import Path\n"
        "from test_reproduce_grid import request\n"
        "from barlow.reproduce import reproduce\n"
        f"if __name__ == '__main__': reproduce(request(Path({str(folder)!r})))\n"
    )
    main = folder / "main.py"
    main.write_text(script)
    with one_core():
        process = subprocess.Popen([sys.executable, main], stdout=subprocess.DEVNULL)
        try:
            under_way = until(
                lambda: [p for p in out.glob("cells/*/run/checkpoints/step-*") if p.name > "step-00000002"]
            )
        finally:
            process.kill()
            process.wait()
        (busy,) = {path.parents[2] for path in under_way}
        until(lambda: not is_held(busy))
        assert cell.result(busy) is None
        told: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(command.progress.Display, "say", lambda _, words: told.append(words))
            again = reproduce(request(folder))
    assert told[0].startswith("Loss ablations (table 5): 2 cells, 0 of them done")
    log = (busy / cell.LOG).read_text()
    assert (log.count("loss: "), log.count(f"step 1/{STEPS}")) == (2, 1)  # two attempts, one beginning
    assert {name: r["weights_sha256"] for name, r in results(out).items()} == {
        name: r["weights_sha256"] for name, r in results(folder / "whole").items()
    }
    assert [row["linear"] for row in again["rows"]] == [row["linear"] for row in whole["rows"]]


def until(found: Any, seconds: float = 120.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)
    return result


def test_a_run_that_is_no_longer_finite_is_a_result(folder: Path, whole: dict[str, Any]) -> None:
    task = cell.Task.read(next((folder / "whole" / "cells").iterdir()))
    wild = dataclasses.replace(task.config.optim, lr_weights=1e30, lr_biases=1e30, warmup_epochs=0.0)
    one = grid.Work(
        name="wild", row="wild", folder=folder / "wild",
        task=dataclasses.replace(task, config=dataclasses.replace(task.config, optim=wild)),
    )  # fmt: skip
    with one_core():
        assert grid.run([one], jobs=1, tell=lambda *_: None)
    found = cell.result(one.folder)
    assert found is not None
    assert found["failed"].startswith(("the loss is", "the gradient", "a gradient", "loss"))
    assert not (one.folder / cell.RUN / "checkpoints").exists()


def work(folder: Path, name: str) -> grid.Work:
    return grid.Work(name=name, row=name, folder=folder / name, task=None)  # pyright: ignore[reportArgumentType]


class Fake(grid._Lanes):
    """Lanes whose cells end at once: those named "fails" without a result."""

    def start(self, work: grid.Work) -> None:
        if work.name != "fails":
            work.folder.mkdir(parents=True, exist_ok=True)
            durable.write_file(work.folder / cell.RESULT, "{}")


def test_a_cell_that_fails_keeps_no_other_from_being_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "_Lanes", Fake)
    monkeypatch.setattr(grid, "_LOOK_S", 0.0)
    works = [work(tmp_path, name) for name in ("a", "fails", "b")]
    assert not grid.run(works, jobs=1, tell=lambda *_: None)
    assert [one.done for one in works] == [True, False, True]


def test_a_cell_of_another_process_is_passed_over_and_waited_for(tmp_path: Path) -> None:
    works = [work(tmp_path, name) for name in ("a", "b")]
    waiting = list(works)
    with alone(works[0].folder):
        assert grid._next(waiting) is works[1]
        assert grid._next(waiting) is None
        assert works[0].elsewhere
        assert waiting == [works[0]]
    durable.write_file(works[0].folder / cell.RESULT, "{}")
    assert grid._next(waiting) is None
    assert waiting == []


def test_a_signal_stops_the_grid_and_time_does_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "_Lanes", Fake)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="SIGTERM"):
        grid.run([work(tmp_path, "fails")], jobs=1, tell=lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert signal.getsignal(signal.SIGTERM) == before
    assert not grid.run([work(tmp_path, "fails")], jobs=1, until_s=time.monotonic(), tell=lambda *_: None)


def test_the_time_left_is_that_of_cells_like_those_that_are_done(tmp_path: Path) -> None:
    works = [work(tmp_path, name) for name in ("a", "b", "c")]
    assert remaining_s(works, 1) is None
    works[0].seconds = 60.0
    works[0].folder.mkdir()
    durable.write_file(works[0].folder / cell.RESULT, "{}")
    assert remaining_s(works, 1) == pytest.approx(120)
    assert remaining_s(works, 2) == pytest.approx(60)
    works[1].row = "a"
    works[0].seconds = 30.0
    assert remaining_s(works, 1) == pytest.approx(60)
    assert (clock(3725.2), clock(None)) == ("1:02:05", "?")


def test_a_terminal_shows_the_cells_under_way_and_the_time_left(tmp_path: Path) -> None:
    page = io.StringIO()
    works = [work(tmp_path, name) for name in ("a", "b")]
    works[0].folder.mkdir()
    durable.write_file(works[0].folder / cell.RESULT, '{"linear": 51.25, "knn": 40.5}')
    works[0].seconds = 90.0
    terminal = Console(file=page, force_terminal=True, width=120, highlight=False)
    with Display("table-5", 1, terminal) as display:
        display.tell(works, works[0])
        display.tell(works, None)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", page.getvalue())
    assert "1/2  a: linear 51.2  kNN 40.5  (0:01:30)  ETA 0:01:30" in shown
    assert re.search(r"table-5 ━+\S* 1/2 +ETA 0:01:30", shown)


def test_progress_is_that_of_the_last_whole_line(tmp_path: Path) -> None:
    config = tiny_scale().make()
    one = dataclasses.replace(work(tmp_path, "a"), task=cell.Task(
        config=config, train=tmp_path, bank=tmp_path, test=tmp_path, baselines=False))  # fmt: skip
    assert share(one) == 0
    (one.folder / cell.RUN).mkdir(parents=True)
    (one.folder / cell.RUN / "metrics.jsonl").write_text(
        '{"step": 6, "epoch": 1}\n{"step": 12, "epoch": 2}\n{"st'
    )
    assert share(one) == pytest.approx(12 / STEPS)


def test_a_task_is_read_as_it_was_written(tmp_path: Path) -> None:
    task = cell.Task(
        config=tiny_scale().make(), train=tmp_path, bank=Path("b"), test=Path("c"), baselines=True, nproc=3
    )
    task.write(tmp_path)
    assert cell.Task.read(tmp_path) == task


def test_cells_at_a_time_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 4, 6, 8})
    assert grid._Lanes(1)._cores == [[]]  # wherever this process may run
    assert grid._Lanes(2)._cores == [[0, 4, 8], [2, 6]]
    assert grid._Lanes(7)._cores == [[0], [2], [4], [6], [8], [0], [2]]
