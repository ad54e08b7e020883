"""Here: the subcommands that put a trained backbone to use: export.

Not here: the work; evaluation and reports (runs.py).
"""

from __future__ import annotations

from typing import Literal

from barlow.commands.arguments import Out, Target


def export(
    target: Target,
    out: Out,
    *,
    format: Literal["torchvision", "timm", "safetensors", "onnx", "detectron2"] = "torchvision",
    licence: str = "",
) -> None:
    """Writes the backbone's weights for other libraries, with a model card, and checks that they work.

    Args:
        target: Run folder: its newest checkpoint that is whole; or exported or foreign weights.
        out: Folder, or a file with the format's ending; the card, a .md file, goes beside it.
        format: torchvision and timm load strictly into that library's network (safetensors, width 64);
            safetensors holds any backbone, for barlow.model; onnx is a graph; detectron2 its MODEL.WEIGHTS.
        licence: What the card says of it, such as CC-BY-4.0; by default that it is not stated.
    """
    from barlow.export import export

    export(target, out, format, licence=licence)
