"""Here: a backbone as an ONNX graph: images in, features out, any number of images at a time.

Not here: normalisation of the images, which the card describes and the graph leaves to its user.
"""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from barlow.config import ModelConfig
from barlow.export.format import Features, Format, Source

_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_MOST_BYTES = (1 << 31) - 1
"""A protocol buffer holds no more; larger models need their weights in a second file, which this is not."""
_TRACED = 2
"""Images with which the graph is made: with one, torch takes the number for a constant."""


def _refuse(model: ModelConfig) -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"--format onnx needs {', '.join(missing)}: pip install onnx onnxruntime onnxscript")


def _encode(source: Source) -> bytes:
    import onnx

    images = torch.zeros(_TRACED, 3, source.image_size, source.image_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the exporter says of its own parts is nobody's concern here
        program = torch.onnx.export(
            source.backbone,
            (images,),
            dynamo=True,
            input_names=["images"],
            output_names=["features"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    if proto.ByteSize() > _MOST_BYTES:
        raise ValueError(
            f"an ONNX file holds at most {_MOST_BYTES} bytes and this would have {proto.ByteSize()}"
        )
    onnx.checker.check_model(proto, full_check=True)
    return proto.SerializeToString()


def _load(file: Path, model: ModelConfig) -> Features:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def features(images_N3HW: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(session.run(None, {"images": images_N3HW.numpy()})[0]))

    return features


def _recipe(model: ModelConfig, file_name: str) -> str:
    return "\n".join([
        "import onnxruntime",
        "",
        f'session = onnxruntime.InferenceSession("{file_name}", providers=["CPUExecutionProvider"])',
        "",
        "",
        "def network(images):  # float32 [N, 3, S, S], normalised: an array or a tensor on the CPU",
        '    return session.run(None, {"images": images.__array__()})[0]\n',
    ])  # fmt: skip


ONNX = Format(
    suffix=".onnx",
    refuse=_refuse,
    encode=_encode,
    load=_load,
    recipe=_recipe,
    promise="It takes `images` and gives `features`, any number at a time, of the size below.",
    tolerance=1e-4,
)
