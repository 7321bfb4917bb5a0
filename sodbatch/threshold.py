"""From the graph's raw boxes to detections: thresholds per class, clipping, empty boxes dropped.

The rules are those of PaddleX 3.7.2's object detection post-processing, so that a table holds
what PaddleX users know; the differences are that an integer threshold counts (PaddleX ignores
it) and that a box with a NaN coordinate is dropped (PaddleX stretches it over the picture).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sodbatch.errors import UsageError

UNNAMED_CLASS_THRESHOLD = 0.5
"""What PaddleX takes for a class that a threshold by class does not name."""


@dataclass(frozen=True)
class Threshold:
    """A score threshold for every class.

    Attributes:
        per_class: Threshold of class 0, 1, ...; each in [0, 1].
        by_class: Given class by class, in which case PaddleX returns the boxes grouped by
            class; otherwise they stay in the graph's order.
    """

    per_class: tuple[float, ...]
    by_class: bool = False

    @property
    def floor(self) -> float:
        """The lowest threshold: no box at or under it is ever kept."""
        return min(self.per_class)


@dataclass(frozen=True, eq=False)
class Detections:
    """The boxes of one picture as aligned arrays.

    Attributes:
        cls_id: int32 [n], class ids.
        score: float32 [n], in (0, 1].
        boxes: float32 [n, 4], xmin, ymin, xmax, ymax in pixels of the original picture,
            inside it and not empty.
        capped: The graph's ``keep_top_k`` was reached by boxes over the threshold, so that
            there may have been more.

    Raises:
        ValueError: If the arrays are not aligned or of another type.
    """

    cls_id: NDArray[np.int32]
    score: NDArray[np.float32]
    boxes: NDArray[np.float32]
    capped: bool = False

    def __post_init__(self) -> None:
        n = len(self.cls_id)
        expected = {
            "cls_id": (np.int32, (n,)),
            "score": (np.float32, (n,)),
            "boxes": (np.float32, (n, 4)),
        }
        for name, (dtype, shape) in expected.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != shape:
                raise ValueError(
                    f"Detections.{name} is {array.dtype} {array.shape}; expected {np.dtype(dtype)} {shape}"
                )

    def __len__(self) -> int:
        return len(self.cls_id)

    @classmethod
    def of(cls, cls_ids: Sequence[int], scores: Sequence[float], boxes: Sequence[Sequence[float]]) -> Detections:
        """Make the detections of lists, as tables and results hold them; ``boxes`` are xmin, ymin, xmax, ymax."""
        corners = np.array(boxes, np.float32).reshape(-1, 4)
        return cls(np.array(cls_ids, np.int32), np.array(scores, np.float32), corners)


def resolve_threshold(value: Any, default: Any, num_classes: int) -> Threshold:
    """Turn what a user may give as a threshold into one number for every class.

    Args:
        value: None (the default counts), a number in [0, 1], or a mapping of class id to such
            numbers; ids may be strings of digits, as YAML and command lines give them. Classes
            that a mapping does not name take 0.5, as in PaddleX.
        default: The model folder's ``draw_threshold``.
        num_classes: Number of the model's classes.

    Raises:
        UsageError: On anything else, naming what was found.
    """
    if value is None:
        value = default
    if not isinstance(value, Mapping):
        return Threshold((_score(value, "threshold"),) * num_classes)
    per_class = [UNNAMED_CLASS_THRESHOLD] * num_classes
    named: set[int] = set()
    for key, number in value.items():
        cls_id = _class_id(key, num_classes)
        if cls_id in named:
            raise UsageError(f"threshold names class {cls_id} twice; give one value for each class")
        named.add(cls_id)
        per_class[cls_id] = _score(number, f"threshold of class {cls_id}")
    return Threshold(tuple(per_class), by_class=True)


def _score(value: Any, what: str) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise UsageError(f"{what} is {value!r}; expected a number in [0, 1] or {{class id: number}}")
    number = float(value)
    if math.isnan(number) or not 0 <= number <= 1:
        raise UsageError(f"{what} is {number}; expected a number in [0, 1]")
    return number


def _class_id(key: Any, num_classes: int) -> int:
    if isinstance(key, str) and key.strip().isdecimal():
        key = int(key)
    if isinstance(key, (bool, np.bool_)) or not isinstance(key, (int, np.integer)):
        raise UsageError(f"threshold names class {key!r}; expected a class id 0..{num_classes - 1}")
    if not 0 <= key < num_classes:
        raise UsageError(f"threshold names class {key}; the model has classes 0..{num_classes - 1}")
    return int(key)


def select(raw: NDArray[np.float32], threshold: Threshold, height: int, width: int, keep_top_k: int) -> Detections:
    """Keep the boxes over their class's threshold, clipped to the picture.

    As PaddleX does: score > threshold strictly, in float32; class > -1 (-1 marks padding);
    corners clipped to the picture; boxes that are empty after that dropped.

    Args:
        raw: float32 [n, 6]: class, score, x1, y1, x2, y2 as the graph emits them.
        threshold: Thresholds of all classes of the graph.
        height: Height of the original picture in pixels.
        width: Width of the original picture in pixels.
        keep_top_k: The most boxes the graph emits; 0 or less means no limit.

    Raises:
        ValueError: If a box names a class that the threshold does not have.
    """
    raw = np.asarray(raw, np.float32).reshape(-1, 6)
    raw = raw[raw[:, 0] > -1]
    cls_id, score = raw[:, 0].astype(np.int32), raw[:, 1]
    if len(raw) and cls_id.max() >= len(threshold.per_class):
        raise ValueError(f"the graph emits class {cls_id.max()}, the model has {len(threshold.per_class)} labels")
    # Boxes beyond keep_top_k scored lower than every emitted one, so some may be missing only
    # if every emitted one is over the lowest threshold.
    over_floor = int(np.count_nonzero(score > np.float32(threshold.floor)))
    capped = 0 < keep_top_k <= over_floor

    corners = np.stack(
        [
            np.maximum(raw[:, 2], 0),
            np.maximum(raw[:, 3], 0),
            np.minimum(raw[:, 4], np.float32(width)),
            np.minimum(raw[:, 5], np.float32(height)),
        ],
        axis=1,
    )
    not_empty = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    kept = np.flatnonzero((score > np.asarray(threshold.per_class, np.float32)[cls_id]) & not_empty)
    if threshold.by_class:
        kept = kept[np.argsort(cls_id[kept], kind="stable")]
    return Detections(cls_id[kept], score[kept], corners[kept], capped)
