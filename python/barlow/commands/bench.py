"""Here: the subcommands of `barlow bench`: loader, step, loss.

Not here: any measuring (bench/), which is imported when a subcommand runs.
"""

from __future__ import annotations

import shlex
import sys
from typing import Annotated, Literal

import tyro

from barlow.bench import Settings
from barlow.bench.step import StepSettings
from barlow.commands.arguments import Data
from barlow.terminal import bar


def loader(
    data: Data,
    *,
    settings: Annotated[Settings, tyro.conf.arg(name="")] = Settings(),  # noqa: B008
) -> None:
    """Measures data loading, beside the peers that are installed.

    Rounds of all pipelines alternate. One that is not installed is listed, one that fails is reported; exit
    code 1 if barlow or the official pipeline fails.

    Args:
        data: Shards, or a tar or folder of images.
        settings: What is measured.
    """
    from barlow.bench import run

    with bar("measuring") as progress:
        succeeded = run(data, settings, command=_command(), progress=progress)
    if not succeeded:
        raise SystemExit(1)


def step(*, settings: Annotated[StepSettings, tyro.conf.arg(name="")] = StepSettings()) -> None:  # noqa: B008
    """Measures a training step, from the official code's to ours.

    From one formulation to the next there is one change. No images are needed: `benches/gpu.py` adds real
    ones, and the largest batch that fits. Rounds of all formulations alternate. Exit code 1 if one fails or
    gives other losses than the rest.

    Args:
        settings: What is measured.
    """
    from barlow.bench.step import run

    if not run(settings, command=_command()):
        raise SystemExit(1)


def loss(
    *,
    samples: Annotated[str, tyro.conf.arg(metavar="N,N,...")] = "256",
    dims: Annotated[str, tyro.conf.arg(metavar="N,N,...")] = "1024,8192",
    rounds: int = 5,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    threads: int = 0,
) -> None:
    """Measures the loss in each of its forms, beside the official one.

    And its gradient: time, memory, operations, bytes sent.

    On several processes: `torchrun --nproc-per-node 4 -m barlow.bench.loss`.

    Args:
        samples: Samples of all processes together, as in 256,2048.
        dims: Dimensions of the embeddings, as in 1024,8192.
        rounds: Timed rounds of each form; they alternate.
        dtype: Of the embeddings.
        threads: Of torch on a CPU, for each process; 0: torch's own choice.
    """
    from barlow.bench.loss import run

    run(_numbers("--samples", samples), _numbers("--dims", dims), rounds, dtype, threads)


def _numbers(flag: str, text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(f"{flag} must be whole numbers and commas, not {text!r}") from None


def _command() -> str:
    return shlex.join(["barlow", *sys.argv[1:]])
