"""Here: notes, warnings and errors as single lines for people.

Not here: which errors end a command and with what code (cli.py), progress.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any


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
            message += f" (perhaps {section.split()[3]})"
        if section.startswith("Available subcommands"):
            message += f". {section}"
    return message


def one_line(error: BaseException) -> str:
    """The error's text without line breaks."""
    return " ".join(str(error).split())


def worded_here(trace: TracebackType | None) -> bool:
    """Whether an error was raised by this package on purpose, not inside a library by accident."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").split(".")[0] == "barlow"


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as one line; for `warnings.showwarning`."""
    print(f"barlow: warning: {' '.join(str(message).split())}", file=sys.stderr, flush=True)
