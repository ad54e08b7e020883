"""Here: noticing that a rank on any machine has died, fallen silent or failed, and ending this one then.

Not here: ending ranks with their launcher (ranks.py), the time after which a collective gives up
(distributed.py).

A collective on CPUs fails as soon as a peer's process is gone. One on GPUs may not, and none does when a
machine loses its power or its network: everybody else would wait for half an hour. So each rank says every
few seconds that it lives, over the store at which the ranks met, from a thread that training never blocks.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from types import TracebackType
from typing import NoReturn

from barlow.distributed import World, barrier, broadcast_value, own_store
from barlow.train.ranks import first_to_fail, say_lost

_SIGNS = 10
"""Signs of life in the time after which silence means death."""
_LEAVING_S = 2.0
_LEFT = "left"
_FAILED = "failed"


class Watch:
    """While it is entered, this process ends (exit code 1, one line) once another rank is lost.

    Lost is a rank that has given no sign of life for `lost_after_s` seconds, or that left with an error. The
    first rank watches all others, and they watch the first one. 0 seconds, or a single process: no watch.
    A process that was frozen itself, as by SIGSTOP, gives the others that time anew.
    """

    def __init__(self, world: World, lost_after_s: float) -> None:
        self._world, self._lost_after_s = world, lost_after_s
        self._enters = world.size > 1 and lost_after_s > 0
        self._over = threading.Event()
        self._heard_s: dict[int, float] = {}
        """When each watched rank last gave a new sign."""
        self._answered_s = 0.0
        self._threads = [
            threading.Thread(target=work, name=f"barlow-watch-{name}", daemon=True)
            for name, work in (("signs", self._exchange), ("judge", self._judge))
        ]

    def __enter__(self) -> Watch:
        if self._enters:
            # The store outlives attempts: keys of an earlier one would be taken for signs of this one.
            self._store = own_store(f"barlow/watch/{broadcast_value(secrets.token_hex(8))}")
            self._store.set(str(self._world.rank), "0")
            barrier()  # reading a key waits until it is there
            self._hear_all()
            for thread in self._threads:
                thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._enters:
            return
        self._over.set()
        for thread in self._threads:
            thread.join(_LEAVING_S)
        if any(thread.is_alive() for thread in self._threads):
            return  # the store has gone with its machine, and who asks it anything waits for ever
        with contextlib.suppress(RuntimeError):
            if isinstance(error, Exception):  # Ctrl-C and exits reach the others by themselves
                self._store.set(_FAILED, f"rank {self._world.rank}, which failed")
            else:
                self._store.set(str(self._world.rank), _LEFT)

    def _hear_all(self) -> None:
        now_s = time.monotonic()
        watched = range(1, self._world.size) if self._world.rank == 0 else (0,)
        self._heard_s = dict.fromkeys(watched, now_s)
        self._answered_s = now_s

    def _exchange(self) -> None:
        """Signs of life, this rank's and those of the ones it watches."""
        last: dict[int, bytes] = {}
        count = 0
        while not self._over.wait(self._lost_after_s / _SIGNS):
            count += 1
            try:
                self._store.set(str(self._world.rank), str(count))
                signs = self._store.multi_get([str(rank) for rank in self._heard_s])
                failed = self._store.get(_FAILED) if self._store.check([_FAILED]) else None
            except RuntimeError:
                self._end("the others: their store is gone")
            self._answered_s = now_s = time.monotonic()
            if failed is not None:
                self._end(failed.decode())
            for rank, sign in zip(list(self._heard_s), signs, strict=True):
                if sign != last.get(rank) or sign == _LEFT.encode():
                    last[rank], self._heard_s[rank] = sign, now_s

    def _judge(self) -> None:
        """Beside `_exchange`, which hangs itself when the machine of the store has no power."""
        pause_s = self._lost_after_s / _SIGNS
        before_s = time.monotonic()
        while not self._over.wait(pause_s):
            now_s = time.monotonic()
            if now_s - before_s > self._lost_after_s / 2:
                self._hear_all()  # it was this process that stood still
            before_s = now_s
            if now_s - self._answered_s > self._lost_after_s:
                self._end(f"the others: no answer from their store for {self._lost_after_s:g} s")
            for rank, heard_s in list(self._heard_s.items()):
                if now_s - heard_s > self._lost_after_s:
                    told = f"rank {rank}: no sign of life for {self._lost_after_s:g} s"
                    with contextlib.suppress(RuntimeError):
                        self._store.set(_FAILED, told)
                    self._end(told)

    def _end(self, what: str) -> NoReturn:
        if self._over.is_set():  # this rank is leaving, and with it perhaps everything else
            raise SystemExit
        if first_to_fail():
            say_lost(what)
        # The main thread may be inside a collective that never returns. What is on disk is whole at any time.
        os._exit(1)
