"""Here: what a long command shows of its progress: a bar on a terminal, elsewhere plain lines.

Not here: results, which go to standard output; what the numbers count.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator


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
