"""Here: what has been measured of steps so far, said as it comes, kept in a file, and as a table at the end.

Not here: measuring.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from barlow.bench import machine
from barlow.bench.step import StepSettings
from barlow.durable import write_file

FORMAT = 1


class Report:
    """Collects a result; all of it is JSON. Written to `settings.json`, if that is set, after every part."""

    def __init__(self, settings: StepSettings, command: str) -> None:
        self._begin_s, self._budget_s, self._path = time.monotonic(), settings.budget_s, settings.json
        self.well = True
        """False once a formulation has failed or disagreed."""
        shown = {key: str(v) if isinstance(v, Path) else v for key, v in dataclasses.asdict(settings).items()}
        self.result: dict[str, Any] = {
            "format": FORMAT,
            "command": command,
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "settings": shown,
            "machine": machine.facts(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "versions": machine.versions(),
            "ladder": {},
            "skipped": {},
            "failed": {},
            "losses": {},
        }

    def left_s(self) -> float:
        """Seconds until nothing new is begun."""
        return self._budget_s - (time.monotonic() - self._begin_s)

    def is_late(self) -> bool:
        """Whether nothing new should be begun."""
        return self.left_s() <= 0

    def say(self, text: str) -> None:
        """A line for whoever watches, and the file."""
        print(f"[{time.monotonic() - self._begin_s:5.0f} s] {text}", flush=True)
        if self._path is not None:
            write_file(self._path, json.dumps(self.result, indent=1) + "\n")

    def skip(self, name: str, reason: str) -> None:
        """`name` was not measured."""
        self.result["skipped"][name] = reason
        self.say(f"{name}: left out, {reason}")

    def fail(self, name: str, error: Exception) -> None:
        """`name` could not be measured."""
        self.well = False
        self.result["failed"][name] = f"{type(error).__name__}: {error}".splitlines()[0]
        self.say(f"{name} failed: {self.result['failed'][name]}")

    def agreement(self, name: str, losses: list[float], same: bool) -> None:
        """The float32 losses of a formulation, and whether they are the others'."""
        self.well = self.well and same
        self.result["losses"][name] = {"losses": losses, "same": same}

    def rung(self, name: str, title: str, facts: dict[str, Any]) -> None:
        """A formulation that is ready to be timed."""
        self.result["ladder"][name] = {"title": title, **facts, "views_per_s": []}
        self.say(f"{name} is ready; its first step took {facts['first_step_s']:.1f} s")

    def round(self, name: str, views_per_s: float) -> None:
        """One timed round."""
        self.result["ladder"][name]["views_per_s"].append(views_per_s)

    def kernels(self, name: str, count: int) -> None:
        """What a step of a formulation gives the GPU to do."""
        self.result["ladder"][name]["kernels"] = count

    def part(self, name: str, value: Any) -> None:
        """Something else, such as the largest batches."""
        self.result[name] = value
        self.say(f"{name}: {json.dumps(value)}")


def table(result: dict[str, Any]) -> str:
    """The ladder as Markdown, then what else was measured."""
    settings = result["settings"]
    sizes = "-".join(map(str, settings["projector"]))
    lines = [
        f"{settings['backbone']}, {settings['image_size']} px, projector {sizes}, batch "
        f"{settings['batch_size']}, {result['gpu'] or result['machine']['cpu']}, torch "
        f"{result['versions'].get('torch')}",
        "",
        "| step | views/s, median [min-max] | gain | x official | peak GiB | kernels | operators |",
        "|---|---|---|---|---|---|---|",
    ]
    first = before = 0.0
    for rung in result["ladder"].values():
        rates = rung["views_per_s"]
        if not rates:
            continue
        middle = statistics.median(rates)
        first, before = first or middle, before or middle
        peak = f"{rung['peak_bytes'] / 2**30:.1f}" if "peak_bytes" in rung else "-"
        lines.append(
            f"| {rung['title']} | {middle:,.4g} [{min(rates):,.4g}-{max(rates):,.4g}] | "
            f"{100 * (middle / before - 1):+.0f} % | {middle / first:.2f} | {peak} | "
            f"{rung.get('kernels', '-')} | {rung.get('operators', '-')} |"
        )
        before = middle
    if result["losses"]:
        wrong = [name for name, found in result["losses"].items() if not found["same"]]
        lines += [
            "",
            f"Losses in float32 disagree: {', '.join(wrong)}." if wrong else "All give the same losses.",
        ]
    for kind in ("skipped", "failed"):
        lines += [f"{kind}: {name} ({reason})" for name, reason in result[kind].items()]
    if largest := result.get("largest_batch"):
        lines += ["", "Largest batch that fits: " + ", ".join(f"{k} {v}" for k, v in largest.items()) + "."]
    if real := result.get("end_to_end"):
        lines += ["", *end_to_end_lines(real)]
    return "\n".join(lines) + "\n"


def end_to_end_lines(real: dict[str, Any]) -> list[str]:
    """Rates with real images, and what they are of the others."""
    rates = {name: statistics.median(found) for name, found in real["views_per_s"].items() if found}
    lines = [f"From real images, {real['cores']} cores: "]
    lines[0] += ", ".join(f"{name} {rate:,.4g} views/s" for name, rate in rates.items())
    if "barlow" in rates and "synthetic" in rates:
        lines.append(
            f"barlow has {rates['barlow'] / rates['synthetic']:.1%} of its rate with synthetic data."
        )
    if "barlow" in rates and "official" in rates:
        lines.append(f"barlow has {rates['barlow'] / rates['official']:.2f} times the official rate.")
    return lines
