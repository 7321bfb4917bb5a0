"""Which anchor point learns which object: ATSS (arXiv 1912.02424) and task alignment (TOOD, arXiv 2108.07755).

Both as PaddleDetection has them for PP-YOLOE_plus_SOD. B is the number of pictures, n that of objects in the fullest
of them, L that of anchor points, C that of classes. Boxes are (x1, y1, x2, y2) in pixels of the network's input.
"""

from __future__ import annotations

from dataclasses import dataclass

import paddle
import paddle.nn.functional as F
from paddle import Tensor

EPSILON = 1e-9
ATSS_CANDIDATES = 9
ALIGNED_CANDIDATES = 13
ALIGNED_ALPHA, ALIGNED_BETA = 1.0, 6.0
CENTRE_RADIUS = 1.0
"""In strides: small objects may have no anchor point inside them, so points this near to their centre count too."""


@dataclass(frozen=True)
class Truth:
    """Objects of a batch of pictures, padded to the same number.

    Attributes:
        labels: int64 [B, n], 0 to C - 1.
        boxes: float32 [B, n, 4].
        real: float32 [B, n, 1], 1 for objects, 0 for padding.
    """

    labels: Tensor
    boxes: Tensor
    real: Tensor


@dataclass(frozen=True)
class Anchors:
    """Anchor points of all levels, strides 32, 16, 8, row by row.

    Attributes:
        points: float32 [L, 2], (x, y) in pixels.
        strides: float32 [L, 1], in pixels.
        per_level: Number of points of each level.
    """

    points: Tensor
    strides: Tensor
    per_level: tuple[int, ...]


@dataclass(frozen=True)
class Assigned:
    """What every anchor point is to learn.

    Attributes:
        labels: int64 [B, L], C where it is background.
        boxes: float32 [B, L, 4]; without meaning where it is background.
        scores: float32 [B, L, C], the score wanted of each class, 0 to 1.
    """

    labels: Tensor
    boxes: Tensor
    scores: Tensor


def pairwise_iou(one: Tensor, other: Tensor) -> Tensor:
    """IoU [B, n, m] of every box of ``one`` [B, n, 4] with every box of ``other`` [B, m, 4] or [1, m, 4]."""
    shape = [one.shape[0], one.shape[1], other.shape[1]]
    left, top, right, bottom = _across(one, shape)
    other_left, other_top, other_right, other_bottom = _along(other, shape)
    width = (paddle.minimum(right, other_right) - paddle.maximum(left, other_left)).clip(0)
    height = (paddle.minimum(bottom, other_bottom) - paddle.maximum(top, other_top)).clip(0)
    areas = (right - left).clip(0) * (bottom - top).clip(0)
    other_areas = (other_right - other_left).clip(0) * (other_bottom - other_top).clip(0)
    overlap = width * height
    return overlap / (areas + other_areas - overlap + EPSILON)


def _across(boxes: Tensor, shape: list[int]) -> list[Tensor]:
    """The coordinates of [B, n, c], each spread to ``shape`` [B, n, m].

    Paddle's arithmetic on a CPU is ten times faster on tensors of equal shape than where it has to spread them itself.
    """
    return [each.unsqueeze(2).expand(shape) for each in boxes.unbind(-1)]


def _along(boxes: Tensor, shape: list[int]) -> list[Tensor]:
    """The coordinates of [B, m, c], or [1, m, c], each spread to ``shape`` [B, n, m]."""
    return [each.unsqueeze(1).expand(shape) for each in boxes.unbind(-1)]


@paddle.no_grad()
def assign_atss(
    anchors: Anchors, truth: Truth, predicted_boxes: Tensor, num_classes: int, cell: float = 5.0
) -> Assigned:
    """Assign by distance and IoU of fixed anchor boxes; the scores wanted are the IoU of what is predicted.

    Of each level the nearest ``ATSS_CANDIDATES`` points are candidates of an object; those whose anchor box
    overlaps it more than the candidates' mean and deviation, and whose point lies inside it, are taken.

    Args:
        anchors: Of the batch's input size.
        truth: The objects.
        predicted_boxes: float32 [B, L, 4].
        num_classes: C.
        cell: Side of an anchor box in strides.
    """
    half = anchors.strides * cell / 2
    anchor_boxes = paddle.concat([anchors.points - half, anchors.points + half], axis=-1)
    ious = pairwise_iou(truth.boxes, anchor_boxes.unsqueeze(0))
    centres = (truth.boxes[..., :2] + truth.boxes[..., 2:]) / 2
    (x, y), (point_x, point_y) = _across(centres, ious.shape), _along(anchors.points.unsqueeze(0), ious.shape)
    distances = (x - point_x).square() + (y - point_y).square()
    chosen, candidate_ious, start = [], [], 0
    for count in anchors.per_level:
        k = min(ATSS_CANDIDATES, count)
        _, nearest = paddle.topk(distances[..., start : start + count], k, axis=-1, largest=False)
        chosen.append(_marked(nearest, count))
        candidate_ious.append(paddle.take_along_axis(ious[..., start : start + count], nearest, axis=-1))
        start += count
    candidates = paddle.concat(chosen, axis=-1)
    of_candidates = paddle.concat(candidate_ious, axis=-1)
    floor = of_candidates.mean(-1, keepdim=True) + of_candidates.std(-1, keepdim=True)
    over = (ious > floor.expand(ious.shape)).astype("float32")
    positive = candidates * over * _inside(anchors.points, truth.boxes) * truth.real.expand(ious.shape)
    positive = _one_object_each(positive, ious)
    predicted_ious = pairwise_iou(truth.boxes, predicted_boxes) * positive
    return _assigned(positive, predicted_ious.max(axis=-2), truth, num_classes)


