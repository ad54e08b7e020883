"""Here: the section that says how good the backbone is, from eval.json.

Not here: evaluating.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from barlow.evaluate.scores import ROWS, Score, chance, legend, rank_bound, scores
from barlow.report import charts
from barlow.report.page import missing, section
from barlow.report.paper import Published, published
from barlow.report.record import Record
from barlow.terminal import end_of


def section_of(
    evaluation: dict[str, Any] | None, theirs: Published | None = None, done_steps: int = 0
) -> str:
    """The table of accuracies: trained, untrained, raw pixels and the gain; and what others published.

    `done_steps`: how far the run is by now; whether it has gone on since it was evaluated is said.
    """
    intro = "<h2>What the backbone learned</h2>"
    if evaluation is None:
        gap = "This run has not been evaluated yet: run <code>barlow eval</code>."
        return section(intro, missing(gap), _published(theirs), anchor="results")
    found = scores(evaluation)
    if not found:
        reason = escape(str(evaluation.get("reason") or "no labels"))
        return section(intro, missing(f"No accuracies: {reason}."), _label_free(evaluation), anchor="results")
    columns = {
        name: key for name, key in ROWS.items() if key is None or isinstance(evaluation.get(key), dict)
    }
    heads = [*columns, "gain"] if "untrained" in columns else [*columns]
    table = (
        f'<div class="scroll"><table class="results" style="--columns:{len(heads)}"><thead><tr>'
        f"<th scope=col>protocol</th>{''.join(f'<th scope=col>{name}</th>' for name in heads)}</tr>"
        f"</thead><tbody>{''.join(_result_row(score, columns) for score in found)}</tbody></table></div>"
    )
    spread = f'<p class="why">{escape(legend(found))}</p>' if legend(found) else ""
    parts = (_published(theirs), _label_free(evaluation), _protocol(evaluation))
    return section(
        intro, _what_of(evaluation) + _older(evaluation, done_steps), table, spread, *parts, anchor="results"
    )


def _what_of(evaluation: dict[str, Any]) -> str:
    data = evaluation.get("data", {})
    if not data.get("test_images"):
        return ""
    compared = isinstance(evaluation.get("untrained"), dict)
    gain = "The gain is over the same network before training." if compared else ""
    return (
        f'<p class="why">Percent of {data["test_images"]:,} test images of {data["num_classes"]} '
        f"classes, with {data['train_images']:,} labelled training images. {chance(evaluation)} {gain}</p>"
    )


def _older(evaluation: dict[str, Any], done_steps: int) -> str:
    step = evaluation.get("step")
    if not isinstance(step, int) or step >= done_steps:
        return ""
    return (
        f'<p class="why"><strong>These are the numbers of step {step:,}; the run has gone on to step '
        f"{done_steps:,} since: <code>barlow eval</code> measures it anew.</strong></p>"
    )


def _result_row(score: Score, columns: dict[str, str | None]) -> str:
    cells = []
    for column, key in columns.items():
        value, spread = score.of(key)
        if value is None:
            cells.append("<td>&ndash;</td>")
            continue
        main = " main" if column == "trained" else ""
        cells.append(
            f'<td><span class="value{main}">{value:.2f}</span>{_around(spread)}'
            f'<span class="bar" aria-hidden="true"><i class="{main.strip()}" style="width:{value:.1f}%">'
            "</i></span></td>"
        )
    if "untrained" in columns:
        value, spread = score.gain()
        words = "" if value is None else f"{value:+.2f}".replace("-", "&minus;")
        gain = f'<span class="value">{words}</span>{_around(spread)}' if words else "&ndash;"
        cells.append(f'<td class="gain">{gain}</td>')
    return f"<tr><th scope=row>{_name(score)}</th>{''.join(cells)}</tr>"


def _around(spread: float | None) -> str:
    return "" if spread is None else f' <span class="spread">&plusmn; {spread:.2f}</span>'


def _name(score: Score) -> str:
    """No line may end within "top-1"."""
    protocol, metric = score.title
    return f'{escape(protocol)} <span class="metric">{escape(metric)}</span>'


def _published(theirs: Published | None) -> str:
    if theirs is None:
        return ""
    top5 = "" if theirs.linear_top5 is None else f", top-5 <strong>{theirs.linear_top5:.1f}</strong>"
    return (
        f'<p class="why published">Published for this recipe ({escape(theirs.source)}): linear top-1 '
        f"<strong>{theirs.linear_top1:.1f}</strong>{top5}.</p>"
    )


def comparison(records: list[Record]) -> str:
    """The accuracies of several runs in one table, beside what is published for their recipes."""
    heading = "<h2>What the backbones learned</h2>"
    evaluated = [scores(rec.evaluation) for rec in records if rec.evaluation]
    if not any(evaluated):
        gap = "None of these runs has been evaluated: run <code>barlow eval</code>."
        return section(heading, missing(gap), anchor="results")
    columns = list(dict.fromkeys(score.place for found in evaluated for score in found))
    words = {score.place: _name(score) for found in evaluated for score in found}
    published_for = [published(rec.config, rec.run.get("num_samples")) for rec in records]
    head = "".join(f"<th scope=col>{words[place]}</th>" for place in columns)
    if any(published_for):
        head += "<th scope=col>published linear top-1</th>"
    rows = []
    for i, (rec, theirs) in enumerate(zip(records, published_for, strict=True)):
        cells = "".join(_cell(Score(*place, rec.evaluation or {})) for place in columns)
        if any(published_for):
            cells += (
                f"<td>{theirs.linear_top1:.1f} ({escape(theirs.source)})</td>"
                if theirs
                else "<td>&ndash;</td>"
            )
        rows.append(f'<tr><th scope=row><i class="swatch r{i % 6}"></i>{escape(rec.name)}</th>{cells}</tr>')
    return section(
        heading,
        '<p class="why">Percent of the test images. Only runs that were evaluated on the same images, by the '
        "same settings, can be compared.</p>",
        f'<div class="scroll"><table class="runs"><thead><tr><th scope=col>run</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>",
        anchor="results",
    )


def _cell(score: Score) -> str:
    value, spread = score.of(None)
    if value is None:
        return "<td>&ndash;</td>"
    return f"<td>{value:.2f}{'' if spread is None else f'&nbsp;&plusmn;&nbsp;{spread:.2f}'}</td>"


def _label_free(evaluation: dict[str, Any]) -> str:
    free = evaluation.get("label_free")
    if not isinstance(free, dict):
        return ""
    before = (evaluation.get("untrained") or {}).get("label_free") or {}

    def both(key: str, unit: str = "") -> str:
        now = f"{charts.number(free[key])}{unit}"
        return now + (f" (untrained {charts.number(before[key])}{unit})" if key in before else "")

    parts = []
    if "effective_rank" in free:
        parts.append(f"effective rank of the features {both('effective_rank')} of {rank_bound(free)}")
    if "instance_retrieval_top1" in free:
        parts.append(
            f"one view of an image finds the other in {both('instance_retrieval_top1', ' %')} of the cases"
        )
    return f'<p class="why" style="margin-top:12px">Without labels: {"; ".join(parts)}.</p>' if parts else ""


def _protocol(evaluation: dict[str, Any]) -> str:
    """Folded away: which images, where the settings leave the published ones, how baselines were treated."""
    data = evaluation.get("data", {})
    split = str(data.get("partition") or "")
    for part in filter(None, (data.get("train"), data.get("test"))):
        split = split.replace(str(part), end_of(str(part)))
    notes = evaluation.get("protocol", {}).get("deviations") or []
    # Rates are those of the linear probe; older evaluations speak of them in any case.
    baselines = (evaluation.get("protocol", {}).get("baselines") or {}) if evaluation.get("linear") else {}
    told = (
        ("The images", [split]),
        ("Where this differs from what was published", notes),
        ("Baselines of the linear probe", [baselines.get("note")]),
    )
    parts = [f"<h3>{title}</h3>{_items(lines)}" for title, lines in told if any(lines)]
    return f"<details><summary>Protocol</summary>{''.join(parts)}</details>" if parts else ""


def _items(lines: Sequence[str | None]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines if line)
    return f"<ul class=notes>{items}</ul>"
