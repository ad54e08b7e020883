"""Here: what a run is made of, by name and value: agreed on between its ranks, compared when it goes on.

Not here: which settings may change freely and what becomes of a difference (launch.py), the collectives.

The names are those of the config's fields (`optim.momentum`) and CODE_AND_DATA. A run records its own in
config.json and run.json.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from barlow import __version__
from barlow.config import Config
from barlow.data import VIEWS_VERSION, Index, Order

CODE = "code"
CODE_AND_DATA = {
    "barlow": "the version of barlow",
    CODE: "the digest of barlow's own files",
    "views": "the version of the augmentations' parameters and pixels",
    "data": "the digest of the index",
    "order": "the digest of the order of the samples",
}
_ORDER_DEPENDS_ON = {"data", "train.seed", "optim.batch_size"}


@dataclass(frozen=True)
class Change:
    """A name whose value is another one than before."""

    name: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.name} is {self.before} there and {self.now} here"


def of_code() -> dict[str, Any]:
    """What decides, beside the config and the data, which numbers come out."""
    return {"barlow": __version__, CODE: digest_of_files(), "views": VIEWS_VERSION}


@functools.cache
def digest_of_files(package: Path = Path(__file__).parents[1]) -> str:
    """Of the package's Python files and its native library, as this process finds them: 16 hex digits.

    A version stays while a checkout is edited or built anew; this does not.
    """
    hasher = hashlib.sha256()
    for path in sorted((*package.rglob("*.py"), *package.glob("_native*.so"))):
        content = path.read_bytes()
        hasher.update(f"{path.relative_to(package).as_posix()} {len(content)}\n".encode() + content)
    return hasher.hexdigest()[:16]


def of_libraries() -> dict[str, Any]:
    """What the ranks must share and a run may change: rounding is all it decides."""
    return {"torch": metadata.version("torch")}


def of_config(config: Config) -> dict[str, Any]:
    """Every field as `section.field`."""
    sections = dataclasses.asdict(config)
    return {f"{section}.{name}": value for section in sections for name, value in sections[section].items()}


def of_data(config: Config, index: Index) -> dict[str, Any]:
    """Which samples there are, and which batches they make: the whole sequence of all epochs."""
    order = Order(len(index), config.optim.batch_size, seed=config.train.seed)
    return {"data": index.digest(), "order": order.digest()}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """The names of both whose values differ. What `before` lacks is unknown: an older version wrote it."""
    found = [
        Change(name, before[name], now[name]) for name in now if before.get(name, now[name]) != now[name]
    ]
    names = {change.name for change in found}
    follows = {"order"} if _ORDER_DEPENDS_ON & names else set()
    follows |= {CODE} if "barlow" in names else set()
    return [change for change in found if change.name not in follows]  # which say nothing new


def check_names(names: Collection[str]) -> None:
    """`ValueError` for a name that nothing has."""
    known = {*of_config(Config()), *CODE_AND_DATA}
    for name in names:
        if name not in known:
            raise ValueError(
                f"--allow-changes {name}: there is no such name, only {', '.join(CODE_AND_DATA)} "
                "and the config's fields, such as optim.momentum"
            )
