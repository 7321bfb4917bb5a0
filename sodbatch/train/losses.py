"""What training minimises: varifocal loss, GIoU and distribution focal loss, weighted as in PP-YOLOE+.

Papers: varifocal loss 2008.13367, GIoU 1902.09630, DFL 2006.04388; weights and details as in PaddleDetection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from sodbatch.model.head import STRIDES, anchor_grid
from sodbatch.train.assign import Anchors, Assigned, Truth, assign_aligned, assign_atss

CLASS_WEIGHT, IOU_WEIGHT, DFL_WEIGHT = 1.0, 2.5, 0.5
ALPHA, GAMMA = 0.75, 2.0
"""Of the varifocal loss."""

EPSILON = 1e-9
LAST_BIN_MARGIN = 0.01
"""Distances are clipped this far below the last bin, which they would otherwise pass by."""

Total = Callable[[Tensor], Tensor]
"""Sums a number over all workers."""


@dataclass(frozen=True)
class Losses:
    """Scalars of one batch; ``total`` is what is minimised, the parts are not weighted."""

    total: Tensor
    classes: Tensor
    iou: Tensor
    dfl: Tensor


def anchors_for(height: int, width: int) -> Anchors:
    """Return the anchor points of an input size in pixels, multiples of 32."""
    points, strides = anchor_grid(height, width)
    per_level = tuple((height // stride) * (width // stride) for stride in STRIDES)
    return Anchors(paddle.to_tensor(points * strides), paddle.to_tensor(strides), per_level)


def flatten(levels: list[tuple[Tensor, Tensor]], bins: int) -> tuple[Tensor, Tensor]:
    """Bring the head's logits into rows of anchor points.

    Args:
        levels: Class logits [B, C, h, w] and bin logits [B, 4 * bins, h, w] of each level.
        bins: Bins of one edge.

    Returns:
        Class logits [B, L, C] and bin logits [B, L, 4, bins].
    """
    classes = paddle.concat([level.flatten(2).transpose([0, 2, 1]) for level, _ in levels], axis=1)
    distances = paddle.concat([level.flatten(2).transpose([0, 2, 1]) for _, level in levels], axis=1)
    return classes, distances.reshape([distances.shape[0], distances.shape[1], 4, bins])


def expected_distances(bin_logits: Tensor, low: int) -> Tensor:
    """Mean distances [..., 4] in strides of distributions [..., 4, bins] over ``low``, ``low`` + 1, ..."""
    bins = bin_logits.shape[-1]
    values = paddle.arange(low, low + bins, dtype="float32")
    return (F.softmax(bin_logits, axis=-1) * values).sum(-1)


def varifocal_loss(logits: Tensor, wanted: Tensor, is_class: Tensor) -> Tensor:
    """Sum over all points and classes.

    Args:
        logits: float32 [..., C].
        wanted: Scores wanted, float32 [..., C], 0 to 1.
        is_class: 1 where a point is assigned to the class, else 0.
    """
    scores = F.sigmoid(logits)
    weight = ALPHA * scores**GAMMA * (1 - is_class) + wanted * is_class
    return (F.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * weight).sum()


def giou_loss(boxes: Tensor, wanted: Tensor) -> Tensor:
    """1 - GIoU of pairs of boxes [m, 4], as [m]."""
    overlap = (
        (paddle.minimum(boxes[:, 2:], wanted[:, 2:]) - paddle.maximum(boxes[:, :2], wanted[:, :2])).clip(0).prod(-1)
    )
    hull = (paddle.maximum(boxes[:, 2:], wanted[:, 2:]) - paddle.minimum(boxes[:, :2], wanted[:, :2])).prod(-1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(-1) + (wanted[:, 2:] - wanted[:, :2]).prod(-1) - overlap + EPSILON
    hull = hull + EPSILON
    return 1 - (overlap / union - (hull - union) / hull)


def dfl_loss(bin_logits: Tensor, distances: Tensor, low: int) -> Tensor:
    """Cross entropy of the two bins beside each distance, weighted by nearness, mean over the four edges.

    Args:
        bin_logits: float32 [m, 4, bins].
        distances: Wanted, in strides, float32 [m, 4].
        low: Value of the first bin; distances are clipped to the bins.

    Returns:
        float32 [m].
    """
    bins = bin_logits.shape[-1]
    clipped = distances.clip(low, low + bins - 1 - LAST_BIN_MARGIN) - low
    left = clipped.floor()
    share = clipped - left
    logs = F.log_softmax(bin_logits, axis=-1)
    left_index = left.astype("int64").unsqueeze(-1)
    left_log = paddle.take_along_axis(logs, left_index, axis=-1).squeeze(-1)
    right_log = paddle.take_along_axis(logs, left_index + 1, axis=-1).squeeze(-1)
    return -(left_log * (1 - share) + right_log * share).mean(-1)


def detection_losses(
    levels: list[tuple[Tensor, Tensor]],
    truth: Truth,
    anchors: Anchors,
    low: int,
    *,
    static: bool,
    total: Total = lambda value: value,
    workers: int = 1,
) -> Losses:
    """Losses of a batch.

    Args:
        levels: What :meth:`SODNetwork.logits` returns for it.
        truth: Its objects.
        anchors: Of its input size.
        low: First value of the model's ``reg_range``.
        static: Assign with ATSS, else by task alignment.
        total: Sums a scalar over all workers.
        workers: Their number; the mean of their losses is that of one batch of all their pictures.
    """
    bins = levels[0][1].shape[1] // 4
    class_logits, bin_logits = (level.astype("float32") for level in flatten(levels, bins))
    num_classes = class_logits.shape[2]
    points = anchors.points / anchors.strides
    distances = expected_distances(bin_logits, low)
    boxes = paddle.concat([points - distances[..., :2], points + distances[..., 2:]], axis=-1)
    pixels = boxes.detach() * anchors.strides
    if static:
        assigned = assign_atss(anchors, truth, pixels, num_classes)
    else:
        assigned = assign_aligned(anchors, truth, pixels, F.sigmoid(class_logits.detach()))
    mass = total(assigned.scores.sum()).clip(min=1.0) / workers
    is_class = F.one_hot(assigned.labels, num_classes + 1)[..., :num_classes]
    class_loss = varifocal_loss(class_logits, assigned.scores, is_class) / mass
    iou_loss, dfl = _box_losses(boxes, bin_logits, points, anchors.strides, assigned, low)
    iou_loss, dfl = iou_loss / mass, dfl / mass
    weighted = CLASS_WEIGHT * class_loss + IOU_WEIGHT * iou_loss + DFL_WEIGHT * dfl
    return Losses(weighted, class_loss, iou_loss, dfl)


def _box_losses(
    boxes: Tensor, bin_logits: Tensor, points: Tensor, strides: Tensor, assigned: Assigned, low: int
) -> tuple[Tensor, Tensor]:
    """GIoU and distribution losses of the points with an object, each weighted by the score wanted of it."""
    num_classes = assigned.scores.shape[2]
    picture, point = (assigned.labels != num_classes).nonzero(as_tuple=True)
    if picture.shape[0] == 0:
        nothing = (bin_logits * 0.0).sum()
        return nothing, nothing
    index = paddle.stack([picture.flatten(), point.flatten()], axis=-1)
    where = point.flatten()
    own_points, own_strides = paddle.gather(points, where), paddle.gather(strides, where)
    wanted = paddle.gather_nd(assigned.boxes, index) / own_strides
    weight = paddle.gather_nd(assigned.scores.sum(-1), index)
    iou_loss = giou_loss(paddle.gather_nd(boxes, index), wanted)
    distances = paddle.concat([own_points - wanted[:, :2], wanted[:, 2:] - own_points], axis=-1)
    dfl = dfl_loss(paddle.gather_nd(bin_logits, index), distances, low)
    return (iou_loss * weight).sum(), (dfl * weight).sum()
