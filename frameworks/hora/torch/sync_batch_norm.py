"""Batch normalization over the batches of all ranks.

Every rank sends the count, mean and squared deviation of each channel, in float64; all join them in
rank order, so that all normalize by the same bits. Ranks may have batches of different sizes, or
none. The backward pass sums two numbers per channel over the ranks; the gradients of weight and
bias stay this rank's own, since the optimizer reduces them like all others.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin

from hora.process_sets import ProcessSet, global_process_set
from hora.torch.ops import Sum, allgather, allreduce_


class _Moments:
    """How many values a channel has over all ranks, their mean and their variance, in float64."""

    def __init__(self, batch: torch.Tensor, process_set: ProcessSet) -> None:
        channels = batch.shape[1]
        values = batch.detach().double().transpose(0, 1).flatten(1)
        own = torch.zeros(1, 3, channels, dtype=torch.float64)
        if values.shape[1]:
            variance, mean = torch.var_mean(values, 1, correction=0)
            own[0] = torch.stack([torch.full_like(mean, values.shape[1]), mean, variance])
        counts, means, variances = allgather(own, process_set=process_set).unbind(1)
        self.count = int(counts[:, 0].sum()) if channels else 0
        self.mean = (counts * means).sum(0) / self.count
        spread = variances + (means - self.mean) ** 2
        self.variance = (counts * spread).sum(0) / self.count


def _along_channels(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """One value for each channel, in the shape and type that combines with a batch."""
    return values.to(like.dtype).reshape(1, -1, *[1] * (like.dim() - 2))


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, batch, weight, bias, moments, eps, process_set):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(batch, weight)
        ctx.moments, ctx.eps, ctx.process_set = moments, eps, process_set
        dtype = batch.dtype if weight is None else weight.dtype
        mean, variance = moments.mean.to(dtype), moments.variance.to(dtype)
        # The kernel that a single process uses, too.
        return torch.nn.functional.batch_norm(batch, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        batch, weight = ctx.saved_tensors
        moments = ctx.moments
        scale = torch.rsqrt(moments.variance + ctx.eps)
        wide = torch.promote_types(batch.dtype, torch.float32)
        gradient = gradient.to(wide)
        centered = batch.to(wide) - _along_channels(moments.mean, gradient)
        others = [dim for dim in range(batch.dim()) if dim != 1]
        sums = torch.stack(
            [
                gradient.sum(others, dtype=torch.float64),
                (gradient * centered).sum(others, dtype=torch.float64) * scale,
            ]
        )
        by_bias, by_weight = sums.clone()
        if ctx.needs_input_grad[0]:
            allreduce_(sums, op=Sum, process_set=ctx.process_set)
            mean, slope = sums / moments.count
            result = gradient - _along_channels(mean, gradient)
            result -= centered * _along_channels(slope * scale, gradient)
            result *= _along_channels(scale if weight is None else scale * weight, gradient)
            result = result.to(batch.dtype)
        else:
            result = None
        if weight is None:
            return result, None, None, None, None, None
        return result, by_weight.to(weight.dtype), by_bias.to(weight.dtype), None, None, None


class SyncBatchNorm(_BatchNorm):
    """As `torch.nn.BatchNorm1d` to `3d`, with the batches of all ranks of `process_set` as one.

    Every rank must call it in training equally often, if need be with a batch of no samples, and
    its backward pass as well.

    Errors: ValueError, on every rank, if all batches together have one value for each channel.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_set: ProcessSet = global_process_set,
        **options: Any,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, **options)
        self.process_set = process_set

    def _check_input_dim(self, batch: torch.Tensor) -> None:
        if batch.dim() < 2:
            raise ValueError(f"expected a batch of at least 2 dimensions, got {batch.dim()}")
        if batch.shape[1] != self.num_features:
            raise ValueError(f"expected {self.num_features} channels, got {batch.shape[1]}")

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Normalizes; in training mode by all ranks' batches, and keeps the running averages."""
        self._check_input_dim(batch)
        if not self.training or self.process_set.size() == 1:
            return super().forward(batch)
        moments = _Moments(batch, self.process_set)
        if moments.count <= 1:
            raise ValueError(
                f"expected more than 1 value per channel when training, got {moments.count} from "
                f"all {self.process_set.size()} ranks together"
            )
        if self.track_running_stats:
            self._remember(moments)
        return _Normalize.apply(batch, self.weight, self.bias, moments, self.eps, self.process_set)

    @torch.no_grad()
    def _remember(self, moments: _Moments) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum
        if share is None:  # the plain average of all batches
            share = 1.0 / float(self.num_batches_tracked)
        unbiased = moments.variance * (moments.count / (moments.count - 1))
        for running, now in ((self.running_mean, moments.mean), (self.running_var, unbiased)):
            running.mul_(1 - share).add_(now.to(running.dtype), alpha=share)

    @classmethod
    def convert_sync_batchnorm(
        cls, module: torch.nn.Module, process_set: ProcessSet = global_process_set
    ) -> torch.nn.Module:
        """The module with every batch normalization in it replaced by a SyncBatchNorm.

        Parameters and buffers stay the same objects, so an optimizer may exist already. A module
        that is a batch normalization itself is not changed: use the result.
        """
        if isinstance(module, _BatchNorm) and not isinstance(module, cls):
            return cls._from(module, process_set)
        for name, child in module.named_children():
            setattr(module, name, cls.convert_sync_batchnorm(child, process_set))
        return module

    @classmethod
    def _from(cls, plain: _BatchNorm, process_set: ProcessSet) -> SyncBatchNorm:
        if isinstance(plain, LazyModuleMixin):
            raise ValueError(
                "a lazy batch normalization has no parameters yet: run one batch first"
            )
        synced = cls(
            plain.num_features,
            plain.eps,
            plain.momentum,
            False,
            plain.track_running_stats,
            process_set,
        )
        synced.affine = plain.affine
        synced._parameters.update(plain._parameters)
        synced._buffers.update(plain._buffers)
        return synced.train(plain.training)


def convert_sync_batchnorm(
    module: torch.nn.Module, process_set: ProcessSet = global_process_set
) -> torch.nn.Module:
    """`SyncBatchNorm.convert_sync_batchnorm`."""
    return SyncBatchNorm.convert_sync_batchnorm(module, process_set)
