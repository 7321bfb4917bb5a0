"""The workers of a training: sums over them, and networks that learn the mean of what all of them see.

On GPUs untested on hardware; the calls are those that Paddle documents.
"""

from __future__ import annotations

from typing import Any

import paddle
import paddle.distributed as dist
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.autograd import PyLayer


class Group:
    """All workers of a training, of which this process is one; a process alone is a group of one.

    Attributes:
        rank: Of this worker, from 0.
        size: Number of workers.
    """

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()

    def total(self, value: Tensor) -> Tensor:
        """Sum a tensor, that needs no gradient, over all workers."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def barrier(self) -> None:
        """Wait until all workers have come here."""
        if self.size > 1:
            self.total(paddle.zeros([1])).numpy()

    def together(self, network: nn.Layer) -> nn.Layer:
        """Return what to call instead of ``network``, so that all workers learn as one.

        Gradients become the mean over all workers, and batch statistics those of all their pictures.
        """
        if self.size == 1:
            return network
        if paddle.device.get_device().startswith("gpu"):
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        else:
            share_statistics(network, self.size)
        return paddle.DataParallel(network)


def share_statistics(network: nn.Layer, workers: int) -> None:
    """Let every batch normalisation of a network on CPUs, where Paddle has none, take the statistics of all workers."""
    for layer in network.sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            setattr(layer, "forward", _SharedStatistics(layer, workers))  # noqa: B010  # mypy knows it as a method


class _SharedStatistics:
    """Batch normalisation over the pictures of all workers, with the layer's own parameters and running statistics."""

    def __init__(self, layer: Any, workers: int) -> None:
        self._layer = layer
        self._workers = workers

    def __call__(self, x: Tensor) -> Tensor:
        layer = self._layer
        if not layer.training:
            return nn.BatchNorm2D.forward(layer, x)
        return _SharedNorm.apply(x, layer.weight, layer.bias, layer, self._workers)


class _SharedNorm(PyLayer):
    """The normalisation and its gradient, as arXiv 1502.03167 has them, with sums over all workers."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor, layer: Any, workers: int) -> Tensor:
        count = workers * x.shape[0] * x.shape[2] * x.shape[3]
        sums = paddle.stack([_by_channel(x), _by_channel(x * x)])
        dist.all_reduce(sums)
        mean = sums[0] / count
        variance = sums[1] / count - mean * mean
        for running, now in ((layer._mean, mean), (layer._variance, variance)):
            running.set_value(layer._momentum * running + (1 - layer._momentum) * now)
        factor = 1.0 / paddle.sqrt(variance + layer._epsilon)
        context.save_for_backward(x, weight, mean, factor)
        context.count = count
        return _affine(x, weight * factor, bias - weight * mean * factor)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, mean, factor = context.saved_tensor()
        of_bias = _by_channel(gradient)
        of_weight = (_by_channel(gradient * x) - mean * of_bias) * factor
        sums = paddle.stack([of_bias, of_weight])
        dist.all_reduce(sums)
        mean_bias, mean_weight = sums[0] / context.count, sums[1] / context.count
        # weight * factor * (gradient - mean_bias - (x - mean) * factor * mean_weight), in terms of gradient and of x
        scale = weight * factor
        slope = -scale * factor * mean_weight
        of_x = _affine(gradient, scale, -scale * mean_bias) + _affine(x, slope, -slope * mean)
        return of_x, of_weight, of_bias


def _by_channel(x: Tensor) -> Tensor:
    """Sums [C] of a map [B, C, H, W]."""
    return x.flatten(2).sum(-1).sum(0)


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """A map [B, C, H, W] times a factor plus a summand of each channel; Paddle's normalisation does it in one pass."""
    return F.batch_norm(x, paddle.zeros_like(scale), paddle.ones_like(scale), scale, shift, epsilon=0.0)
