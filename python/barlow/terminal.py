"""Here: what commands say beside their results: progress, and notes, warnings and errors as single lines.

Not here: results, which go to standard output; which errors end a command and with what code (cli.py).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any


@contextlib.contextmanager
def bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A function of (done, total): a bar on a terminal, elsewhere a line every ten seconds; on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        last_s = time.monotonic()

        def line(done: int, total: int) -> None:
            nonlocal last_s
            if time.monotonic() - last_s >= 10:
                last_s = time.monotonic()
                print(f"{title}: {done}/{total}", file=sys.stderr, flush=True)

        yield line
        return
    columns = (TextColumn(title), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextlib.contextmanager
def notes() -> Iterator[None]:
    """What the package logs goes to stderr, one line each."""
    log, handler = logging.getLogger("barlow"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("barlow: %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)


def unboxed(text: str) -> str:
    """tyro's box of an error as one line: its first section, and the nearest flag if it names one."""
    lines = [re.sub(r"[╭╮╰╯│]", "", line).strip() for line in text.splitlines()]
    sections = "\n".join(line for line in lines[1:-1] if line).split("─" * 10)
    sections = [" ".join(section.strip("─ \n").split()) for section in sections]
    message = sections[0]
    for section in sections[1:]:
        if section.startswith("Perhaps you meant:"):
            message += f" (perhaps {section.split()[3].rstrip(',')})"
    return message


def one_line(error: BaseException) -> str:
    """The error's text without line breaks and the number that Rust puts behind the system's words."""
    return re.sub(r" \(os error \d+\)", "", " ".join(str(error).split()))


def short(path: Path | str) -> str:
    """A path relative where that is inside the current folder, for reading and for pasting."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def end_of(path: Path | str) -> str:
    """The last two names of a path: what it is of, and not where on this machine it lies."""
    return "/".join(Path(path).relative_to(Path(path).anchor).parts[-2:])


def worded_here(trace: TracebackType | None) -> bool:
    """Whether an error was raised by this package on purpose, not inside a library by accident."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").split(".")[0] == "barlow"


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as one line; for `warnings.showwarning`."""
    print(f"barlow: warning: {' '.join(str(message).split())}", file=sys.stderr, flush=True)
