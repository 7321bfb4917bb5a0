"""Convolution blocks that backbone, neck and head share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn
from paddle.nn.initializer import Constant
from paddle.regularizer import L2Decay

Activation = Callable[[Tensor], Tensor]


class ConvBN(nn.Layer):
    """Convolution without bias, batch normalisation, activation (swish, or none)."""

    def __init__(self, ch_in: int, ch_out: int, kernel: int, stride: int = 1, act: Activation | None = F.swish) -> None:
        super().__init__()
        self.conv = nn.Conv2D(ch_in, ch_out, kernel, stride=stride, padding=kernel // 2, bias_attr=False)
        self.bn = nn.BatchNorm2D(
            ch_out,
            weight_attr=ParamAttr(regularizer=L2Decay(0.0)),
            bias_attr=ParamAttr(regularizer=L2Decay(0.0)),
        )
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x if self.act is None else self.act(x)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Kernel [out, in, k, k] and bias [out] of the one convolution that equals this one and its statistics."""
        bn: Any = self.bn  # typed as if weight and bias could be absent
        factor = bn.weight / paddle.sqrt(bn._variance + bn._epsilon)
        return self.conv.weight * factor.reshape([-1, 1, 1, 1]), bn.bias - bn._mean * factor


class RepVggBlock(nn.Layer):
    """A 3x3 branch plus a 1x1 branch, which has a learned factor in the backbone (RepVGG, arXiv 2101.03697)."""

    def __init__(self, channels: int, use_alpha: bool) -> None:
        super().__init__()
        self.conv1 = ConvBN(channels, channels, 3, act=None)
        self.conv2 = ConvBN(channels, channels, 1, act=None)
        self.alpha = self.create_parameter([1], attr=ParamAttr(initializer=Constant(1.0))) if use_alpha else None
        self.fused: nn.Conv2D | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.fused is not None:
            return F.swish(self.fused(x))
        pointwise = self.conv2(x)
        if self.alpha is not None:
            pointwise = self.alpha * pointwise
        return F.swish(self.conv1(x) + pointwise)

    def fuse(self) -> None:
        """Replace both branches, for good, by the one 3x3 convolution that computes the same (evaluation only)."""
        kernel, bias = self.conv1.folded()
        pointwise_kernel, pointwise_bias = self.conv2.folded()
        if self.alpha is not None:
            pointwise_kernel, pointwise_bias = self.alpha * pointwise_kernel, self.alpha * pointwise_bias
        channels = kernel.shape[0]
        fused = nn.Conv2D(channels, channels, 3, padding=1)
        fused.weight.set_value(kernel + F.pad(pointwise_kernel, [1, 1, 1, 1]))
        fused.bias.set_value(bias + pointwise_bias)
        del self.conv1, self.conv2, self.alpha
        self.fused = fused


class BasicBlock(nn.Layer):
    """3x3 convolution and RepVGG block; the backbone adds the input, the neck does not."""

    def __init__(self, channels: int, shortcut: bool, use_alpha: bool) -> None:
        super().__init__()
        self.conv1 = ConvBN(channels, channels, 3)
        self.conv2 = RepVggBlock(channels, use_alpha)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        return x + y if self.shortcut else y
