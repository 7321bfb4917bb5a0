"""Thresholds and box selection, against PaddleX's rules restated box by box in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sodbatch.errors import UsageError
from sodbatch.threshold import Detections, resolve_threshold, select

NUM_CLASSES = 4
WIDTH, HEIGHT = 64, 48
SCORES = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 1.0]) | st.floats(0, 1, width=32)
COORDINATES = st.sampled_from([-3.0, 0.0, 10.0, 48.0, 64.0, 70.0]) | st.floats(-100, 200, width=32)
BOXES = st.lists(st.tuples(st.integers(-1, NUM_CLASSES - 1).map(float), SCORES, *[COORDINATES] * 4), max_size=30)
THRESHOLDS = st.floats(0, 1) | st.integers(0, 1)


def as_paddlex(rows, threshold):
    """PaddleX's rules for one picture: [(class, score, [xmin, ymin, xmax, ymax])]."""
    if isinstance(threshold, dict):
        kept = [
            row
            for cls in sorted({row[0] for row in rows})
            for row in rows
            if row[0] == cls and row[1] > np.float32(threshold.get(int(cls), 0.5)) and row[0] > -1
        ]
    else:
        kept = [row for row in rows if row[1] > np.float32(threshold) and row[0] > -1]
    result = []
    for cls, score, x1, y1, x2, y2 in kept:
        x1, y1, x2, y2 = max(0, x1), max(0, y1), min(WIDTH, x2), min(HEIGHT, y2)
        if x2 > x1 and y2 > y1:
            result.append((int(cls), score, [x1, y1, x2, y2]))
    return result


def rows_of(detections):
    return [
        (int(c), float(s), [float(v) for v in b])
        for c, s, b in zip(detections.cls_id, detections.score, detections.boxes)
    ]


@given(BOXES, THRESHOLDS | st.dictionaries(st.integers(0, NUM_CLASSES - 1), THRESHOLDS))
def test_select_keeps_what_paddlex_keeps_in_its_order(rows, threshold):
    raw = np.array(rows, np.float32).reshape(-1, 6)
    resolved = resolve_threshold(threshold, 0.5, NUM_CLASSES)
    found = select(raw, resolved, HEIGHT, WIDTH, keep_top_k=500)
    assert rows_of(found) == as_paddlex([tuple(map(float, row)) for row in raw], threshold)


def test_threshold_is_strict_in_float32():
    at_threshold = np.float32(0.3)
    above = np.nextafter(at_threshold, np.float32(1))
    raw = np.array([[0, at_threshold, 0, 0, 9, 9], [0, above, 0, 0, 9, 9]], np.float32)
    found = select(raw, resolve_threshold(0.3, 0.5, 1), 10, 10, 500)
    assert found.score.tolist() == [float(above)]


def test_box_with_nan_is_dropped():
    raw = np.array([[0, 0.9, np.nan, 0, 9, 9], [0, 0.9, 0, 0, 9, 9]], np.float32)
    assert len(select(raw, resolve_threshold(0.5, 0.5, 1), 10, 10, 500)) == 1


def test_capped_counts_boxes_over_the_lowest_threshold():
    raw = np.array([[0, 0.9, 0, 0, 9, 9], [1, 0.4, 0, 0, 9, 9], [1, 0.3, 0, 0, 9, 9]], np.float32)

    def capped(threshold, keep_top_k):
        return select(raw, resolve_threshold(threshold, 0.5, 2), 10, 10, keep_top_k).capped

    assert capped(0.2, 3) and capped(0.2, 2)
    assert not capped(0.2, 4)
    assert not capped(0.35, 3)
    assert not capped(0.2, -1)
    # A box of class 0 at 0.25 may have been cut off, though only one box passes here.
    assert capped({0: 0.2, 1: 0.95}, 3)


def test_unknown_class_from_the_graph_is_refused():
    with pytest.raises(ValueError, match="class 7.*2 labels"):
        select(np.array([[7, 0.9, 0, 0, 9, 9]], np.float32), resolve_threshold(0.5, 0.5, 2), 10, 10, 500)


def test_threshold_forms():
    assert resolve_threshold(None, 0.3, 2).per_class == (0.3, 0.3)
    assert resolve_threshold(0, 0.3, 2).per_class == (0.0, 0.0)
    assert resolve_threshold(1, 0.3, 2).floor == 1.0
    assert resolve_threshold({1: 0.2}, 0.3, 3).per_class == (0.5, 0.2, 0.5)
    assert resolve_threshold({"1": 0}, 0.3, 2).per_class == (0.5, 0.0)
    assert resolve_threshold({0: 0.9, 1: 0.2}, 0.3, 2).floor == 0.2


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -0.1, 1.5, True, "0.5", [0.5], {2: 0.5}, {-1: 0.5}, {"car": 0.5}, {0: math.nan},
     {0: "x"}, {0: None}, {0: True}, {1.0: 0.5}, {True: 0.5}, {0: 0.5, "0": 0.6}],
)  # fmt: skip
def test_bad_thresholds_are_refused(value):
    with pytest.raises(UsageError, match="threshold"):
        resolve_threshold(value, 0.5, 2)


def test_detections_are_validated():
    good = np.zeros(2, np.int32), np.zeros(2, np.float32), np.zeros((2, 4), np.float32)
    assert len(Detections(*good)) == 2
    with pytest.raises(ValueError, match="score"):
        Detections(good[0], good[1].astype(np.float64), good[2])
    with pytest.raises(ValueError, match="boxes"):
        Detections(good[0], good[1], good[2][:1])


def test_detections_of_lists() -> None:
    two = Detections.of([3, 0], [0.5, 0.25], [[1, 2, 3, 4], [5, 6, 7, 8]])
    assert two.cls_id.tolist() == [3, 0] and two.score.tolist() == [0.5, 0.25]
    assert two.boxes.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]] and not two.capped
    assert len(Detections.of([], [], [])) == 0
