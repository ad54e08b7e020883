"""`barlow runs`: every state a folder can be in, what is shown of it, and that it answers at once."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest

import tiny_run
from barlow import durable
from barlow.commands import listing as table
from barlow.report import overview, page, record
from barlow.train.listing import Run, runs
from barlow.train.lock import alone
from barlow.train.status import told
from commands import barlow_here, finish, start


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from barlow.train import launch

    folder = tmp_path_factory.mktemp("listing")
    tiny_run.write_pictures(folder / "data", per_class=8)
    launch(folder / "data", tiny_run.tiny_config(epochs=2), folder / "runs" / "whole", nproc=1)
    return folder / "runs" / "whole"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "runs" / "a"))


def lose_the_last_checkpoint(run: Path) -> None:
    shutil.rmtree(max((run / "checkpoints").iterdir()))


def only(run: Path) -> Run:
    (found,) = runs(run.parent)
    return found


def test_a_finished_run_with_its_numbers(run: Path) -> None:
    found, last = only(run), json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert (found.name, found.state, found.why) == ("a", "finished", "")
    assert (found.step, found.steps, found.epochs) == (4, 4, 2.0)
    for key in ("loss", "loss_floor", "on_diagonal", "off_diagonal_rms"):
        assert found.health[key] == last[key]
    assert found.best_knn is None
    assert found.started_s == durable.read_json(run / "run.json")["started_s"]
    assert found.seen_s == max(
        (run / n).stat().st_mtime for n in ("metrics.jsonl", "status.json", "run.json")
    )


def test_the_best_knn_is_that_of_the_whole_run(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines[1] = json.dumps({**json.loads(lines[1]), "knn_top1": 61.5})
    lines[2] = json.dumps({**json.loads(lines[2]), "knn_top1": 60.0})
    (run / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 9, "knn_top1": 99')  # half a line
    assert only(run).best_knn == 61.5
    assert only(run).step == 4
    (run / "eval.json").write_text(json.dumps({"knn": {"top1": 70.25}}))
    assert only(run).best_knn == 70.25
    (run / "eval.json").write_text(json.dumps({"knn": None}))
    assert only(run).best_knn == 61.5


def test_running_while_the_lock_is_held_and_killed_after(run: Path) -> None:
    durable.write_file(run / "status.json", json.dumps({"state": "running", "host": os.uname().nodename}))
    with alone(run):
        assert only(run).state == "running"
    assert only(run).state == "finished"  # killed after its last checkpoint
    lose_the_last_checkpoint(run)
    assert (only(run).state, only(run).why) == ("stopped", "killed")


def test_who_asks_is_not_in_the_way_of_a_run(run: Path) -> None:
    with (run / ".lock").open() as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        assert only(run).state == "finished"  # nor of another who asks
        threading.Timer(0.05, fcntl.flock, (asking, fcntl.LOCK_UN)).start()
        with alone(run):
            pass


def test_a_run_of_another_machine_counts_as_running_until_it_is_silent(run: Path) -> None:
    durable.write_file(run / "status.json", json.dumps({"state": "running", "host": "elsewhere"}))
    assert (only(run).state, only(run).why) == ("running", "on elsewhere")
    lose_the_last_checkpoint(run)
    for name in ("metrics.jsonl", "status.json", "run.json", "checkpoints"):
        os.utime(run / name, (1e9, 1e9))
    assert (only(run).state, only(run).why) == ("stopped", "killed")
    assert only(run).seen_s == 1e9


def test_what_ended_it_is_told(run: Path) -> None:
    with told(run) as outcome:
        assert durable.read_json(run / "status.json")["state"] == "running"
        outcome.stopped_by = signal.SIGUSR1
    assert (only(run).state, only(run).why) == ("stopped", "SIGUSR1")
    with pytest.raises(FloatingPointError), told(run):
        raise FloatingPointError("the loss is nan\nat step 3")
    assert (only(run).state, only(run).why) == ("failed", "FloatingPointError: the loss is nan at step 3")
    for error in (KeyboardInterrupt(), SystemExit(130)):
        with pytest.raises(type(error)), told(run):
            raise error
        assert (only(run).state, only(run).why) == ("stopped", "SIGINT")
    with told(run):
        pass
    assert only(run).state == "finished"
    with told(None) as outcome:
        outcome.stopped_by = signal.SIGTERM
    assert only(run).state == "finished"


def test_a_full_disk_does_not_hide_the_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: str) -> None:
        raise OSError(28, "No space left on device")

    outcome = told(run)
    outcome.__enter__()
    monkeypatch.setattr(durable, "write_file", full)
    error = ValueError("the true one")
    assert not outcome.__exit__(ValueError, error, None)


def test_a_run_without_a_status_is_judged_by_its_steps(run: Path) -> None:
    (run / "status.json").unlink()
    assert only(run).state == "finished"
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:3]))
    for checkpoint in (run / "checkpoints").iterdir():
        if int(checkpoint.name[5:]) > 3:
            shutil.rmtree(checkpoint)
    assert (only(run).state, only(run).step) == ("stopped", 3)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("config.json", "{", "config.json: not JSON"),
        ("run.json", "[]", "run.json: not a JSON object"),
        ("config.json", None, "config.json is missing"),
    ],
)
def test_damaged_files_are_named(run: Path, name: str, content: str | None, why: str) -> None:
    (run / name).unlink()
    if content is not None:
        (run / name).write_text(content)
    assert only(run).state == "damaged"
    assert why in only(run).why


def test_only_whole_checkpoints_count(run: Path) -> None:
    (run / "status.json").unlink()
    (run / "metrics.jsonl").unlink()
    steps = sorted((run / "checkpoints").iterdir())
    assert (only(run).state, only(run).step) == ("finished", 4)
    with (steps[-1] / "model.safetensors").open("ab") as file:
        file.write(b"!")
    assert (only(run).state, only(run).step) == ("stopped", int(steps[-2].name[5:]))
    for path in steps:
        (path / "MANIFEST.json").unlink()
    assert (only(run).state, only(run).why) == ("damaged", "no checkpoint is whole")


def test_a_report_has_a_run_as_far_as_the_listing(run: Path) -> None:
    """Stopped between two lines of metrics, a run has more steps than they say."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text(lines[0] + "\n")
    newest = max((run / "checkpoints").iterdir())
    newest.rename(newest.with_name("step-00000003"))
    assert (only(run).step, only(run).steps) == (3, 4)
    found = record.read(run)
    assert "not finished: 3 of 4 steps" in page.header(found, synthetic=False)
    assert "<td>3 of 4</td>" in overview.header([found], "", synthetic=False)


