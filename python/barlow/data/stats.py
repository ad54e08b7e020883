"""Here: what a loader has done, stage by stage, and one line that says what limits it.

Not here: the counting (Rust), drawing it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STAGES = ("read", "decode", "augment", "deliver")


@dataclass(frozen=True)
class StageStats:
    """What one stage has done since construction; one that is under way counts in `busy_s` only."""

    busy_s: float
    """Seconds of work, summed over threads."""
    images: int
    """How many it was done for, damaged ones included."""
    images_per_s: float
    """`images` / `busy_s`: of one thread while it is at this."""
    occupancy: float
    """Share of the seconds that its threads have run (for deliver: of the consumer's), from 0 to 1."""
    p50_ms: float
    """Median milliseconds for one image, within 6 %. For deliver: for one batch, the wait included."""
    p99_ms: float
    """99th percentile of the same."""
    bytes: int
    """What came out: encoded bytes, decoded pixels, views; for deliver, views that the consumer has."""


@dataclass(frozen=True)
class Stats:
    """What a loader has done since construction. A field can also be read by name: `stats["waited_s"]`."""

    images: int
    """Samples delivered."""
    replaced: int
    """Those of them that stand in for damaged ones."""
    threads: int
    """Worker threads; 0 while none runs."""
    lent: int
    """Batches in flight now."""
    finished: int
    """How many of these are finished."""
    threads_s: float
    """Seconds that threads have run, summed over them."""
    idle_s: float
    """Seconds of these without memory to fill: the threads wait for the consumer."""
    consumer_s: float
    """Seconds since the consumer's first batch, while the stream was open."""
    waited_s: float
    """Seconds of these that the consumer waited for batches."""
    stages: dict[str, StageStats]
    """read (and check), decode, augment (cut views and change them) by the threads; deliver (lend memory,
    hand a batch over) by the consumer."""

    @property
    def bytes(self) -> int:
        """Encoded bytes read."""
        return self.stages["read"].bytes

    @property
    def read_s(self) -> float:
        """Seconds of reading, summed over threads."""
        return self.stages["read"].busy_s

    @property
    def decode_s(self) -> float:
        """Seconds of decoding, summed over threads."""
        return self.stages["decode"].busy_s

    @property
    def augment_s(self) -> float:
        """Seconds of cutting views and their operations, summed over threads."""
        return self.stages["augment"].busy_s

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    @property
    def line(self) -> str:
        """Who waits for whom, and which stage limits: one sentence."""
        if not self.images:
            return "nothing was loaded yet"
        waiting, idle = _share(self.waited_s, self.consumer_s), _share(self.idle_s, self.threads_s)
        work = {name: self.stages[name].occupancy for name in STAGES[:3]}
        shares = ", ".join(f"{name} {share:.0%}" for name, share in work.items())
        if waiting > idle:
            slowest = max(work, key=lambda name: work[name])
            verdict = f"{slowest} limits: the consumer waits {waiting:.0%} of its time"
        else:
            verdict = f"the consumer limits: it waits {waiting:.0%} of its time"
        return f"{verdict}; threads: {shares}, idle {idle:.0%}"

    def __str__(self) -> str:
        return self.line


def stats_of(raw: Mapping[str, Any], *, lent: int, finished: int, running: bool, image_bytes: int) -> Stats:
    """From the native totals; `image_bytes` is what one delivered image has in all views."""
    images: int = raw["images"]
    stages = {}
    for name in STAGES:
        stage = raw[name]
        delivers = name == "deliver"
        count, busy_s = images if delivers else stage["count"], stage["busy_s"]
        stages[name] = StageStats(
            busy_s=busy_s,
            images=count,
            images_per_s=_share(count, busy_s),
            occupancy=_share(busy_s, raw["consumer_s" if delivers else "threads_s"]),
            p50_ms=stage["p50_s"] * 1e3,
            p99_ms=stage["p99_s"] * 1e3,
            bytes=images * image_bytes if delivers else stage["bytes"],
        )
    totals = {name: raw[name] for name in ("replaced", "threads_s", "idle_s", "consumer_s", "waited_s")}
    threads = raw["threads"] if running else 0
    return Stats(images=images, threads=threads, lent=lent, finished=finished, stages=stages, **totals)


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
