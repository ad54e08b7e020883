"""Here: the subcommands that put a trained backbone to use: export, embed.

Not here: the work; evaluation, reports.
"""

from __future__ import annotations

from typing import Literal

from barlow.commands.arguments import Data, Out, Target, check
from barlow.commands.stopping import goes_on, leaves_nothing


def export(
    target: Target,
    out: Out,
    *,
    format: Literal["torchvision", "timm", "safetensors", "onnx", "detectron2"] = "torchvision",
    licence: str = "",
    overwrite: bool = False,
) -> None:
    """Writes the backbone's weights for other libraries, with a model card, and checks that they work.

    Args:
        target: Run folder: its newest checkpoint that is whole; or exported or foreign weights.
        out: Folder, or a file with the format's ending; beside it goes the card, FILE.md.
        format: torchvision and timm load strictly into that library's network (safetensors, width 64);
            safetensors holds any backbone, for barlow.model; onnx is a graph; detectron2 its MODEL.WEIGHTS.
        licence: What the card says of it, such as CC-BY-4.0; by default that it is not stated.
        overwrite: Replace a file that no earlier export to the same format wrote.
    """
    with leaves_nothing():
        from barlow.export import export

        export(target, out, format, licence=licence, overwrite=overwrite)


def embed(
    target: Target,
    data: Data,
    out: Out,
    *,
    dtype: Literal["float32", "float16"] = "float32",
    normalise: bool = False,
    batch_size: int = 256,
    precision: Literal["fp32", "bf16", "auto"] = "fp32",
) -> None:
    """Computes the features of every image, in order, with ids, paths and labels beside them.

    What was interrupted goes on when the same command is typed again, and ends in the same bytes. Inside
    torchrun every rank does its share.

    Args:
        target: Run folder, or exported or foreign weights.
        data: Images, with or without labels.
        out: FILE.npy, an array with FILE.npy.rows.jsonl beside it; or FILE.parquet, a table. What made it is
            in OUT.json.
        dtype: Of the numbers.
        normalise: Scale each image's features to Euclidean norm 1.
        batch_size: Images of one forward pass of each process.
        precision: What the network computes in; auto is bf16 where the hardware has it.
    """
    from barlow.embed import embed

    check("--batch-size", batch_size, 1, 1 << 20)
    with goes_on():
        embed(
            target, data, out, dtype=dtype, normalised=normalise, batch_size=batch_size, precision=precision
        )
