"""Processes of the tests that begin with torch imported: forks of a server that has imported it once.

    process = Forked([sys.executable, "-m", "barlow", "train", ...], env=environment, stdout=PIPE, ...)

Importing torch takes seconds of a core, and the tests start some two hundred commands and ranks. A `Forked`
is a `Popen` like any other: a child of whoever makes it, with streams, signals, exit code, environment and
command line of its own. Only its interpreter is a copy of one that has imported what it is going to need. A
command that starts others (ranks, the commands of the demo) has a nursery of its own for them, forked before
anything of it ran, so none is ever forked while threads run.

What this can't show is what an interpreter does before `main`, and that a command imports no more than it has
to: tests of that start an interpreter anew (`commands.start(..., anew=True)`), as shell scripts do.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

# Nothing here may start a thread or run an operation on several: a fork has none of its parent's threads.
IMPORTED = (
    "torch",
    "torchvision",
    "safetensors.torch",
    "torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler",
    "barlow.cli",
    "barlow.doctor",
    "barlow.evaluate",
    "barlow.evaluate.online",
    "barlow.export",
    "barlow.report",
    "barlow.train.loop",
    "pytest",
)
STARTING_OTHERS = {"torch.distributed.run", "barlow.demo", "--nproc", "--ranks"}
"""Words of a command line whose process starts others; `rehearse(nproc=2)` and the like have to say it."""
REQUEST_BYTES = 1 << 17
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
REQUESTS_TO_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_libc = ctypes.CDLL(None)


class Nursery:
    """Where this process gets its children from."""

    def __init__(self, connection: socket.socket, server: object = None) -> None:
        self._connection = connection
        self._server = server  # held: a `Popen` complains when it is forgotten before its process has ended
        self._lock = threading.Lock()

    def bear(self, request: dict[str, Any], streams: Sequence[int]) -> int:
        """A new child of this process (`_become`); its id. `streams` become its 0, 1 and 2."""
        with self._lock:
            # It is born as a grandchild of the nursery whose parent ends at once. Orphans below us become
            # children of ours for as long as that takes.
            _libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
            try:
                socket.send_fds(self._connection, [json.dumps(request).encode()], list(streams))
                pid, orphaned = self._connection.recv(16), self._connection.recv(16)
            finally:
                _libc.prctl(PR_SET_CHILD_SUBREAPER, 0)
        if not orphaned:
            raise ChildProcessError("the nursery is gone")
        return int(pid)


_nurseries: dict[Path, Nursery] = {}
"""This process's, by the folder that they import barlow from."""
_HERE = Path(__file__).parent
_BARLOW = _HERE.parent / "python"


def _nursery(place: Path) -> Nursery:
    """A process that was not born in a nursery starts an interpreter for it."""
    if place not in _nurseries:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = [str(_HERE), str(place), *sys.path]
        with theirs:
            server = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), " " * 8192],  # room for its children's words
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        _nurseries[place] = Nursery(ours, server)
    return _nurseries[place]


class Forked(subprocess.Popen[str]):
    """Of `[sys.executable, ("-u",) "-m" MODULE | "-c" PROGRAM | FILE.py, ...]`; of all else a `Popen`."""

    place = _BARLOW

    def _execute_child(self, args: Any, *rest: Any) -> None:
        """What makes the process, of a private interface that has been the same from Python 3.7 to 3.14."""
        (executable, before_exec, _, passed, cwd, env, _, _, shell, stdin_r, stdin_w, out_r, out_w, err_r,
         err_w, _, gid, gids, uid, umask, session) = rest[:21]  # fmt: skip
        special = (executable, before_exec, passed, shell, gid, gids, uid)
        words = [] if isinstance(args, (str, bytes)) else [os.fsdecode(word) for word in args]
        if words[:1] != [sys.executable] or _program(words) is None or any(special) or umask != -1:
            super()._execute_child(args, *rest)  # pyright: ignore[reportAttributeAccessIssue]
            return
        request = {
            "words": words,
            "environment": {os.fsdecode(k): os.fsdecode(v) for k, v in (env or os.environ).items()},
            "folder": os.path.abspath(os.fsdecode(cwd or ".")),  # noqa: PTH100 (of a link itself)
            "session": bool(session),
            "cores": sorted(os.sched_getaffinity(0)),
        }
        streams = [usual if own == -1 else own for usual, own in enumerate((stdin_r, out_w, err_w))]
        self.pid = _nursery(self.place).bear(request, streams)
        self._child_created = True
        ends = (stdin_r, stdin_w, out_r, out_w, err_r, err_w)
        self._close_pipe_fds(*ends)  # pyright: ignore[reportAttributeAccessIssue]


def run(
    words: Sequence[str | os.PathLike[str]],
    timeout_s: float | None = None,
    kind: type[subprocess.Popen[str]] = Forked,
    **how: Any,
) -> subprocess.CompletedProcess[str]:
    """A `Forked` to its end, with its output."""
    pipe = subprocess.PIPE
    with kind(words, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, **how) as process:
        out, err = process.communicate(timeout=timeout_s)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def forked_with(place: Path) -> type[Forked]:
    """`Forked` with the barlow of another folder."""
    return type("Forked", (Forked,), {"place": place})


