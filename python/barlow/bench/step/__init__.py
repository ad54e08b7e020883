"""The training step measured on this machine, from the official formulation to ours, one change at a time:
`barlow bench step`, and with real images and the largest batch `benches/gpu.py`.

Everything heavy is imported when it is needed: the command line imports this package for `StepSettings`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class StepSettings:
    """What is measured, and how. The defaults are the paper's network on one GPU."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the first GPU, if there is one."""
    backbone: Literal["resnet10", "resnet18", "resnet34", "resnet50"] = "resnet50"
    """torchvision's ResNet."""
    image_size: int = 224
    """Side of a view in pixels."""
    projector: tuple[int, ...] = (8192, 8192, 8192)
    """Output sizes of the projector's layers."""
    batch_size: int = 256
    """Images of a step, each in two views."""
    rounds: int = 5
    """Timed rounds of each formulation; they alternate."""
    round_s: float = 2.0
    """Seconds that a round is to last, in whole steps."""
    only: str = ""
    """Names of formulations, as in official,lars; empty: all that can run here."""
    budget_s: float = 540.0
    """No new part is begun after so many seconds; what is done by then is the result."""
    json: Path | None = None
    """File for the result; written anew after every part, so that nothing is lost that was measured."""


def run(settings: StepSettings, *, command: str = "") -> bool:
    """Measures, prints as it goes, writes the file asked for; False if a formulation failed or disagrees."""
    from barlow.bench.step.ladder import climb
    from barlow.bench.step.report import Report, table

    report = Report(settings, command)
    climb(settings, report)
    print(table(report.result), flush=True)
    return report.well


def result_of(settings: StepSettings) -> dict[str, Any]:
    """The same as a dictionary, printing nothing but progress."""
    from barlow.bench.step.ladder import climb
    from barlow.bench.step.report import Report

    report = Report(settings, "")
    climb(settings, report)
    return report.result
