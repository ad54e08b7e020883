"""Here: models of timm as backbones: without classifier, with our batch norms, with nothing that draws.

Not here: torchvision's ResNets (backbone.py), weights. Nothing is ever downloaded: pretrained=False.

The parameters and their names stay timm's: a state dict loads strictly into timm's own model with
num_classes=0. Three things change, none of them a parameter. Batch norm becomes ours, per view and over all
ranks. Dropout and stochastic depth, which a few models have by default, are turned off: a run draws nothing
but what follows from its seed and step. And `num_features` is what comes out, which is not always what timm
calls so (MobileNetV3's head makes 1024 of 576).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from barlow.model.batchnorm import ViewBatchNorm, ViewBatchNorm1d, ViewBatchNorm2d


class ViewBatchNormAct2d(ViewBatchNorm2d):
    """timm's BatchNormAct2d, batch norm and activation under one name: [V * n, C, H, W] to the same."""

    def __init__(
        self, num_features: int, eps: float, momentum: float, drop: nn.Module, act: nn.Module
    ) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.drop = drop
        self.act = act

    def forward(self, input: Tensor) -> Tensor:
        """Normalised per view, then activated."""
        return self.act(self.drop(super().forward(input)))


def library() -> ModuleType:
    """timm; `ValueError` that says how to install it."""
    try:
        import timm
    except ImportError:
        raise ValueError("a backbone of timm needs timm: pip install timm") from None
    return timm


def build_timm(name: str, image_size: int = 0) -> nn.Module:
    """timm's model without classifier, drawn from torch's random state: [N, 3, H, W] to [N, num_features].

    `image_size`: side of its images in pixels for a model that is built for one size; 0: its own.
    `ValueError` for a name that timm doesn't know, a size that the model can't have, and a model that doesn't
    give a vector for each image or keeps statistics of the batch by other means than batch norm.
    """
    num_features = _num_features(name, image_size)
    model = _without_draws(_per_view(_created(name, image_size), name))
    model.num_features = num_features  # pyright: ignore[reportArgumentType]
    return model


def own_image_size(name: str) -> int:
    """The side in pixels for which timm builds the model unless told; 0 if it takes images of any size."""
    return input_size(name) if description(name).get("fixed_input_size") else 0


def description(name: str) -> Mapping[str, Any]:
    """What timm says of the model: input_size, mean, std, crop_pct, classifier (names of its layers)."""
    timm = library()
    found = None
    if known := timm.is_model(name):
        try:
            found = timm.get_pretrained_cfg(name)
        except RuntimeError:  # the model, but not with what stands after the dot
            known = False
    if not known:
        raise ValueError(f"timm {timm.__version__} has no model {name!r}; timm.list_models() has them all")
    return cast("Mapping[str, Any]", {} if found is None else found.to_dict())


def input_size(name: str) -> int:
    """The side in pixels of the images that the model was made with; of a few timm doesn't say: 224."""
    return int(description(name).get("input_size", (3, 224, 224))[-1])


def classifier(name: str) -> tuple[str, ...]:
    """Names of the model's classification layers."""
    names = description(name).get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _created(name: str, image_size: int) -> nn.Module:
    own = own_image_size(name)  # first: it is the one to say that there is no such model
    if image_size and not own:
        raise ValueError(f"--model.image-size has no part in timm:{name}, which takes images of any size")
    size = {"img_size": image_size} if image_size else {}
    try:
        return library().create_model(name, pretrained=False, num_classes=0, **size)
    except (ValueError, TypeError, AssertionError, RuntimeError, ZeroDivisionError) as error:
        pixels = f" for images of {image_size} pixels" if image_size else ""
        raise ValueError(f"timm can't build {name}{pixels}: {error!r}") from error


@functools.cache
def _num_features(name: str, image_size: int) -> int:
    """By passing two images without content through a model without memory."""
    side = image_size or input_size(name)
    with torch.device("meta"):
        model = _created(name, image_size)
        try:
            out: Any = model.eval()(torch.empty(2, 3, side, side))
        except (ValueError, TypeError, AssertionError, RuntimeError) as error:
            raise ValueError(f"timm's {name} can't take images of {side} pixels: {error!r}") from error
    if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != 2:
        raise ValueError(f"timm's {name} doesn't give one vector of features for each image")
    return out.shape[1]


def _per_view(model: nn.Module, name: str) -> nn.Module:
    """The model with its batch norms replaced by ours, which take over their parameters and buffers."""
    made: dict[nn.Module, nn.Module] = {}  # one module may stand in two places
    for parent in list(model.modules()):
        for place, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                made.setdefault(child, _converted(child, name))
                setattr(parent, place, made[child])
    for place, module in model.named_modules():
        own = dict(module.named_buffers(recurse=False))
        if {"running_mean", "running_var"} & own.keys() and not isinstance(module, ViewBatchNorm):
            kind = type(module).__name__
            raise ValueError(f"timm's {name} can't be trained on two views: {place} is a {kind}")
    return model


def _converted(norm: _BatchNorm, name: str) -> ViewBatchNorm:
    kind, momentum = type(norm).__name__, norm.momentum
    made: ViewBatchNorm | None = None
    if norm.affine and norm.track_running_stats and momentum is not None:
        if kind == "BatchNorm1d":
            made = ViewBatchNorm1d(norm.num_features, norm.eps, momentum)
        elif kind == "BatchNorm2d":
            made = ViewBatchNorm2d(norm.num_features, norm.eps, momentum)
        elif kind == "BatchNormAct2d":
            drop, act = cast("nn.Module", norm.drop), cast("nn.Module", norm.act)
            made = ViewBatchNormAct2d(norm.num_features, norm.eps, momentum, drop, act)
    if made is None:
        raise ValueError(f"timm's {name} has a batch norm that can't be kept per view: {norm}")
    made.weight, made.bias = norm.weight, norm.bias
    made.running_mean, made.running_var = norm.running_mean, norm.running_var
    made.num_batches_tracked = norm.num_batches_tracked
    return made


def _without_draws(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif type(module).__name__ == "DropPath":
            module.drop_prob = 0.0  # pyright: ignore[reportArgumentType]
    return model
