"""Here: the subcommands about runs that exist: eval, export, report.

Not here: the work, training.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from barlow.commands.arguments import Data, Out, Run, Target


def evaluate(
    target: Target,
    data: Data,
    *,
    held_out: Path | None = None,
    out: Path | None = None,
    baselines: bool = True,
) -> None:
    """Measures a backbone by kNN and a linear probe on held-out images, in percent.

    Args:
        target: Run folder, or exported weights (safetensors).
        data: Images with labels to train the probes on; without any label, only what needs none is measured.
        held_out: Images to test on; by default those that were packed as held-out, else a fifth of DATA.
        out: File for the result; by default RUN/eval.json.
        baselines: Also measure the untrained network and the raw pixels.
    """
    from barlow.evaluate import evaluate

    evaluate(target, data, held_out=held_out, out=out, baselines=baselines)


def export(
    target: Target, out: Out, *, format: Literal["torchvision", "safetensors"] = "torchvision"
) -> None:
    """Writes the backbone's weights for other libraries, with a model card, and checks that they work.

    Args:
        target: Run folder: its newest checkpoint that is whole.
        out: Folder, or a file that ends in .safetensors; the card, a .md file, goes beside it.
        format: Both are safetensors files with torchvision's names. torchvision: loads strictly into
            torchvision.models.resnet*, so the width must be 64; safetensors: any backbone, for barlow.model.
    """
    from barlow.export import export

    export(target, out, format)


def report(run: Run, *, out: Path | None = None) -> None:
    """Draws a run as one HTML file: curves, views, cross-correlation, nearest neighbours.

    Args:
        run: Run folder.
        out: File to write; by default RUN/report.html.
    """
    from barlow.report import write

    print(write(run, out, progress=lambda title: print(f"drawing: {title}", file=sys.stderr, flush=True)))
