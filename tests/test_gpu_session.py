"""benches/gpu_session.py: what a kill, a failure and the end of time leave, and what the next call does."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from commands import ROOT


@pytest.fixture
def session() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("gpu_session", ROOT / "benches" / "gpu_session.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def lines(folder: Path) -> list[tuple[str, str]]:
    text = (folder / "session.jsonl").read_text()
    return [(line["stage"], line["how"]) for line in map(json.loads, text.splitlines())]


def python(code: str) -> Callable[[Any, float], Sequence[object]]:
    return lambda given, seconds: [sys.executable, "-S", "-c", code, given.work, seconds]


MEASURES = (
    "import json, pathlib, sys\n"
    "pathlib.Path(sys.argv[1], 'a.json').write_text(json.dumps({'rate': 7})); print('fine')"
)
ONCE_MORE = (
    "import pathlib, sys; seen = pathlib.Path(sys.argv[1], 'seen'); known = seen.exists(); seen.touch()\n"
    "sys.exit(0 if known else 3)"
)


def test_stages_are_taken_once_and_what_is_unfinished_goes_on(
    session: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = [
        session.Stage("measures", 1, 50, python(MEASURES), session._json_of("a.json"), ("a.json",)),
        session.Stage("fails", 1, 50, python("raise SystemExit('broken')")),
        session.Stage("long", 1, 50, python(ONCE_MORE)),
        session.Stage("nothing", 1, 50, lambda given, seconds: None),
        session.Stage("needs-time", 1000, 2000, python("")),
    ]
    results, work = tmp_path / "results", tmp_path / "work"
    words = [str(results), "--work", str(work), "--seconds", "100"]
    assert session.main(words, stages) == 3
    assert lines(results) == [
        ("measures", "done"),
        ("fails", "failed"),
        ("long", "unfinished"),
        ("nothing", "nothing to do it with"),
    ]
    assert json.loads((results / "results.json").read_text()) == {"measures": {"rate": 7}}
    assert (results / "a.json").exists()
    log = (results / "session.log").read_text()
    assert log.index("---- measures") < log.index("fine") < log.index("---- fails") < log.index("broken")
    # A machine that empties the results between two calls loses none of them.
    for file in results.iterdir():
        file.unlink()
    capsys.readouterr()
    assert session.main(words, stages[:4]) == 1
    assert lines(results)[4:] == [("long", "done"), ("nothing", "nothing to do it with")]
    assert json.loads((results / "results.json").read_text()) == {"measures": {"rate": 7}}
    assert "fails: failed already" in capsys.readouterr().out
    assert session.main([*words, "--only", "fails", "--again", "fails"], stages) == 1
    assert [line for line in lines(results) if line[0] == "fails"] == [("fails", "failed")]


def test_a_stage_whose_time_is_up_ends_with_its_children(
    session: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_GRACE_S", 0.5)
    deaf = (
        "import os, pathlib, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)'])\n"
        "pathlib.Path(sys.argv[1], 'child').write_text(str(child.pid))\n"
        "pathlib.Path(sys.argv[1], 'a.json').write_text('[1]')\n"
        "time.sleep(60)"
    )
    stages = [session.Stage("deaf", 1, 2.0, python(deaf), session._json_of("a.json"))]
    began = time.monotonic()
    assert session.main([str(tmp_path), "--seconds", "30"], stages) == 3
    assert time.monotonic() - began < 10
    assert lines(tmp_path) == [("deaf", "unfinished")]
    assert json.loads((tmp_path / "results.json").read_text()) == {"deaf": [1]}
    child = Path("/proc", (tmp_path / "work" / "child").read_text(), "cmdline")
    until_s = time.monotonic() + 10
    while child.exists() and child.read_bytes():  # empty: dead, and nobody has asked yet how it went
        assert time.monotonic() < until_s
        time.sleep(0.02)


def test_a_kill_costs_the_stage_under_way_alone(session: ModuleType, tmp_path: Path) -> None:
    stages = [
        session.Stage("first", 1, 50, python(MEASURES), session._json_of("a.json")),
        session.Stage("second", 1, 50, python("import time; time.sleep(30)")),
    ]
    threading.Timer(0.8, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        session.main([str(tmp_path), "--seconds", "60"], stages)
    assert lines(tmp_path) == [("first", "done")]
    assert json.loads((tmp_path / "results.json").read_text()) == {"first": {"rate": 7}}
    with (tmp_path / "work" / "session.jsonl").open("a") as record:
        record.write('{"stage": "second", "ho')  # as a crash might tear it
    stages[1] = session.Stage("second", 1, 50, python(""))
    assert session.main([str(tmp_path), "--seconds", "60"], stages) == 0
    assert lines(tmp_path) == [("first", "done"), ("second", "done")]


def test_every_file_that_a_stage_runs_is_there(session: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "cifar10-shards").mkdir()
    given = session.Given(tmp_path, tmp_path, tmp_path / "images", (tmp_path, tmp_path), False, "cuda")
    names = [stage.name for stage in session.STAGES]
    assert len(names) == len(set(names))
    for stage in session.STAGES:
        words = stage.words(given, stage.most_s)
        files = [word for word in words or () if isinstance(word, Path) and ROOT in word.parents]
        assert words is None or stage.name == "pack" or files, stage.name
        assert all(file.exists() for file in files), files
        assert stage.least_s < stage.most_s
    tests = next(stage for stage in session.STAGES if stage.name == "tests").words(given, 100)
    assert {"test_gpu.py", "test_objective_gpu.py", "test_gpu_nccl.py", "test_saving.py"} <= {
        word.name for word in tests if isinstance(word, Path)
    }
