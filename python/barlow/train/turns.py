"""Here: whether all ranks begin the next step: each has its batch, and none wishes to stop.

Not here: where wishes come from (preempt.py, saving.py), the collective (distributed.py), batches.

A rank whose batch never comes must not keep the others inside a step that can't end: they could neither
save nor leave. So nobody begins a step before all have its batch. Where loaders are ahead that is known a
step before, beside the wishes, and nobody waits for it; else the ranks ask each other until it is so. A wish
to stop is then heard by all of them between two steps, also while a read hangs.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from barlow.data import AnyLoader
from barlow.distributed import LateMax

_ROUND_S = 0.25
"""So long a rank waits for its batch before it hears the others again."""


class Turns:
    """A context manager, entered by every rank. Each step is `wait`, its batch, `ask`, the work, `answer`.

    `wish()` is 0, or the number of what this rank wishes to stop for; the largest one of all ranks counts.
    """

    def __init__(self, loader: AnyLoader, wish: Callable[[], int]) -> None:
        self._loader = loader
        self._is_ready = self._all_are_ready = False
        # A wish stops all in any case, so what else is in the number is only looked at where there is none.
        self._late = LateMax(lambda: wish() << 1 | (not self._is_ready))

    def wait(self) -> int:
        """0 once every rank has the next step's batch, or a wish for which no rank has begun that step."""
        while not self._all_are_ready:
            self._is_ready = self._loader.ready(_ROUND_S)
            self._late.ask()
            if wish := self.answer():
                return wish
        return 0

    def ask(self) -> None:
        """Sends this rank's wish off, and whether it has the batch after this one; returns at once."""
        self._is_ready = self._loader.ready()
        self._late.ask()

    def answer(self) -> int:
        """The wish of all ranks as of `ask`, 0 for none, the same on each; waits until each has asked."""
        told = self._late.answer()
        self._all_are_ready = not told & 1
        return told >> 1

    def __enter__(self) -> Turns:
        self._late.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._late.__exit__(kind, error, trace)
