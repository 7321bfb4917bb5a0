"""Assignment of anchor points to objects, against numpy written from the papers, box by box and point by point."""

from __future__ import annotations

import numpy as np
import pytest

paddle = pytest.importorskip("paddle")

from sodbatch.train.assign import Anchors, Assigned, Truth, assign_aligned, assign_atss, pairwise_iou  # noqa: E402
from sodbatch.train.losses import anchors_for  # noqa: E402

CLASSES = 3
SIDE = 64


def iou(one: np.ndarray, other: np.ndarray) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def scene(seed: int, objects: int = 4, pictures: int = 2) -> tuple[Truth, np.ndarray, np.ndarray, Anchors]:
    """Truth with one padded place a picture, predicted boxes [B, L, 4] near it, and scores [B, L, C]."""
    rng = np.random.default_rng(seed)
    anchors = anchors_for(SIDE, SIDE)
    points = anchors.points.numpy()
    corner = rng.uniform(0, SIDE - 26, (pictures, objects + 1, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(3, 26, corner.shape)], axis=2).astype(np.float32)
    labels = rng.integers(0, CLASSES, (pictures, objects + 1))
    real = np.ones((pictures, objects + 1, 1), np.float32)
    boxes[:, -1], labels[:, -1], real[:, -1] = 0, 0, 0
    half = rng.uniform(2, 20, (pictures, len(points), 2))
    predicted = np.concatenate([points - half, points + half], axis=2).astype(np.float32)
    scores = rng.uniform(0.01, 0.99, (pictures, len(points), CLASSES)).astype(np.float32)
    truth = Truth(*(paddle.to_tensor(each) for each in (labels.astype(np.int64), boxes, real)))
    return truth, predicted, scores, anchors


def by_hand_aligned(boxes: np.ndarray, labels: np.ndarray, predicted: np.ndarray, scores: np.ndarray, anchors: Anchors):
    """TOOD's assignment with SOD's centre prior, for one picture without padding."""
    points, strides = anchors.points.numpy(), anchors.strides.numpy()[:, 0]
    count, total = len(boxes), len(points)
    overlap = np.array([[iou(box, prediction) for prediction in predicted] for box in boxes])
    metric = np.array([[scores[p, labels[b]] * overlap[b, p] ** 6 for p in range(total)] for b in range(count)])
    claims = np.zeros((count, total), bool)
    for b, (x1, y1, x2, y2) in enumerate(boxes):
        inside = [x1 < x < x2 and y1 < y < y2 for x, y in points]
        centre = (x1 + x2) / 2, (y1 + y2) / 2
        near = [
            max(abs(x - centre[0]), abs(y - centre[1])) < stride for (x, y), stride in zip(points, strides, strict=True)
        ]
        rank = metric[b] + (np.array(near) if not any(inside) else 0)
        for p in np.argsort(-rank, kind="stable")[:13]:
            claims[b, p] = inside[p] or near[p]
    for p in range(total):
        if claims[:, p].sum() > 1:
            winner = int(np.argmax(overlap[:, p] * claims[:, p]))
            claims[:, p] = False
            claims[winner, p] = True
    wanted = np.zeros((total, CLASSES))
    for b in range(count):
        own = metric[b] * claims[b]
        for p in np.flatnonzero(claims[b]):
            wanted[p, labels[b]] = own[p] / (own.max() + 1e-9) * (overlap[b] * claims[b]).max()
    return claims, wanted


def by_hand_atss(boxes: np.ndarray, predicted: np.ndarray, anchors: Anchors) -> np.ndarray:
    points, strides = anchors.points.numpy(), anchors.strides.numpy()[:, 0]
    squares = np.array(
        [[x - 2.5 * s, y - 2.5 * s, x + 2.5 * s, y + 2.5 * s] for (x, y), s in zip(points, strides, strict=True)]
    )
    overlap = np.array([[iou(box, square) for square in squares] for box in boxes])
    claims = np.zeros(overlap.shape, bool)
    for b, (x1, y1, x2, y2) in enumerate(boxes):
        distance = np.hypot(points[:, 0] - (x1 + x2) / 2, points[:, 1] - (y1 + y2) / 2)
        candidates, start = [], 0
        for level in anchors.per_level:
            candidates += [start + p for p in np.argsort(distance[start : start + level], kind="stable")[:9]]
            start += level
        floor = overlap[b, candidates].mean() + overlap[b, candidates].std(ddof=1)
        for p in candidates:
            x, y = points[p]
            claims[b, p] = overlap[b, p] > floor and x1 < x < x2 and y1 < y < y2
    for p in range(len(points)):
        if claims[:, p].sum() > 1:
            claims[:, p] = np.arange(len(boxes)) == np.argmax(overlap[:, p])
    return claims


