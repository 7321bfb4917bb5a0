"""Each picture beside its boxes: what was found, missed, and seen where nothing is; the worst of them drawn."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sodbatch.evaluate.figures import IOU_OF_PICTURES, Found, GroundTruth

HIT, MISSED, FALSE = (60, 170, 60), (40, 40, 230), (230, 140, 30)
"""BGR: found, not found, not there."""


@dataclass(frozen=True, eq=False)
class Matched:
    """Which boxes of a picture go together.

    Attributes:
        truth_hit: bool [m], a detection of its class was matched to it.
        found_hit: bool [k], it was matched to a box.
        ignored: bool [k], it lies in a region that does not count.
    """

    truth_hit: NDArray[np.bool_]
    found_hit: NDArray[np.bool_]
    ignored: NDArray[np.bool_]


def match(
    truth: NDArray[np.float64],
    truth_labels: NDArray[np.int64],
    crowd: NDArray[np.bool_],
    found: NDArray[np.float64],
    found_labels: NDArray[np.int64],
) -> Matched:
    """Match detections, best first, each to the free box of its class that it overlaps most, as COCO does.

    Args:
        truth: float64 [m, 4], left, top, width, height.
        truth_labels: int64 [m].
        crowd: bool [m].
        found: float64 [k, 4], by falling score.
        found_labels: int64 [k].
    """
    hit, found_hit, ignored = np.zeros(len(truth), bool), np.zeros(len(found), bool), np.zeros(len(found), bool)
    overlap, own_area = _overlap(found, truth), found[:, 2] * found[:, 3]
    union = own_area[:, None] + (truth[:, 2] * truth[:, 3])[None] - overlap
    same = found_labels[:, None] == truth_labels[None]
    iou = np.where(same, overlap / np.maximum(union, 1e-9), 0)
    in_crowd = np.where(same & crowd[None], overlap / np.maximum(own_area, 1e-9)[:, None], 0)
    for row in range(len(found)):
        free = np.where(hit | crowd, 0, iou[row])
        best = int(free.argmax()) if len(free) else 0
        if len(free) and free[best] >= IOU_OF_PICTURES:
            hit[best] = found_hit[row] = True
        elif len(free) and in_crowd[row].max() >= IOU_OF_PICTURES:
            ignored[row] = True
    return Matched(hit, found_hit, ignored)


@dataclass(frozen=True, eq=False)
class Compared:
    """One picture: what there is beside what was found.

    Attributes:
        row: The picture, from 0.
        boxes: float64 [m, 4], left, top, width, height; without crowds.
        hit: bool [m], found.
        found: float64 [k, 4], by falling score; without those in a region that does not count.
        true: bool [k], there.
    """

    row: int
    boxes: NDArray[np.float64]
    hit: NDArray[np.bool_]
    found: NDArray[np.float64]
    true: NDArray[np.bool_]

    @property
    def errors(self) -> int:
        """Boxes that were missed, and detections of what is not there."""
        return int((~self.hit).sum() + (~self.true).sum())


def compare(truth: GroundTruth, found: Found, threshold: float) -> Iterator[Compared]:
    """Compare picture by picture; detections with scores from ``threshold`` on count."""
    kept = np.flatnonzero(found.scores >= threshold)
    kept = kept[np.lexsort((-found.scores[kept], found.rows[kept]))]
    order = np.argsort(truth.rows, kind="stable")
    bounds = np.arange(truth.pictures + 1)
    found_starts, truth_starts = np.searchsorted(found.rows[kept], bounds), np.searchsorted(truth.rows[order], bounds)
    for row in range(truth.pictures):
        there = order[truth_starts[row] : truth_starts[row + 1]]
        seen = kept[found_starts[row] : found_starts[row + 1]]
        crowd = truth.crowd[there]
        matched = match(truth.xywh[there], truth.labels[there], crowd, found.xywh[seen], found.labels[seen])
        counted = ~matched.ignored
        yield Compared(
            row,
            truth.xywh[there][~crowd],
            matched.truth_hit[~crowd],
            found.xywh[seen][counted],
            matched.found_hit[counted],
        )


def worst(compared: Iterable[Compared], count: int) -> list[Compared]:
    """Return the pictures with most errors, at most ``count``, most first; those without any are left out."""
    return heapq.nsmallest(count, (one for one in compared if one.errors), key=lambda one: (-one.errors, one.row))


def draw_compared(image: NDArray[np.uint8], one: Compared) -> bytes:
    """Draw one picture, uint8 BGR [H, W, 3], as a JPEG: boxes found green, missed red, seen where nothing is blue."""
    canvas = image.copy()
    for xywh, true in zip(one.found, one.true, strict=True):
        _rectangle(canvas, xywh, HIT if true else FALSE)
    for xywh in one.boxes[~one.hit]:
        _rectangle(canvas, xywh, MISSED)
    done, data = cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, 92])
    if not done:
        raise ValueError("the picture could not be encoded")
    return data.tobytes()


def _rectangle(canvas: NDArray[np.uint8], xywh: NDArray[np.float64], colour: tuple[int, int, int]) -> None:
    left, top, width, height = xywh
    corners = (round(left), round(top)), (round(left + width), round(top + height))
    cv2.rectangle(canvas, *corners, colour, 2 if max(canvas.shape[:2]) > 1000 else 1)


def _overlap(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Areas [k, m] that boxes [k, 4] and [m, 4] share."""
    corner1 = np.maximum(one[:, None, :2], other[None, :, :2])
    corner2 = np.minimum((one[:, :2] + one[:, 2:])[:, None], (other[:, :2] + other[:, 2:])[None])
    return np.prod(np.clip(corner2 - corner1, 0, None), axis=2)
