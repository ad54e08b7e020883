"""Here: what several subcommands share: positional arguments, bounds of flags, printing a report.

Not here: subcommands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import tyro

Source = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SRC")]
Data = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATA")]
Target = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN|WEIGHTS")]
Run = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
Runs = Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN...")]
Out = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]

MAX_THREADS = 4096
"""As many as the loader takes."""
MAX_PROCESSES = 1 << 16
MAX_EPOCHS = (1 << 32) - 1
"""As many as the loader counts."""


def check(flag: str, value: int, low: int, high: int) -> None:
    """`ValueError` naming the flag unless its value lies between the two."""
    if not low <= value <= high:
        raise ValueError(f"{flag} must lie between {low} and {high}, not {value}")


def show(report: dict[str, Any]) -> None:
    """A line for each entry; all in one piece, so that nobody writes after `| head` has gone."""
    print("\n".join(f"{name}: {value}" for name, value in report.items()))