def check(assigned: Assigned, picture: int, claims: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> None:
    owner = np.where(claims.any(axis=0), claims.argmax(axis=0), -1)
    expected = np.where(owner >= 0, labels[np.maximum(owner, 0)], CLASSES)
    assert assigned.labels[picture].numpy().tolist() == expected.tolist()
    taken = owner >= 0
    assert np.allclose(assigned.boxes[picture].numpy()[taken], boxes[owner[taken]])


@pytest.mark.parametrize("seed", range(6))
def test_aligned_assignment_is_that_of_the_paper(seed: int) -> None:
    truth, predicted, scores, anchors = scene(seed)
    assigned = assign_aligned(anchors, truth, paddle.to_tensor(predicted), paddle.to_tensor(scores))
    for picture in range(2):
        boxes, labels = truth.boxes[picture, :-1].numpy(), truth.labels[picture, :-1].numpy()
        claims, wanted = by_hand_aligned(boxes, labels, predicted[picture], scores[picture], anchors)
        positive = wanted.any(axis=1)  # a claim with an alignment of 0 stands or falls with the order of equals
        labels_found = assigned.labels[picture].numpy()
        owner = claims.argmax(axis=0)
        assert (labels_found[positive] == labels[owner[positive]]).all()
        assert np.allclose(assigned.scores[picture].numpy(), wanted, atol=1e-5)
        assert np.allclose(assigned.boxes[picture].numpy()[positive], boxes[owner[positive]])
        assert positive.sum() >= 4


@pytest.mark.parametrize("seed", range(6))
def test_atss_is_that_of_the_paper(seed: int) -> None:
    truth, predicted, _, anchors = scene(seed, objects=6)
    assigned = assign_atss(anchors, truth, paddle.to_tensor(predicted), CLASSES)
    for picture in range(2):
        boxes, labels = truth.boxes[picture, :-1].numpy(), truth.labels[picture, :-1].numpy()
        claims = by_hand_atss(boxes, predicted[picture], anchors)
        assert claims.any()
        check(assigned, picture, claims, boxes, labels)
        for p in np.flatnonzero(claims.any(axis=0)):
            b = int(claims[:, p].argmax())
            expected = np.zeros(CLASSES)
            expected[labels[b]] = iou(boxes[b], predicted[picture, p])
            assert np.allclose(assigned.scores[picture, int(p)].numpy(), expected, atol=1e-5)


def test_an_object_without_a_point_inside_is_still_learned() -> None:
    anchors = anchors_for(SIDE, SIDE)
    box = np.array([[[9.0, 9.0, 11.0, 11.0]]], np.float32)  # the points of stride 8 are at 4, 12, 20, ...
    truth = Truth(paddle.to_tensor([[1]]), paddle.to_tensor(box), paddle.ones([1, 1, 1]))
    points = anchors.points.numpy()
    predicted = np.concatenate([points - 2, points + 2], axis=1)[None].astype(np.float32)
    scores = np.full((1, len(points), CLASSES), 0.5, np.float32)
    assigned = assign_aligned(anchors, truth, paddle.to_tensor(predicted), paddle.to_tensor(scores))
    learned = np.flatnonzero(assigned.labels[0].numpy() == 1)
    assert [12.0, 12.0] in points[learned].tolist()
    assert all(np.abs(points[p] - 10).max() < anchors.strides.numpy()[p, 0] for p in learned)


def test_pictures_without_objects_are_background_alone() -> None:
    anchors = anchors_for(SIDE, SIDE)
    count = len(anchors.points)
    truth = Truth(paddle.zeros([1, 1], "int64"), paddle.zeros([1, 1, 4]), paddle.zeros([1, 1, 1]))
    boxes, scores = paddle.rand([1, count, 4]), paddle.rand([1, count, CLASSES])
    for assigned in (assign_aligned(anchors, truth, boxes, scores), assign_atss(anchors, truth, boxes, CLASSES)):
        assert (assigned.labels.numpy() == CLASSES).all()
        assert float(assigned.scores.sum()) == 0


def test_pairwise_iou_is_that_by_hand() -> None:
    rng = np.random.default_rng(1)
    boxes = rng.uniform(0, 20, (2, 5, 4)).astype(np.float32)
    boxes[..., 2:] += boxes[..., :2]
    found = pairwise_iou(paddle.to_tensor(boxes[:1]), paddle.to_tensor(boxes[1:])).numpy()[0]
    assert np.allclose(found, [[iou(a, b) for b in boxes[1]] for a in boxes[0]], atol=1e-6)
