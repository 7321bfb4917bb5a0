"""The workers of a training: sums over them, and networks that learn the mean of what all of them see.

On GPUs untested on hardware; the calls are those that Paddle documents.
"""

from __future__ import annotations

from typing import Any

import paddle
import paddle.distributed as dist
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


class _Sum(PyLayer):
    """The sum over all workers, through which gradients flow to all of them."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


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
        count = self._workers * x.shape[0] * x.shape[2] * x.shape[3]
        sums = _Sum.apply(paddle.stack([x.sum([0, 2, 3]), (x * x).sum([0, 2, 3])]))
        mean = sums[0] / count
        variance = sums[1] / count - mean * mean
        with paddle.no_grad():
            for running, now in ((layer._mean, mean), (layer._variance, variance)):
                running.set_value(layer._momentum * running + (1 - layer._momentum) * now)
        factor = layer.weight / paddle.sqrt(variance + layer._epsilon)
        shape = [1, -1, 1, 1]
        return x * factor.reshape(shape) + (layer.bias - mean * factor).reshape(shape)
