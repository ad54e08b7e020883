"""Here: the modules of batch normalisation per view over the samples of all ranks, on CPUs and GPUs.

Not here: the arithmetic (normalization.py, gpu_norm.py), the loss's standardisation (the objective's).

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
from torch import Tensor, nn

from barlow.distributed import merge_moments, world_size
from barlow.model.gpu_norm import moments, normalize_on_gpu
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
        if not input.is_contiguous() and not is_channels_last(input):
            input = input.contiguous()
        if input.is_cuda and not torch.compiler.is_compiling():
            return self._on_gpu(input)
        mean_VC, variance_VC, count = statistics(input, self.num_views)
        self._account(count, mean_VC, variance_VC)
        return normalize(input, self.weight, self.bias, mean_VC, variance_VC, count, self.eps)

    def _on_gpu(self, input: Tensor) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        advances = self.advance == "always"
        running = (self.running_mean, self.running_var) if advances else None
        of = moments(input, self.num_views, self.eps, running, self.momentum)
        if advances:
            with torch.no_grad():
                self.num_batches_tracked.add_(self.num_views)
        elif self.advance == "later":
            rstd_VC, count = torch.stack(of.rstds), of.count_W.sum().to(of.means[0].dtype)
            self._account(count, torch.stack(of.means), rstd_VC.square().reciprocal() - self.eps)
        return normalize_on_gpu(input, self.weight, self.bias, of, self.eps)

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
