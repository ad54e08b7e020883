"""Here: the tables of a finished evaluation in the terminal.

Not here: numbers; they come in and are only laid out. Progress (console.py), the report (barlow.report).
"""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from barlow.evaluate.console import Console
from barlow.evaluate.job import Json
from barlow.evaluate.scores import ROWS, Score, chance, legend, rank_bound, scores


def show(talk: Console, result: Json, path: Path) -> None:
    """The scores, what is missing and why, where the protocols were left, and where the whole result is."""
    if found := scores(result):
        talk.show(_scores(found, result))
        for told in filter(None, (chance(result), legend(found))):
            talk.say(told)
    else:
        talk.say(f"No accuracies: {result['reason']}.")
    talk.show(_without_labels(result))
    for note in result["protocol"]["deviations"]:
        talk.say(f"differs from the published protocol: {note}")
    talk.say(f"wrote {path}")


def _scores(found: list[Score], result: Json) -> Table:
    rows = {name: key for name, key in ROWS.items() if key is None or isinstance(result.get(key), dict)}
    table = Table("", title="Percent of the test images")
    for name in rows:
        table.add_column(name, justify="right", no_wrap=True)
    gains = any(score.gain()[0] is not None for score in found)
    if gains:
        table.add_column("gain", justify="right", no_wrap=True)
    for score in found:
        cells = [score.text(key) for key in rows.values()]
        table.add_row(score.words, *cells, *([score.gain_text()] if gains else []))
    return table


def _without_labels(result: Json) -> Table:
    table = Table(title="Without labels")
    for column in ("", "effective rank", "a view finds its twin, %"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in (("trained", result), ("untrained", result.get("untrained"))):
        if row is not None:
            free = row["label_free"]
            rank = f"{free['effective_rank']:.2f} of {rank_bound(free)}"
            table.add_row(name, rank, f"{free['instance_retrieval_top1']:.2f}")
    return table
