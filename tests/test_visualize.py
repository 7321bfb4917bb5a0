"""Drawing: small objects stay visible, labels do not cover them, the input is not touched."""

from __future__ import annotations

import numpy as np
import pytest

from sodbatch.threshold import Detections
from sodbatch.visualize import PALETTE, draw

LABELS = ("car", "bus")


def detections(boxes, cls_id=None, score=None):
    n = len(boxes)
    return Detections(
        np.zeros(n, np.int32) if cls_id is None else np.array(cls_id, np.int32),
        np.full(n, 0.9, np.float32) if score is None else np.array(score, np.float32),
        np.array(boxes, np.float32).reshape(-1, 4),
    )


def grey(height=200, width=300):
    return np.full((height, width, 3), 90, np.uint8)


def changed(before, after):
    return (before != after).any(axis=-1)


def test_inside_of_a_ten_pixel_object_stays_untouched_and_its_frame_is_drawn():
    image = grey()
    drawn = draw(image, detections([[100, 80, 110, 90]]), LABELS)
    assert not changed(image, drawn)[80:90, 100:110].any()
    frame = np.zeros(image.shape[:2], bool)
    frame[79:91, 99:111] = True
    frame[80:90, 100:110] = False
    assert (drawn[frame] == PALETTE[0][::-1]).all()


def test_colour_follows_the_class():
    drawn = draw(grey(), detections([[50, 80, 60, 90], [200, 80, 210, 90]], cls_id=[0, 1]), LABELS)
    assert tuple(drawn[85, 49]) == PALETTE[0][::-1]
    assert tuple(drawn[85, 199]) == PALETTE[1][::-1]


def test_labels_leave_every_small_object_of_a_crowd_visible():
    boxes = [[x, y, x + 8, y + 8] for x in range(20, 280, 14) for y in range(20, 180, 14)]
    image = grey()
    touched = changed(image, draw(image, detections(boxes), LABELS))
    for x0, y0, x1, y1 in boxes:
        assert not touched[y0:y1, x0:x1].any()


def test_label_is_drawn_beside_a_lone_object_and_inside_the_picture_at_its_edges():
    image = grey()
    for box in (
        [100, 80, 110, 90],
        [0, 0, 10, 10],
        [290, 190, 300, 200],
        [0, 190, 10, 200],
        [290, 0, 300, 10],
    ):
        touched = changed(image, draw(image, detections([box]), LABELS))
        assert touched.sum() > 4 * 12 + 100, f"no label at {box}"


def test_best_box_of_each_class_is_labelled_first():
    # One free place only, above both boxes: it goes to the only bus, though all cars score higher.
    boxes = [[10, 100, 20, 110], [100, 100, 110, 110], [40, 100, 50, 110]]
    image = grey()
    all_labels = draw(image, detections(boxes, [0, 0, 1], [0.9, 0.8, 0.1]), LABELS)
    without_second_car = draw(image, detections(boxes[::2], [0, 1], [0.9, 0.1]), LABELS)
    assert (all_labels[60:100, :70] == without_second_car[60:100, :70]).all()
    assert (all_labels[90:100, 41:60] == PALETTE[1][::-1]).all(axis=-1).any()


def test_no_boxes_gives_an_equal_copy():
    image = grey()
    drawn = draw(image, detections([]), LABELS)
    assert (drawn == image).all() and drawn is not image and drawn.flags.writeable


@pytest.mark.parametrize("box", [[-5, -5, 400, 400], [0, 0, 300, 200], [299.5, 199.5, 300, 200]])
def test_boxes_on_the_border_are_drawn(box):
    image = grey()
    drawn = draw(image, detections([box]), LABELS)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8


def test_input_is_not_changed():
    image = grey()
    draw(image, detections([[100, 80, 110, 90]]), LABELS)
    assert (image == 90).all()


def test_more_classes_than_colours():
    drawn = draw(grey(), detections([[50, 80, 60, 90]], cls_id=[100]), {100: "kite"})
    assert tuple(drawn[85, 49]) == PALETTE[100 % len(PALETTE)][::-1]