def test_empty_folders_imported_runs_and_things_that_are_no_runs(run: Path) -> None:
    above = run.parent
    (above / "b").mkdir()
    (above / "b" / ".lock").touch()
    (above / "c").mkdir()
    shutil.copy(run / "config.json", above / "c")
    shutil.copy(run / "run.json", above / "c")
    (above / "d" / "deep").mkdir(parents=True)
    shutil.copytree(run, above / "d" / "deep" / "too-deep")
    shutil.copytree(run, above / "d" / "e")
    (above / "file").touch()
    (above / "imported" / "checkpoints").mkdir(parents=True)
    (above / "imported" / "run.json").write_text('{"imported": {"file": "checkpoint.pth"}}')
    shutil.copy(run / "config.json", above / "imported")
    found = {found.name: found for found in runs(above)}
    assert list(found) == ["a", "b", "c", "d/e", "imported"]
    assert [f.state for f in found.values()] == ["finished", "empty", "empty", "finished", "finished"]
    assert found["imported"].why == "imported"
    assert runs(run)[0].name == "a"
    with pytest.raises(ValueError, match="is not a folder"):
        runs(above / "nowhere")


def test_the_tables(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    durable.write_file(run / "status.json", json.dumps({"state": "failed", "why": "ValueError: [no] luck"}))
    lines = (run / "metrics.jsonl").read_text().splitlines()
    alarmed = {**json.loads(lines[-1]), "alarms": ["collapsing: lower the learning rate"], "knn_top1": 61.5}
    (run / "metrics.jsonl").write_text("\n".join([*lines[:-1], json.dumps(alarmed)]))
    out = barlow_here(capfd, "runs", str(run.parent)).out.splitlines()
    assert out[0].split() == ["run", "state", "progress", "loss", "(floor)", *table._NARROW[0].split(),
                              "off", "it", "best", "kNN", "seen"]  # fmt: skip
    assert out[1].split()[:5] == ["a", "failed", "4/4", "100", "%"]
    assert " 61.5 " in out[1]
    assert out[1].endswith(" ago")
    assert out[2:] == ["a: failed: ValueError: [no] luck", "a: alarm: collapsing: lower the learning rate"]
    (found,) = json.loads(barlow_here(capfd, "runs", str(run.parent), "--json").out)
    assert (found["state"], found["step"], found["best_knn"]) == ("failed", 4, 61.5)
    table._coloured(runs(run.parent))
    assert "ValueError: [no] luck" in capfd.readouterr().out
    (run.parent / "none").mkdir()
    assert barlow_here(capfd, "runs", str(run.parent / "none")).out.startswith("no runs in ")
    assert barlow_here(capfd, "runs", str(run / "nothing")).code == 2


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s"), (59, "59 s"), (60, "1 min"), (7300, "2 h"), (200_000, "2 d")]
)
def test_ages(seconds: float, text: str) -> None:
    assert table.age(seconds) == text


def test_it_answers_at_once_without_torch(run: Path) -> None:
    for i in range(40):
        shutil.copytree(run, run.parent / f"copy-{i}", ignore=shutil.ignore_patterns("tensorboard"))
    line = (run / "metrics.jsonl").read_text().splitlines()[0]
    (run / "metrics.jsonl").write_text(f"{line}\n" * 30_000)  # 600,000 steps
    code = (
        "import sys, resource, barlow.cli; sys.argv = ['barlow', 'runs', sys.argv[1]]\n"
        "barlow.cli.main()\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "assert used.ru_utime + used.ru_stime < 0.5, used"
    )
    result = finish(start(str(run.parent), launcher=("-c", code), anew=True))
    assert result.code == 0, result.err
    assert len(result.out.splitlines()) == 42
