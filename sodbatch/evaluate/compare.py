"""Each picture beside its boxes: what was found, missed, and seen where nothing is; the worst of them drawn."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sodbatch.evaluate.figures import IOU_OF_PICTURES, MAX_DETECTIONS, Found, GroundTruth, evaluated

HIT, MISSED, FALSE = (60, 170, 60), (40, 40, 230), (230, 140, 30)
"""BGR: found, not found, not there."""


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
    diagnosed = evaluated(truth, found, MAX_DETECTIONS).image_diagnostics(IOU_OF_PICTURES, threshold)
    hits, trues = diagnosed["gt_status"], diagnosed["dt_status"]  # ids are rows plus 1; what does not count is missing
    kept = kept[np.lexsort((-found.scores[kept], found.rows[kept]))]
    order = np.argsort(truth.rows, kind="stable")
    bounds = np.arange(truth.pictures + 1)
    found_starts, truth_starts = np.searchsorted(found.rows[kept], bounds), np.searchsorted(truth.rows[order], bounds)
    for row in range(truth.pictures):
        there = [index for index in order[truth_starts[row] : truth_starts[row + 1]].tolist() if index + 1 in hits]
        seen = [index for index in kept[found_starts[row] : found_starts[row + 1]].tolist() if index + 1 in trues]
        hit = np.array([hits[index + 1] == "matched" for index in there], bool)
        true = np.array([trues[index + 1] == "tp" for index in seen], bool)
        yield Compared(row, truth.xywh[there], hit, found.xywh[seen], true)


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
