"""Here: the subcommand `barlow replay`.

Not here: the work (train/replay.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from barlow.commands.arguments import Data, check

Box = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="BOX")]


def replay(box: Box, data: Data, *, batch: int = 0) -> None:
    """Repeats the step at which a loss or gradient was not finite.

    Names the first weight, layer output or gradient that is not finite, compares with the run (on a CPU to
    the last bit), and says whether a higher precision would help. Exit code 0 if it happens again at the same
    place. With `torchrun --nproc-per-node W -m barlow -- replay BOX DATA` as many processes as in the run.

    Args:
        box: Folder black-box/step-... of the run.
        data: The images of the run.
        batch: Optimizer step whose batch to take instead, with the weights of the box; 0 is its own. It tells
            a bad batch from bad weights.
    """
    from barlow.train.replay import replay

    check("--batch", batch, 0, 1 << 62)
    if not replay(box, data, batch=batch).reproduced and not batch:
        raise SystemExit(1)
