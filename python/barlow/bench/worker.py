"""Here: the process of one pipeline: it pins itself, builds the pipeline, and runs a round when told to.

Not here: which pipelines there are and when they run. The parent writes lines of JSON to standard input: the
job, then rounds. Each is answered by one line on standard output; at the end of the input the process ends.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from barlow.bench.pipelines import ENTRIES
from barlow.bench.pipelines.job import MEAN, STD, Batch, Job, Pipeline

_SLACK = 1e-4


def main() -> None:
    """Answers until the input ends; whatever goes wrong is an answer, too, in one line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries greet on standard output
    pipeline, job = None, None
    for line in sys.stdin:
        message = json.loads(line)
        try:
            if job is None or pipeline is None:
                job = Job(**message)
                pipeline = _build(job)
                answer: dict[str, Any] = {"workers": pipeline.workers}
            else:
                answer = timed_round(pipeline, job, message["turn"], check=message["check"])
        except Exception as error:
            answer = {"failed": " ".join(f"{type(error).__name__}: {error}".split())}
        print(json.dumps(answer), file=answers, flush=True)


def _build(job: Job) -> Pipeline:
    # Also the threads that importing has started; all later ones, and child processes, inherit it.
    for task in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(task.name), job.cpus)
    module = importlib.import_module(f"barlow.bench.pipelines.{ENTRIES[job.pipeline].module}")
    return module.build(job)


def timed_round(pipeline: Pipeline, job: Job, turn: int, *, check: bool) -> dict[str, Any]:
    """One round: images, seconds, and seconds of work by stage where the pipeline tells.

    `check` also looks at every value, for the round that does not count, and adds the mean of each channel
    (0 to 255). `ValueError` for views that are not what the job asks for.
    """
    count, total, num_values = 0, torch.zeros(3, dtype=torch.float64), 0
    makes = ENTRIES[job.pipeline].makes
    expected = {"views": job.views, "one view": job.views[:1], "pixels": []}[makes]
    start = time.perf_counter()
    for batch in pipeline.round(turn):
        count += len(batch[0]) if expected else len(batch)
        if expected:
            _check_shapes(batch, [view.size for view in expected], job.output)
        if check:
            for view in batch:
                # Bare decoding gives images [H, W, 3].
                levels = _levels(torch.as_tensor(view), job.output, channel=1 if expected else 2)
                total, num_values = total + levels.sum(1), num_values + levels.shape[1]
    seconds = time.perf_counter() - start
    if count != len(job.files):
        raise ValueError(f"made views of {count} images, not of {len(job.files)}")
    answer: dict[str, Any] = {"images": count, "seconds": seconds, "stages": pipeline.stages}
    if check:
        answer["mean_rgb"] = [round(float(value) / num_values, 2) for value in total]
    return answer


def _check_shapes(batch: Batch, sizes: list[int], output: str) -> None:
    """Cheap enough to be done in every round."""
    made = [tuple(view.shape[1:]) for view in batch]
    if made != [(3, size, size) for size in sizes]:
        raise ValueError(f"made views of shape {made}, not 3 x size x size for sizes {sizes}")
    for view in batch:
        if str(view.dtype).removeprefix("torch.") != output or len(view) != len(batch[0]):
            raise ValueError(f"made {view.dtype} [{len(view)}, ...], not {output} [{len(batch[0])}, ...]")


def _levels(view: torch.Tensor, output: str, channel: int) -> torch.Tensor:
    """float64 [3, values] on the scale of 0 to 255; `ValueError` if a value lies outside."""
    values = view.movedim(channel, 0).reshape(3, -1).double()
    if output == "float32":
        mean, std = (torch.tensor(v, dtype=torch.float64)[:, None] for v in (MEAN, STD))
        values = (values * std + mean) * 255
    low, high = float(values.min()), float(values.max())
    if not -255 * _SLACK <= low <= high <= 255 * (1 + _SLACK):
        raise ValueError(f"made values from {low:g} to {high:g}, on the scale of 0 to 255")
    return values


if __name__ == "__main__":
    main()
