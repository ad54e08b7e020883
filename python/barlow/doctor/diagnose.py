"""Here: the order of the examinations, the ranks that they run on, the verdict in words, lines and JSON.

Not here: what is examined (the files beside this one), the command line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from barlow.distributed import World, process_group
from barlow.doctor import gradient, images, loss, optimizer
from barlow.doctor.facts import facts
from barlow.doctor.finding import Finding
from barlow.train.ranks import in_rank, start_ranks

_TIMEOUT_S = 120.0
_EXAMINATIONS: tuple[Callable[[World], list[Finding]], ...] = (
    gradient.findings, loss.findings, optimizer.findings, images.findings,
)  # fmt: skip
Facts = list[tuple[str, str]]


def diagnose(ranks: int, *, as_json: bool = False) -> bool:
    """Examines `ranks` processes on this machine (0: one for each GPU, at least 2); whether all is well.

    Inside torchrun or SLURM this process is one rank of however many there are. The first rank prints.
    `SystemExit` with a code other than 0 where ranks that this call started found something amiss, or died.
    """
    if not in_rank():
        import torch

        ranks = ranks or max(2, torch.cuda.device_count())
        if ranks > 1:
            start_ranks(ranks, ["-m", "barlow", "--", "doctor", *(["--json"] if as_json else [])])
            return True
    with process_group(timeout_s=_TIMEOUT_S) as world:
        known, found = facts(world), examine(world)
        if world.rank == 0:
            show(world, known, found, as_json=as_json)
        return all(finding.holds for finding in found)


def examine(world: World) -> list[Finding]:
    """Every invariant, the same list on every rank."""
    return [finding for examination in _EXAMINATIONS for finding in examination(world)]


def show(world: World, known: Facts, found: list[Finding], *, as_json: bool) -> None:
    """Prints it: JSON, a table on a terminal, plain lines elsewhere."""
    console = Console(highlight=False, soft_wrap=True)
    if as_json:
        print(json.dumps(as_dict(known, found), indent=2))
    elif console.is_terminal:
        console.print(_table(known, found))
        console.print(verdict(world, found), style="bold green" if _well(found) else "bold red", markup=False)
    else:
        for name, value in known:
            print(f"{name}: {value}")
        for finding in found:
            print(f"{'ok  ' if finding.holds else 'FAIL'} {finding.invariant}: {words(finding)}")
        print(verdict(world, found))


def as_dict(known: Facts, found: list[Finding]) -> dict[str, object]:
    """What `--json` prints; an error that is not finite is null."""
    return {
        "holds": _well(found),
        "facts": [{"name": name, "value": value} for name, value in known],
        "findings": [
            {
                "invariant": finding.invariant,
                "holds": finding.holds,
                "error": finding.error if math.isfinite(finding.error) else None,
                "allowed": finding.allowed,
                "detail": "" if finding.holds else finding.detail,
            }
            for finding in found
        ],
    }


def words(finding: Finding) -> str:
    """By how much it holds or not."""
    if finding.error == 0:
        return "equal"
    size = f"off by {finding.error:.1e}" if math.isfinite(finding.error) else "different"
    if finding.allowed:
        size += f" ({finding.allowed:g} is allowed)"
    return size if finding.holds or not finding.detail else f"{size}; {finding.detail}"


def verdict(world: World, found: list[Finding]) -> str:
    """One sentence."""
    where = f"{world.size} ranks" if world.size > 1 else "one process"
    amiss = [finding.invariant for finding in found if not finding.holds]
    if not amiss:
        return f"all is well: {where}, {len(found)} invariants hold"
    return f"not well: {where}, {len(amiss)} of {len(found)} invariants fail: {'; '.join(amiss)}"


def _well(found: list[Finding]) -> bool:
    return all(finding.holds for finding in found)


def _table(known: Facts, found: list[Finding]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in known:
        table.add_row("", name, value)
    table.add_section()
    for finding in found:
        mark = "[green]ok[/]" if finding.holds else "[red]FAIL[/]"
        table.add_row(mark, finding.invariant, words(finding))
    return table
