"""Decoupled head of PP-YOLOE+: class scores and box distributions per anchor point (arXiv 2203.16250, 2006.04388)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.nn.initializer import Assign, Constant, Normal

from sodbatch.model.layers import ConvBN
from sodbatch.model.spec import NetworkSpec

STRIDES = (32, 16, 8)
PRIOR_SCORE = 0.01


def anchor_grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Anchor points of all levels in the order of the head's output: strides 32, 16, 8, row by row.

    Args:
        height: Input height in pixels, a multiple of 32.
        width: Input width in pixels, a multiple of 32.

    Returns:
        Points float32 [M, 2], (x, y) of cell centres in units of the cell's stride, and strides float32 [M, 1].
    """
    points, strides = [], []
    for stride in STRIDES:
        y, x = np.meshgrid(np.arange(height // stride), np.arange(width // stride), indexing="ij")
        points.append(np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5)
        strides.append(np.full((x.size, 1), stride))
    return np.concatenate(points).astype(np.float32), np.concatenate(strides).astype(np.float32)


def decode_boxes(points: Tensor, strides: Tensor, distances: Tensor) -> Tensor:
    """Boxes [N, M, 4] (x1, y1, x2, y2) in input pixels from left, top, right, bottom distances in strides."""
    corners = [points - distances[:, :, :2], points + distances[:, :, 2:]]
    return paddle.concat(corners, axis=-1) * strides


class ESEAttention(nn.Layer):
    """Weights the map's channels by its global average, then mixes them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2D(channels, channels, 1, weight_attr=Normal(std=0.001))
        self.conv = ConvBN(channels, channels, 1)

    def forward(self, feature: Tensor, average: Tensor) -> Tensor:
        return self.conv(feature * F.sigmoid(self.fc(average)))


class PPYOLOEHead(nn.Layer):
    """Scores by sigmoid; each box edge is the mean of a softmax over the bins of ``reg_range`` (DFL)."""

    def __init__(self, spec: NetworkSpec, in_channels: Sequence[int]) -> None:
        super().__init__()
        self.num_classes = spec.num_classes
        low, high = spec.reg_range
        self.bins = high - low
        self.stem_cls = nn.LayerList([ESEAttention(channels) for channels in in_channels])
        self.stem_reg = nn.LayerList([ESEAttention(channels) for channels in in_channels])
        prior = Constant(-math.log((1 - PRIOR_SCORE) / PRIOR_SCORE))
        self.pred_cls = nn.LayerList(
            nn.Conv2D(ch, self.num_classes, 3, padding=1, weight_attr=Constant(0.0), bias_attr=prior)
            for ch in in_channels
        )
        self.pred_reg = nn.LayerList(
            nn.Conv2D(ch, 4 * self.bins, 3, padding=1, weight_attr=Constant(0.0), bias_attr=Constant(1.0))
            for ch in in_channels
        )
        values = np.arange(low, high, dtype=np.float32).reshape(1, self.bins, 1, 1)
        self.proj_conv = nn.Conv2D(self.bins, 1, 1, bias_attr=False, weight_attr=Assign(values))
        self.proj_conv.weight.stop_gradient = True
        points, strides = anchor_grid(*spec.input_size)
        self.register_buffer("anchor_points", paddle.to_tensor(points), persistable=False)
        self.register_buffer("anchor_strides", paddle.to_tensor(strides), persistable=False)

    def logits(self, maps: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Per level: class logits [N, classes, h, w] and bin logits [N, 4 * bins, h, w]."""
        levels = []
        for level, feature in enumerate(maps):
            average = F.adaptive_avg_pool2d(feature, 1)
            classes = self.pred_cls[level](self.stem_cls[level](feature, average) + feature)
            bins = self.pred_reg[level](self.stem_reg[level](feature, average))
            levels.append((classes, bins))
        return levels

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Boxes [N, M, 4] in input pixels and scores [N, classes, M] of all M anchor points."""
        scores, distances = [], []
        for classes, bins in self.logits(maps):
            cells = bins.shape[2] * bins.shape[3]
            distribution = bins.reshape([-1, 4, self.bins, cells]).transpose([0, 2, 3, 1])
            distances.append(self.proj_conv(F.softmax(distribution, axis=1)).squeeze(1))
            scores.append(F.sigmoid(classes).reshape([-1, self.num_classes, cells]))
        boxes = decode_boxes(self.anchor_points, self.anchor_strides, paddle.concat(distances, axis=1))
        return boxes, paddle.concat(scores, axis=-1)
