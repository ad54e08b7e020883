"""A fork of the nursery is what a new interpreter would be, as a child and in what it finds.

That a run of forks has the bits of one of new interpreters is in test_train.py (torchrun and --nproc).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import nursery
from nursery import Forked

LOOK = """
import json, os, random, signal, sys, threading
import numpy as np, torch
print(json.dumps({
    "arguments": sys.argv, "main": __name__, "folder": os.getcwd(), "parent": os.getppid(),
    "environment": dict(os.environ), "session": os.getsid(0) == os.getpid(),
    "descriptors": sorted(os.listdir("/proc/self/fd"))[:-1], "input": sys.stdin.read(),
    "threads": [torch.get_num_threads(), threading.active_count(), len(os.listdir("/proc/self/task")) == 1],
    "signals": [str(signal.getsignal(n)) for n in (2, 15, 10, 17)],
    "seeds": [torch.initial_seed(), random.random(), np.random.rand()], "CUDA": torch.cuda.is_initialized(),
    "streams": [(s.encoding, s.line_buffering, s.write_through) for s in (sys.stdout, sys.stderr)],
}))
sys.stderr.write("caf\\u00e9 \\udc80")
sys.exit(7)
"""


def looked(how: type[subprocess.Popen[str]], folder: Path) -> tuple[dict[str, Any], str, int]:
    words = [sys.executable, "-u", "-c", LOOK, "one", "two words"]
    environment = {
        "LC_ALL": "C.UTF-8",
        "PATH": os.environ["PATH"],
        "RANK": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    process = how(
        words, env=environment, cwd=folder, start_new_session=True, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = process.communicate("words\n", timeout=120)
    return json.loads(out), err, process.returncode


def test_it_finds_what_a_new_interpreter_finds(tmp_path: Path) -> None:
    fork, other, new = (looked(how, tmp_path) for how in (Forked, Forked, subprocess.Popen))
    seeds = [each[0].pop("seeds") for each in (fork, other, new)]
    assert all(len(set(three)) == 3 for three in zip(*seeds, strict=True))
    for name, value in new[0].items():
        assert fork[0][name] == value, name
    assert fork[1:] == new[1:] == ("café \\udc80", 7)
    assert fork[0]["parent"] == os.getpid()


def test_proc_shows_its_own_words_and_its_rank() -> None:
    words = [sys.executable, "-c", "print('ready', flush=True); input()", "barlow"]
    environment = {**os.environ, "RANK": "3"}
    pipe = subprocess.PIPE
    with Forked(words, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        place = Path(f"/proc/{process.pid}")
        assert place.joinpath("cmdline").read_bytes().rstrip(b"\0").split(b"\0") == [
            w.encode() for w in words
        ]
        assert b"\0RANK=3\0" in place.joinpath("environ").read_bytes()
        process.send_signal(signal.SIGTERM)
    assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize(
    ("program", "code", "words"),
    [
        ("import sys; sys.exit('no way')", 1, "no way\n"),
        ("raise ValueError('of no value')", 1, "ValueError: of no value\n"),
        ("import atexit; atexit.register(lambda: sys.stderr.write('late')); import sys", 0, "late"),
        ("import threading as t, os; t.Timer(0.2, os.write, (2, b'last')).start()", 0, "last"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "KeyboardInterrupt\n"),
    ],
)  # fmt: skip
def test_it_ends_as_an_interpreter_does(program: str, code: int, words: str) -> None:
    ended = nursery.run([sys.executable, "-c", program])
    assert ended.returncode == code, ended.stderr
    assert ended.stderr.endswith(words)
