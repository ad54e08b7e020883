"""Everything that waits for a GPU, in the order of its worth, within a time that is given.

    python benches/gpu_session.py RESULTS --seconds 580 --images imagenet-sample.tar \
        --cifar10 cifar10-train.tar cifar10-test.tar --work /tmp/session

Each stage is a command with a time-out of its own. When one ends there is a line more in
RESULTS/session.jsonl, what it measured is in RESULTS/results.json, and what it said in RESULTS/session.log: a
kill costs the stage under way and nothing before it. The same command goes on, until it exits with another
code than 3: stages that are done or have failed are not begun again (`--again NAME`), one whose time was up
is. WORK keeps what a stage needs to go on (packed images, the checkpoints of CIFAR-10), and all results, so
RESULTS may be emptied between two calls.

On a machine without a GPU, to see that all parts work: --device cpu --tiny.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
RECORD, RESULTS, LOG = "session.jsonl", "results.json", "session.log"
AGAIN = 3
"""Exit code of a stage that stopped in time and wants to go on."""
_GRACE_S = 15.0
_LOG_BYTES = 2_000_000


@dataclass(frozen=True)
class Given:
    """What the command line says."""

    results: Path
    work: Path
    images: Path | None
    cifar10: tuple[Path, Path] | None
    tiny: bool
    device: str


@dataclass(frozen=True)
class Stage:
    """One part of the session. `words(given, seconds)` is its command, which has so many seconds, or
    None if there is nothing to do it with; `found(given)`, what it has measured, goes to results.json."""

    name: str
    least_s: float
    """It is not begun with less time left than this."""
    most_s: float
    words: Callable[[Given, float], Sequence[object] | None]
    found: Callable[[Given], Any] = lambda given: None
    files: tuple[str, ...] = field(default=())
    """Below WORK; copied into RESULTS when the stage ends."""


def _python(*words: object) -> list[object]:
    return [sys.executable, *words]


def _json_of(name: str) -> Callable[[Given], Any]:
    return lambda given: json.loads((given.work / name).read_text()) if (given.work / name).exists() else None


def _pytest(given: Given, name: str, *words: object) -> list[object]:
    # Shown, not raised: of what a torch or Python that nobody has tried yet may warn.
    shown = ("-o", "filterwarnings=default", "-p", "no:cacheprovider", "-q", "-rfE", "--timeout", 200)
    return _python("-m", "pytest", *shown, f"--junitxml={given.work / name}.xml", *words)


def _tests(given: Given, _seconds: float) -> Sequence[object]:
    """Those that ask for a GPU, of whatever file; importing all the others would take a minute."""
    files = sorted((ROOT / "tests").glob("test_*.py"))
    files = [file for file in files if "needs a GPU" in file.read_text() and file.stem != "test_gpu_dali"]
    # Most of them wait for a process of theirs to start, or to compile.
    several = ("--numprocesses", 4) if importlib.util.find_spec("xdist") and not given.tiny else ()
    return _pytest(given, "tests", "--only-gpu", "--durations=8", *several, *files)


def _dali_tests(given: Given, _seconds: float) -> Sequence[object] | None:
    from barlow.data.dali import installed

    return None if installed.missing() else _pytest(given, "dali-tests", ROOT / "tests" / "test_gpu_dali.py")


def _tests_found(name: str) -> Callable[[Given], Any]:
    def found(given: Given) -> Any:
        path = given.work / f"{name}.xml"
        if not path.exists():
            return None
        cases = list(ElementTree.parse(path).iter("testcase"))
        failed = {
            f"{case.get('classname')}::{case.get('name')}": (part.get("message") or "")[:300]
            for case in cases
            for part in case
            if part.tag in ("failure", "error")
        }
        skipped = sum(case.find("skipped") is not None for case in cases)
        return {"passed": len(cases) - len(failed) - skipped, "skipped": skipped, "failed": failed}

    return found


def _pack(given: Given, _seconds: float) -> Sequence[object] | None:
    """CIFAR-10 as shards, once."""
    if given.cifar10 is None:
        return None
    code = (
        "import subprocess, sys; out = sys.argv[1]\n"
        "for tar, part in zip(sys.argv[2:], ('train', 'held-out')):\n"
        "    subprocess.run([sys.executable, '-m', 'barlow', 'pack', tar, f'{out}/{part}'], check=True)\n"
    )
    shutil.rmtree(given.work / "cifar10-shards", ignore_errors=True)
    return _python("-c", code, given.work / "cifar10-shards", *given.cifar10)


def _cifar10(given: Given, seconds: float) -> Sequence[object] | None:
    data = given.work / "cifar10-shards"
    if given.cifar10 is None or not data.exists():
        return None
    words = [ROOT / "benches" / "cifar10.py", data, given.work / "cifar10", "--minutes", seconds / 60]
    return _python(*words, *(("--steps", 2) if given.tiny else ()))


def _step_bench(part: str, file: str) -> Callable[[Given, float], Sequence[object] | None]:
    def words(given: Given, seconds: float) -> Sequence[object] | None:
        more: list[object] = []
        if part == "end-to-end":
            if given.images is None:
                return None
            more += ["--data", given.images, "--real-rung", "lists"]
        if given.tiny:
            more += ["--backbone", "resnet10", "--image-size", 32, "--projector", 16, 16, "--batch-size", 8,
                     "--rounds", 1, "--round-s", 0.1, "--window-s", 0.5, "--real-rounds", 1,
                     "--only", "official,lists"]  # fmt: skip
        # A part that has begun when the budget is over is still brought to its end.
        budget = max(10.0, seconds - (90 if part == "ladder" else 60))
        script = ROOT / "benches" / "gpu.py"
        return _python(script, "--only-parts", part, "--budget-s", budget, "--device", given.device,
                       "--json", given.work / file, *more)  # fmt: skip

    return words


def _lars(given: Given, _seconds: float) -> Sequence[object]:
    words = ("-k", "same_steps") if given.tiny else ("--benchmark-only",)
    kept = f"--benchmark-json={given.work / 'lars.json'}"
    return _pytest(given, "lars", ROOT / "benches" / "test_lars.py", "-s", kept, *words)


def _lars_found(given: Given) -> Any:
    """Milliseconds of a round of steps of each optimizer, the median of the rounds that count."""
    rounds: dict[str, list[float]] = {}
    for one in (_json_of("lars.json")(given) or {"benchmarks": []})["benchmarks"]:
        if one["group"] != "warm-up":
            rounds.setdefault(one["params"]["name"], []).append(1e3 * one["stats"]["median"])
    return {name: statistics.median(found) for name, found in rounds.items()} or _tests_found("lars")(given)


def _device_stages(given: Given, _seconds: float) -> Sequence[object] | None:
    if given.images is None:
        return None
    size = ("--size", 32, "--batch-size", 8, "--seconds", 0.2, "--rounds", 1) if given.tiny else ()
    words = ("--seconds", 8, "--rounds", 2, *size, "--json", given.work / "device-stages.json")
    return _python(ROOT / "benches" / "device_stages.py", given.images, *words)


def _ceilings(given: Given, _seconds: float) -> Sequence[object]:
    return _python(ROOT / "benches" / "ceilings.py", given.work / "ceilings.json", given.device)


STAGES = (
    Stage("ceilings", 20, 90, _ceilings, _json_of("ceilings.json")),
    Stage("tests", 60, 300, _tests, _tests_found("tests")),
    Stage("pack", 20, 120, _pack),
    Stage("cifar10", 120, 1500, _cifar10, _json_of("cifar10/cifar10.json"), ("cifar10/cifar10.svg",)),
    Stage("ladder", 240, 560, _step_bench("ladder", "ladder.json"), _json_of("ladder.json")),
    Stage("real", 150, 300, _step_bench("end-to-end", "real.json"), _json_of("real.json")),
    Stage("lars", 40, 150, _lars, _lars_found),
    Stage("device-stages", 40, 120, _device_stages, _json_of("device-stages.json")),
    Stage("largest", 60, 200, _step_bench("largest-batch", "largest.json"), _json_of("largest.json")),
    Stage("dali-tests", 60, 240, _dali_tests, _tests_found("dali-tests")),
)


def main(arguments: Sequence[str] | None = None, stages: Sequence[Stage] = STAGES) -> int:
    """One call; 0 if all stages are done, 3 if the same command is to be given again, 1 if any has failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--seconds", type=float, default=580.0, help="of this call")
    parser.add_argument("--work", type=Path, help="what stages need to go on; by default RESULTS/work")
    parser.add_argument(
        "--images", type=Path, help="JPEGs as shards, tar or folder, for real and device-stages"
    )
    parser.add_argument("--cifar10", type=Path, nargs=2, metavar=("TRAIN", "TEST"), help="tars, for cifar10")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="these stages, in this order")
    parser.add_argument("--again", nargs="+", default=[], metavar="STAGE", help="forget how these went")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that take seconds")
    given = parser.parse_args(arguments)
    until_s = time.monotonic() + given.seconds
    by_name = {stage.name: stage for stage in stages}
    if unknown := {*(given.only or ()), *given.again} - by_name.keys():
        parser.error(f"there is no stage {', '.join(sorted(unknown))}, only {', '.join(by_name)}")
    session = Session(
        Given(given.results, given.work or given.results / "work", given.images,
              tuple(path.absolute() for path in given.cifar10) if given.cifar10 else None,
              given.tiny, given.device)
    )  # fmt: skip
    session.forget(given.again)
    return session.go([by_name[name] for name in given.only] if given.only else list(stages), until_s)


