"""Here: the modules of batch normalisation per view over the samples of all ranks, on CPUs and GPUs.

Not here: the arithmetic (normalization.py), the loss's standardisation (that is part of the objective).

The rows of an input are laid out view after view, V blocks of n samples. One call normalises each block by
its own mean and variance, which is what the official code does by running the network once per view; here the
convolutions see one batch and the collectives of all views travel together: one forward, one backward.
torch.nn.SyncBatchNorm offers neither views nor CPUs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from barlow.distributed import merge_moments, world_size
from barlow.model.normalization import is_channels_last, normalize, statistics


class ViewBatchNorm(nn.modules.batchnorm._BatchNorm):
    """What the 1d and 2d modules share. State-dict keys and defaults are those of torch.nn.BatchNorm.

    `num_views` blocks of rows are normalised apart; `num_views_of` sets it for a whole model. Running
    statistics (unbiased variance) advance as in one call per view, in order; `one_advance_of` and
    `no_advance_of` are for a batch that comes in parts. In evaluation mode it is torch.nn.BatchNorm.
    """

    num_views = 1
    advance: Literal["always", "later", "never"] = "always"

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.parts: list[tuple[Tensor, Tensor, Tensor]] = []
        """With `advance = "later"`: count [], mean and M2 [V, C] of each call."""

    def forward(self, input: Tensor) -> Tensor:
        """[V * n, C] or [V * n, C, H, W] to the same; n may differ between ranks."""
        self._check_input_dim(input)
        if not self.training:
            return super().forward(input)
        if input.shape[0] == 0 or input.shape[0] % self.num_views:
            raise ValueError(f"{input.shape[0]} rows are not {self.num_views} views of at least one sample")
        if world_size() == 1 and input.numel() == input.shape[1] * self.num_views:
            raise ValueError("batch norm needs more than one value per channel to train")
        if world_size() == 1 and input.is_cuda and not torch.compiler.is_compiling():
            # One fused cuDNN kernel per view; on CPUs our own passes are the faster ones.
            return self._native(input)
        if not input.is_contiguous() and not is_channels_last(input):
            input = input.contiguous()
        mean_VC, variance_VC, count = statistics(input, self.num_views)
        self._account(count, mean_VC, variance_VC)
        return normalize(input, self.weight, self.bias, mean_VC, variance_VC, count, self.eps)

    def _native(self, input: Tensor) -> Tensor:
        # Running statistics with momentum 1 are those of the call: mean and unbiased variance.
        mean_VC, unbiased_VC = self.weight.new_zeros(2, self.num_views, self.num_features)
        views = [
            F.batch_norm(view, mean_C, unbiased_C, self.weight, self.bias, True, 1.0, self.eps)
            for view, mean_C, unbiased_C in zip(
                input.chunk(self.num_views), mean_VC, unbiased_VC, strict=True
            )
        ]
        count = mean_VC.new_full((), input.numel() // (self.num_views * self.num_features))
        self._account(count, mean_VC, unbiased_VC * ((count - 1) / count))
        return views[0] if len(views) == 1 else torch.cat(views)

    @torch.no_grad()
    def _account(self, count: Tensor, mean_VC: Tensor, variance_VC: Tensor) -> None:
        if self.advance == "always":
            self._advance(count, mean_VC, variance_VC)
        elif self.advance == "later":
            self.parts.append((count, mean_VC, variance_VC * count))

    @torch.no_grad()
    def advance_by_parts(self) -> None:
        """One advance per view by the statistics of all samples since `advance` became "later"."""
        if self.parts:
            count, mean_VC, m2_VC = merge_moments(*map(torch.stack, zip(*self.parts, strict=True)))
            self._advance(count, mean_VC, m2_VC / count)
        self.parts.clear()

    def _advance(self, count: Tensor, mean_VC: Tensor, variance_VC: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        unbiased_VC = variance_VC * (count / (count - 1).clamp(min=1))
        for mean_C, unbiased_C in zip(mean_VC, unbiased_VC, strict=True):
            self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased_C.to(self.running_var.dtype), self.momentum)
        self.num_batches_tracked.add_(len(mean_VC))


class ViewBatchNorm1d(ViewBatchNorm):
    """Per-view, synchronised batch norm of [V * n, C]."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() != 2:
            raise ValueError(f"expected [N, C], not {list(input.shape)}")


class ViewBatchNorm2d(ViewBatchNorm):
    """Per-view, synchronised batch norm of [V * n, C, H, W], contiguous or channels_last."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() != 4:
            raise ValueError(f"expected [N, C, H, W], not {list(input.shape)}")


def num_views_of(model: nn.Module, num_views: int) -> contextlib.AbstractContextManager[None]:
    """Inside, every ViewBatchNorm of the model expects `num_views` views; afterwards what it did before."""
    return _setting(model, "num_views", num_views)


@contextmanager
def one_advance_of(model: nn.Module) -> Iterator[None]:
    """For a batch that comes in parts: running statistics advance once per view, in order, at the end.

    They advance by the mean and variance of all parts' samples together, which is what a whole batch's would
    be where the inputs are the same. If the parts end with an exception, nothing advances.
    """
    try:
        with _setting(model, "advance", "later"):
            yield
        for norm in _norms(model):
            norm.advance_by_parts()
    finally:
        for norm in _norms(model):
            norm.parts.clear()


def no_advance_of(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Inside, running statistics stay as they are, for samples that have been counted before."""
    return _setting(model, "advance", "never")


@contextmanager
def _setting(model: nn.Module, name: str, value: Any) -> Iterator[None]:
    """An attribute of every ViewBatchNorm of the model, put back at the end."""
    norms = _norms(model)
    before = [getattr(norm, name) for norm in norms]
    try:
        for norm in norms:
            setattr(norm, name, value)
        yield
    finally:
        for norm, old in zip(norms, before, strict=True):
            setattr(norm, name, old)


def _norms(model: nn.Module) -> list[ViewBatchNorm]:
    return [module for module in model.modules() if isinstance(module, ViewBatchNorm)]
