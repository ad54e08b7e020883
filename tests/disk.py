"""A disk for the tests of the write protocol: calls that change it are counted, and one of them goes wrong.

    with Disk(at=7, fault="die before").calls():  # in this process, for the calls that durable.py makes
        durable.write_folder(...)                 # raises Died at the seventh; later ones have no effect

The calls are those of `os`, which `pathlib` and `shutil` make as well. A death is a `BaseException` that no
handler of errors may take for an error; whatever cleans up on its way changes nothing any more, as it would
not in a process that is gone. With `really=True` the process ends by `_exit` (for a forked child).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CALLS = ("open", "write", "fsync", "close", "mkdir", "rename", "replace", "unlink", "rmdir")
"""What changes a disk, or can fail to. `open` and `close` count where a file is written."""
ERRORS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "EINTR": errno.EINTR}
DEATHS = ("die before", "die after", "die torn")
"""`die torn`: half of a write's bytes, and all of every other call, reach the disk."""


class Died(BaseException):
    """The process is no more."""


@dataclass
class Call:
    """One call that was made: its name and the path that it was about."""

    name: str
    path: str


@dataclass
class Disk:
    """Counts calls from 1; the one of number `at` suffers `fault`: a death, an error's name, or `short`."""

    at: int = 0
    fault: str = ""
    really: bool = False
    pid: int = 0
    """What the process takes for its id, so that a death in it can be another's; 0: the real one."""
    made: list[Call] = field(default_factory=list)
    dead: bool = False
    _paths: dict[int, str] = field(default_factory=dict)
    _written: set[int] = field(default_factory=set)

    @contextlib.contextmanager
    def calls(self) -> Iterator[Disk]:
        """Inside, the calls of this process go to this disk."""
        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, self._wrapped(name, getattr(os, name)))
            if self.pid:
                patch.setattr(os, "getpid", lambda: self.pid)
            yield self

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            if name == "open" and not arguments[1] & os.O_CREAT:
                descriptor = call(*arguments, **keywords)
                self._paths[descriptor] = str(arguments[0])
                self._written.discard(descriptor)
                return descriptor
            if name == "close" and (self.dead or arguments[0] not in self._written):
                # The kernel closes what the dead had open, and no close of what was only read can fail.
                with contextlib.suppress(OSError):
                    call(*arguments)
                return None
            if self.dead:
                raise Died
            self.made.append(Call(name, self._path_of(name, arguments)))
            here = len(self.made) == self.at
            if here and self.fault:
                self._suffer(name, call, arguments)
                if self.fault == "short" and name == "write":
                    return call(arguments[0], arguments[1][: len(arguments[1]) // 2])
            # Nothing here cuts the power, and a real flush takes milliseconds.
            result: Any = None if name == "fsync" else call(*arguments, **keywords)
            if name == "open":
                self._paths[result] = str(arguments[0])
                self._written.add(result)
            if here and self.fault in ("die after", "die torn"):
                self._die()
            return result

        return wrapped

    def _suffer(self, name: str, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        if self.fault == "die before" or (self.fault == "die torn" and name == "write"):
            if name == "write" and self.fault == "die torn":
                call(arguments[0], arguments[1][: len(arguments[1]) // 2])
            if name == "close":
                call(*arguments)
            self._die()
        if self.fault in ERRORS:
            if name == "close":
                call(*arguments)  # the descriptor is gone, whatever is said of its bytes
            raise OSError(ERRORS[self.fault], os.strerror(ERRORS[self.fault]))

    def _die(self) -> None:
        if self.really:
            os._exit(9)
        self.dead = True
        raise Died

    def _path_of(self, name: str, arguments: tuple[Any, ...]) -> str:
        about = arguments[0]
        path = self._paths.get(about, "?") if isinstance(about, int) else str(about)
        return f"{path} -> {arguments[1]}" if name in ("rename", "replace") else path


def relative(calls: list[Call], folder: Path, pid: int) -> list[str]:
    """The calls as `name path`, paths from `folder` on and the process's id as PID."""
    prefix = f"{folder}/"
    return [
        f"{call.name} {call.path}".replace(prefix, "").replace(str(folder), ".").replace(str(pid), "PID")
        for call in calls
    ]
