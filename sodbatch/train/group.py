"""The workers of a training: sums over them, and networks that learn the mean of what all of them see.

On GPUs untested on hardware; the calls are those that Paddle documents.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import paddle
import paddle.distributed as dist
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.autograd import PyLayer

HEARTBEAT_S = 1.0


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

    def lead(self, work: Callable[[], None]) -> None:
        """Let the worker of rank 0 do something, however long, for which all others wait.

        Between CPUs a sum to which one worker comes half a minute late is an error, so that meanwhile all sum up every
        second whether it has ended.
        """
        if self.size == 1:
            work()
        elif self.rank == 0:
            done = threading.Event()
            beats = threading.Thread(target=self._beat, args=(done,), name="heartbeat")
            beats.start()
            try:
                work()
            finally:
                done.set()
                beats.join()
        else:
            while not self.total(paddle.zeros([1])).numpy()[0]:
                pass

    def _beat(self, done: threading.Event) -> None:
        ended = False
        while not ended:
            ended = done.wait(HEARTBEAT_S)
            self.total(paddle.full([1], float(ended))).numpy()

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
        mean = _total(_by_channel(x)) / count
        deviations = _affine(x, paddle.ones_like(mean), -mean)  # a mean of squares less a squared mean would cancel
        variance = _total(_by_channel(deviations * deviations)) / count
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
        sums = _total(paddle.stack([of_bias, of_weight]))
        mean_bias, mean_weight = sums[0] / context.count, sums[1] / context.count
        # weight * factor * (gradient - mean_bias - (x - mean) * factor * mean_weight), in terms of gradient and of x
        scale = weight * factor
        slope = -scale * factor * mean_weight
        of_x = _affine(gradient, scale, -scale * mean_bias) + _affine(x, slope, -slope * mean)
        return of_x, of_weight, of_bias


def _total(value: Tensor) -> Tensor:
    dist.all_reduce(value)
    return value


def _by_channel(x: Tensor) -> Tensor:
    """Sums [C] of a map [B, C, H, W]."""
    return x.flatten(2).sum(-1).sum(0)


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """A map [B, C, H, W] times a factor plus a summand of each channel; Paddle's normalisation does it in one pass."""
    return F.batch_norm(x, paddle.zeros_like(scale), paddle.ones_like(scale), scale, shift, epsilon=0.0)