def _program(words: list[str]) -> tuple[str, str, list[str]] | None:
    """How Python is to run: by "-m", "-c" or "", with that module, program or file, and its arguments."""
    rest = words[2:] if words[1:2] == ["-u"] else words[1:]
    if rest[:1] in (["-m"], ["-c"]) and len(rest) > 1:
        return rest[0], rest[1], rest[2:]
    return ("", rest[0], rest[1:]) if rest and rest[0].endswith(".py") else None


def _serve(connection: socket.socket) -> None:
    """Bears children until nobody is left who could ask for one."""
    while True:
        message, streams, _, _ = socket.recv_fds(connection, REQUEST_BYTES, 3)
        if not message:
            return
        waits, ends = os.pipe()
        parent = os.fork()
        if parent == 0:
            try:
                pid = os.fork()
                if pid == 0:
                    os.close(ends)
                    os.read(
                        waits, 1
                    )  # until it has the parent that it is going to keep: ranks depend on theirs
                    _become(json.loads(message), streams)
                connection.send(str(pid).encode())
            finally:
                os._exit(0)
        os.waitpid(parent, 0)
        for stream in (waits, ends, *streams):
            os.close(stream)
        connection.send(b"orphaned")


def _become(request: dict[str, Any], streams: list[int]) -> NoReturn:
    """This fork is from now on the process that was asked for."""
    code = 1
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        _close_all_above(2)
        if request["session"]:
            os.setsid()
        os.sched_setaffinity(0, request["cores"])
        os.chdir(request["folder"])
        _be_new(request["words"], request["environment"])
        if STARTING_OTHERS.intersection(request["words"]):
            _have_a_nursery()
        code = _run(request["words"])
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _close_all_above(last: int) -> None:
    for number in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if number > last:
            with contextlib.suppress(OSError):  # the one that read the list
                os.close(number)


def _be_new(words: list[str], environment: dict[str, str]) -> None:
    """Signals, environment, streams and threads as a new interpreter has them."""
    import numpy as np
    import torch

    for number in (*REQUESTS_TO_STOP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    _show("arg", words)
    # Tests look for these, each behind a zero byte: they come first, in case there isn't room for all.
    named = sorted(environment, key=lambda name: (name not in ("RANK", "LOCAL_RANK"), name))
    _show("env", [f"_={words[0]}", *(f"{name}={environment[name]}" for name in named)])
    eager = words[1:2] == ["-u"]
    sys.stdin = sys.__stdin__ = _stream(0, "r")
    sys.stdout = sys.__stdout__ = _stream(1, "w", write_through=eager)
    sys.stderr = sys.__stderr__ = _stream(
        2, "w", line_buffering=not eager, write_through=eager, errors="backslashreplace"
    )
    torch.default_generator.seed()  # what nobody seeds must differ, as it does elsewhere
    np.random.seed()
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))


def _stream(number: int, mode: str, **how: Any) -> Any:
    stream: Any = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
    stream.reconfigure(**how)
    return stream


def _show(area: str, words: list[str]) -> None:
    """What /proc shows as command line ("arg") or environment ("env"), as far as there is room."""
    numbers = Path("/proc/self/stat").read_text().rpartition(") ")[2].split()
    place = {"arg": 45, "env": 47}[area]  # proc(5): fields 48 to 51, and two are before the ")"
    begin, end = map(int, numbers[place : place + 2])
    text = b"".join(os.fsencode(word) + b"\0" for word in words)[: end - begin - 1]
    ctypes.memmove(begin, text.ljust(end - begin, b"\0"), end - begin)


def _have_a_nursery() -> None:
    """For the processes that this one starts."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork():
        theirs.close()
        _nurseries[_BARLOW] = Nursery(ours)
        subprocess.Popen = subprocess_handler.Popen = Forked  # pyright: ignore
        return
    try:
        ours.close()
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in REQUESTS_TO_STOP:  # which tests send to whole families
            signal.signal(number, signal.SIG_IGN)
        _show("arg", ["nursery"])
        _show("env", [])
        with Path(os.devnull).open("r+b") as nothing:  # its parent's streams close when others have ended
            for number in range(3):
                os.dup2(nothing.fileno(), number)
        _serve(theirs)
    finally:
        os._exit(0)


def _run(words: list[str]) -> int:
    """The program, as Python runs it; its exit code."""
    code = 0
    try:
        _execute(words)
    except SystemExit as stop:
        if stop.code is not None and not isinstance(stop.code, int):
            print(stop.code, file=sys.stderr)
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue] (waits for threads, as the end of `main` does)
    atexit._run_exitfuncs()
    return code


def _execute(words: list[str]) -> None:
    program = _program(words)
    assert program is not None
    how, what, arguments = program
    if how == "-m":
        sys.argv = [what, *arguments]
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    elif how == "-c":
        sys.argv = ["-c", *arguments]
        sys.path.insert(0, "")
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), main.__dict__)
    else:
        sys.argv = [what, *arguments]
        sys.path.insert(0, str(Path(what).parent))
        runpy.run_path(what, run_name="__main__")


def main(connection: int) -> None:
    """The first nursery: imports what all will need, then serves."""
    for number in REQUESTS_TO_STOP:
        signal.signal(number, signal.SIG_IGN)
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection copies each page on which it looks at an object
    nursery = importlib.import_module("nursery")  # under the name by which the forks know it
    nursery._serve(socket.socket(fileno=connection))


if __name__ == "__main__":
    main(int(sys.argv[1]))
