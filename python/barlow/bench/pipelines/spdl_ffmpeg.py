"""Here: what SPDL does on the CPU: decode by FFmpeg, crop and resize in FFmpeg's filters, one view, bytes.

Not here: colour, blur and flips (SPDL has none) and a second view, which would decode again.
"""

# The package is optional.
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import spdl.io
import torch
from spdl.pipeline import PipelineBuilder

from barlow.bench.pipelines.job import Batch, Job, Pipeline, several
from barlow.bench.pipelines.windows import window
from barlow.data import Index, views


def build(job: Job) -> Pipeline:
    """Files to uint8 [N, 3, size, size], in memory [N, size, size, 3]."""
    torch.set_num_threads(1)
    index, crop = Index.open(job.index), job.views[0].crop

    def decoded(i: int) -> Any:
        height, width = index.shape(i)
        packets = spdl.io.demux_image(job.files[i])
        return spdl.io.decode_packets(packets, filter_desc=_filter(crop, width, height))

    # Its pipeline passes over what fails and only logs it; the reason (no FFmpeg, above all) shows here.
    decoded(0)

    def epoch(turn: int) -> Iterator[Batch]:
        order = [i for batch in job.batches(turn) for i in batch]
        builder = PipelineBuilder().add_source(order)
        builder = builder.pipe(decoded, concurrency=job.threads).aggregate(job.batch_size)
        builder = builder.pipe(spdl.io.convert_frames).add_sink(2)
        with (running := builder.build(num_threads=job.threads)).auto_stop():
            for buffer in running:
                yield [spdl.io.to_torch(buffer).permute(0, 3, 1, 2)]

    return Pipeline(epoch, several(job.threads, "thread"))


def _filter(crop: views.Crop, width: int, height: int) -> str:
    if isinstance(crop, views.RandomResizedCrop):
        x, y, w, h = window(width, height, crop)
        steps = [f"crop={w}:{h}:{x}:{y}", f"scale={crop.size}:{crop.size}:flags={crop.interpolation}"]
    else:
        scale = crop.resize / min(width, height)
        w, h = round(width * scale), round(height * scale)
        steps = [f"scale={w}:{h}:flags={crop.interpolation}", f"crop={crop.size}:{crop.size}"]
    return ",".join([*steps, "format=pix_fmts=rgb24"])