@paddle.no_grad()
def assign_aligned(anchors: Anchors, truth: Truth, predicted_boxes: Tensor, predicted_scores: Tensor) -> Assigned:
    """Assign to the points that predict an object best, by score and IoU together, inside it or near its centre.

    The centre prior is that of SOD: where no point lies inside an object, those within ``CENTRE_RADIUS`` strides of
    its centre go before all others.

    Args:
        anchors: Of the batch's input size.
        truth: The objects.
        predicted_boxes: float32 [B, L, 4].
        predicted_scores: float32 [B, L, C], 0 to 1.
    """
    points = predicted_boxes.shape[1]
    num_classes = predicted_scores.shape[2]
    ious = pairwise_iou(truth.boxes, predicted_boxes)
    own_scores = paddle.take_along_axis(
        predicted_scores.transpose([0, 2, 1]), truth.labels.unsqueeze(-1).expand([-1, -1, points]), axis=1
    )
    real = truth.real.expand(ious.shape)
    alignment = own_scores**ALIGNED_ALPHA * ious**ALIGNED_BETA * real
    inside = _inside(anchors.points, truth.boxes) * real
    centres = (truth.boxes[..., :2] + truth.boxes[..., 2:]) / 2
    (x, y), (point_x, point_y) = _across(centres, ious.shape), _along(anchors.points.unsqueeze(0), ious.shape)
    [reach] = _along(anchors.strides.unsqueeze(0) * CENTRE_RADIUS, ious.shape)
    near = (paddle.maximum((x - point_x).abs(), (y - point_y).abs()) < reach - EPSILON).astype("float32") * real
    none_inside = (inside.sum(-1, keepdim=True) == 0).astype("float32").expand(ious.shape)
    _, best = paddle.topk(alignment + near * none_inside, min(ALIGNED_CANDIDATES, points), axis=-1)
    positive = _marked(best, points) * paddle.maximum(near, inside)
    positive = _one_object_each(positive, ious * positive)
    alignment = alignment * positive
    best_alignment = alignment.max(axis=-1, keepdim=True)
    best_iou = (ious * positive).max(axis=-1, keepdim=True)
    wanted = alignment * (best_iou / (best_alignment + EPSILON)).expand(ious.shape)
    return _assigned(positive, wanted.max(axis=-2), truth, num_classes)


def _marked(indices: Tensor, count: int) -> Tensor:
    """1 at the indices [B, n, k] of each row, which differ, else 0: float32 [B, n, count]."""
    nothing = paddle.zeros([*indices.shape[:2], count])
    return paddle.put_along_axis(nothing, indices, paddle.ones(indices.shape), axis=-1)


def _inside(points: Tensor, boxes: Tensor) -> Tensor:
    """1 where a point [L, 2] lies inside a box [B, n, 4], else 0: float32 [B, n, L]."""
    shape = [boxes.shape[0], boxes.shape[1], points.shape[0]]
    x, y = _along(points.unsqueeze(0), shape)
    left, top, right, bottom = _across(boxes, shape)
    horizontal, vertical = paddle.minimum(x - left, right - x), paddle.minimum(y - top, bottom - y)
    return (paddle.minimum(horizontal, vertical) > EPSILON).astype("float32")


def _one_object_each(positive: Tensor, ious: Tensor) -> Tensor:
    """Leave a point that several objects claim to the one with the highest of ``ious``, all [B, n, L]."""
    claimed = (positive.sum(axis=-2, keepdim=True) > 1).astype("float32")
    highest = paddle.put_along_axis(
        paddle.zeros_like(positive), ious.argmax(axis=-2, keepdim=True), paddle.ones_like(claimed), axis=-2
    )
    claimed = claimed.expand(positive.shape)
    return positive * (1 - claimed) + highest * claimed


def _assigned(positive: Tensor, wanted: Tensor, truth: Truth, num_classes: int) -> Assigned:
    """Turn claims [B, n, L], at most one a point, and wanted scores [B, L] into targets."""
    owner = positive.argmax(axis=-2)
    is_object = positive.sum(axis=-2) > 0
    labels = paddle.take_along_axis(truth.labels, owner, axis=1)
    labels = paddle.where(is_object, labels, paddle.full_like(labels, num_classes))
    boxes = paddle.take_along_axis(truth.boxes, owner.unsqueeze(-1).expand([-1, -1, 4]), axis=1)
    scores = F.one_hot(labels, num_classes + 1)[..., :num_classes] * wanted.unsqueeze(-1)
    return Assigned(labels, boxes, scores)