class Session:
    """The stages so far, in WORK, and their copy in RESULTS."""

    def __init__(self, given: Given) -> None:
        self._given = given
        given.work.mkdir(parents=True, exist_ok=True)
        given.results.mkdir(parents=True, exist_ok=True)
        path = given.work / RECORD
        self.lines: list[dict[str, Any]] = []
        for line in path.read_text().splitlines() if path.exists() else []:
            self.lines += _whole(line)

    def forget(self, names: Sequence[str]) -> None:
        """How these stages went."""
        self.lines = [line for line in self.lines if line["stage"] not in names]

    def go(self, stages: Sequence[Stage], until_s: float) -> int:
        """All stages that are left, as far as the time goes."""
        for stage in stages:
            how = self._how(stage.name)
            left_s = until_s - time.monotonic()
            if how in ("done", "failed"):
                _say(f"{stage.name}: {how} already")
            elif left_s < stage.least_s:
                _say(f"{stage.name}: not begun, {left_s:.0f} s are left and it takes {stage.least_s:.0f}")
            else:
                self._take(stage, min(left_s, stage.most_s))
        self._publish()
        hows = {stage.name: self._how(stage.name) for stage in stages}
        for name, how in hows.items():
            _say(f"{name:14} {how}")
        if {"unfinished", "not begun"} & set(hows.values()):
            _say("the same command goes on")
            return AGAIN
        _say("all stages have been taken")
        return int("failed" in hows.values())

    def _how(self, name: str) -> str:
        return next((line["how"] for line in reversed(self.lines) if line["stage"] == name), "not begun")

    def _take(self, stage: Stage, seconds: float) -> None:
        begin_s = time.monotonic()
        inner_s = max(5.0, seconds - 2 * _GRACE_S)  # so that it can stop by itself
        try:
            words = stage.words(self._given, inner_s)
            how, code = ("nothing to do it with", 0) if words is None else self._run(stage, words, seconds)
            found = stage.found(self._given)
        except (
            OSError,
            ValueError,
            ElementTree.ParseError,
        ) as error:  # of one stage; the next ones are others
            how, code, found = "failed", -1, repr(error)
        took_s = round(time.monotonic() - begin_s, 1)
        self.lines.append({"stage": stage.name, "how": how, "code": code, "seconds": took_s, "found": found})
        self._publish()
        for name in stage.files:
            if (self._given.work / name).exists():
                shutil.copy(self._given.work / name, self._given.results)
        _say(f"{stage.name}: {how} after {took_s:.0f} s {json.dumps(found)[:1500] if found else ''}")

    def _run(self, stage: Stage, words: Sequence[object], seconds: float) -> tuple[str, int]:
        """Runs a stage's command in a process group of its own; how it went, and its exit code."""
        _say(f"{stage.name}: {shlex.join(map(str, words))[:400]}")
        log = self._given.work / LOG
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, (str(ROOT / "python"), environment.get("PYTHONPATH")))
        )
        with log.open("ab") as out:
            out.write(f"\n---- {stage.name}\n".encode())
            out.flush()
            process = subprocess.Popen(
                list(map(str, words)), stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                cwd=ROOT, env=environment, start_new_session=True,
            )  # fmt: skip
            try:
                code = process.wait(max(1.0, seconds - _GRACE_S))
                how = "done" if code == 0 else "unfinished" if code == AGAIN else "failed"
            except subprocess.TimeoutExpired:
                how, code = "unfinished", _end(process)
            except BaseException:
                _end(process)
                raise
            finally:
                (self._given.results / LOG).write_bytes(log.read_bytes()[-_LOG_BYTES:])
        return how, code

    def _publish(self) -> None:
        """The record, and all that was measured, where a kill can't tear them."""
        record = "".join(json.dumps(line) + "\n" for line in self.lines)
        found = {line["stage"]: line["found"] for line in self.lines if line["found"] is not None}
        for folder in (self._given.work, self._given.results):
            _replace(folder / RECORD, record)
            _replace(folder / RESULTS, json.dumps(found, indent=1) + "\n")


def _end(process: subprocess.Popen[bytes]) -> int:
    """Ends a stage with all that it has started: asked first, then by force."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            return process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            break
    return process.wait()


def _whole(line: str) -> list[dict[str, Any]]:
    """A line of the record; none if a kill has torn it."""
    try:
        return [json.loads(line)]
    except ValueError:
        return []


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text)
    temporary.replace(path)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
