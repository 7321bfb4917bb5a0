"""Do two backends find the same boxes? The comparison behind the check of a conversion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Agreement:
    """What a comparison found.

    Attributes:
        boxes: Boxes of the reference that count.
        unmatched: Boxes of either side without a partner within the tolerances.
        score_difference: Largest difference of score between a box and the nearest of its class.
        box_difference: Likewise of a coordinate, in pixels.
    """

    boxes: int = 0
    unmatched: int = 0
    score_difference: float = 0.0
    box_difference: float = 0.0

    @property
    def agrees(self) -> bool:
        """Tell whether every box has its partner, and there was something to compare."""
        return self.boxes > 0 and self.unmatched == 0

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            self.boxes + other.boxes,
            self.unmatched + other.unmatched,
            max(self.score_difference, other.score_difference),
            max(self.box_difference, other.box_difference),
        )

    def __str__(self) -> str:
        return (
            f"{self.boxes} boxes, {self.unmatched} without partner, "
            f"score within {self.score_difference:.1g}, coordinates within {self.box_difference:.1g} px"
        )


def compare(
    reference: NDArray[np.float32],
    other: NDArray[np.float32],
    *,
    score_tolerance: float,
    box_tolerance: float,
    keep_top_k: int,
    score_floor: float = 0.0,
) -> Agreement:
    """Match the boxes of one picture from two backends, one to one in each class.

    A box so near the lowest score that could be emitted that rounding decides whether it is
    counts only if it has a partner.

    Args:
        reference: float32 [n, 6]: class, score, x1, y1, x2, y2.
        other: float32 [m, 6].
        score_tolerance: Largest difference of score.
        box_tolerance: Largest difference of a coordinate in pixels.
        keep_top_k: The most boxes that either emits.
        score_floor: The score over which boxes are emitted.
    """
    lowest = [
        min(float(boxes[:, 1].min()), 1.0) if len(boxes) >= keep_top_k else score_floor for boxes in (reference, other)
    ]
    certain = max(lowest) + score_tolerance
    total = Agreement()
    for cls_id in np.union1d(reference[:, 0], other[:, 0]):
        total += _compare_class(
            reference[reference[:, 0] == cls_id],
            other[other[:, 0] == cls_id],
            np.array([score_tolerance, box_tolerance]),
            certain,
        )
    return total


def _compare_class(
    a: NDArray[np.float32], b: NDArray[np.float32], tolerances: NDArray[np.float64], certain: float
) -> Agreement:
    score = np.abs(a[:, None, 1] - b[None, :, 1])
    box = np.abs(a[:, None, 2:] - b[None, :, 2:]).max(axis=2)
    cost = np.maximum(score / tolerances[0], box / tolerances[1])
    free_a, free_b = np.ones(len(a), bool), np.ones(len(b), bool)
    for i, j in zip(*np.unravel_index(np.argsort(cost, axis=None, kind="stable"), cost.shape)):
        if cost[i, j] > 1:
            break
        if free_a[i] and free_b[j]:
            free_a[i] = free_b[j] = False
    counts_a, counts_b = ~free_a | (a[:, 1] > certain), ~free_b | (b[:, 1] > certain)
    near_a = _at_nearest(score, box, cost, counts_a)
    near_b = _at_nearest(score.T, box.T, cost.T, counts_b)
    return Agreement(
        boxes=int(counts_a.sum()),
        unmatched=int((counts_a & free_a).sum() + (counts_b & free_b).sum()),
        score_difference=max(near_a[0], near_b[0]),
        box_difference=max(near_a[1], near_b[1]),
    )


def _at_nearest(
    score: NDArray[np.float32], box: NDArray[np.float32], cost: NDArray[np.float32], counts: NDArray[np.bool_]
) -> tuple[float, float]:
    """Return the largest differences of score and coordinate between the boxes that count and their nearest."""
    rows = np.flatnonzero(counts)
    if not len(rows) or not cost.shape[1]:
        return 0.0, 0.0
    nearest = cost[rows].argmin(axis=1)
    return float(score[rows, nearest].max()), float(box[rows, nearest].max())
