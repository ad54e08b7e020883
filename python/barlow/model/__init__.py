"""Here: the network: backbone, projector, predictor, their batch normalisation, the twins, weights as
safetensors files.

Not here: losses, optimizers, data.
"""

from barlow.model.backbone import Backbone, ResNet, build_backbone
from barlow.model.batchnorm import ViewBatchNorm, ViewBatchNorm1d, ViewBatchNorm2d
from barlow.model.predictor import build_predictor
from barlow.model.twins import Twins, build_model
from barlow.model.weights import load_backbone

__all__ = [
    "Backbone",
    "ResNet",
    "Twins",
    "ViewBatchNorm",
    "ViewBatchNorm1d",
    "ViewBatchNorm2d",
    "build_backbone",
    "build_model",
    "build_predictor",
    "load_backbone",
]
