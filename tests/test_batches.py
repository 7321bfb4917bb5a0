"""Order, sizes and augmentation of training: from the seed alone, whatever the number of workers; geometry by hand."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sodbatch.train.augment import FILL, Sample, Window, augment, boxes_in, cropped, expanded, paint
from sodbatch.train.batches import Order, Reader, collate
from sodbatch.train.schedule import learning_rate, scaled_rate, side_of_step


def test_two_workers_take_together_what_one_takes() -> None:
    one = Order(11, batch_size=4, workers=1, sides=(64,), expand=4.0, seed=5)
    two = Order(11, batch_size=2, workers=2, sides=(64,), expand=4.0, seed=5)
    assert one.steps_per_epoch == two.steps_per_epoch == 2
    for epoch in range(3):
        for step in range(2):
            together = np.concatenate([two.of_step(epoch, step, rank) for rank in range(2)])
            assert together.tolist() == one.of_step(epoch, step, 0).tolist()
    orders = [np.concatenate([one.of_step(epoch, step, 0) for step in range(2)]).tolist() for epoch in range(2)]
    assert orders[0] != orders[1] and all(len(set(order)) == 8 for order in orders)


def sample(row: int) -> Sample:
    """A picture with as many coloured squares as its row says; the boxes are the squares."""
    rng = np.random.default_rng(row)
    image = np.full((90, 120, 3), 30, np.uint8)
    boxes = []
    for number in range(row % 3):
        x, y = int(rng.integers(0, 100)), int(rng.integers(0, 70))
        image[y : y + 12, x : x + 15] = (250, 40 * number, 90)
        boxes.append([x, y, min(x + 15, 120), min(y + 12, 90)])
    return Sample(image, np.array(boxes, np.float32).reshape(-1, 4), np.arange(row % 3))


def batches(order: Order, rank: int, epoch: int) -> list[np.ndarray]:
    reader = Reader(sample, order, rank, threads=2)
    try:
        return [np.concatenate([batch.images.ravel(), batch.boxes.ravel()]) for batch in reader.epoch(epoch)]
    finally:
        reader.close()


def test_batches_are_the_same_again_and_others_in_another_epoch() -> None:
    order = Order(8, batch_size=2, workers=1, sides=(64, 96), expand=4.0, seed=3)
    first = batches(order, 0, 1)
    assert len(first) == 4
    assert all((a == b).all() for a, b in zip(first, batches(order, 0, 1), strict=True))
    assert not all(a.shape == b.shape and (a == b).all() for a, b in zip(first, batches(order, 0, 2), strict=True))


def test_what_cannot_be_read_ends_the_epoch() -> None:
    def broken(row: int) -> Sample:
        raise RuntimeError(f"row {row}")

    reader = Reader(broken, Order(4, 2, 1, (64,), 4.0, 0), 0, threads=1)
    with pytest.raises(RuntimeError, match="row"):
        next(reader.epoch(0))
    reader.close()


def test_samples_are_padded_to_the_fullest() -> None:
    batch = collate([sample(0), sample(2), sample(1)])
    assert batch.images.shape == (3, 3, 90, 120) and batch.boxes.shape == (3, 2, 4)
    assert batch.real[..., 0].tolist() == [[0, 0], [1, 1], [1, 0]]
    assert collate([sample(0)]).labels.shape == (1, 1)


@given(st.integers(0, 10_000))
def test_boxes_stay_inside_and_belong_to_their_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = np.full((80, 100, 3), 20, np.uint8)
    image[30:50, 40:70] = 250
    one = Sample(image, np.array([[40, 30, 70, 50]], np.float32), np.array([1]))
    result = augment(rng, one, 128, cv2.INTER_NEAREST, 4.0)
    assert result.image.shape == (128, 128, 3)
    for x1, y1, x2, y2 in result.boxes:
        assert 0 <= x1 < x2 <= 128 and 0 <= y1 < y2 <= 128
        centre = result.image[int((y1 + y2) / 2), int((x1 + x2) / 2)]
        assert centre.max() > 60  # however dark it was made, it is not the ground
    assert result.labels.tolist() == [1] * len(result.boxes)


def test_a_window_shows_the_picture_where_it_lies() -> None:
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) + 100
    rng = np.random.default_rng(0)
    whole = paint(np.random.default_rng(4), image, Window(-6, -4, 12, 8), 24, cv2.INTER_NEAREST)
    assert (whole[:12] == np.round(FILL)).all() and (whole[:, :12] == np.round(FILL)).all()
    assert not (whole[12:, 12:] == np.round(FILL)).all(axis=2).any()
    assert boxes_in(Window(-6, -4, 12, 8), np.array([[0, 0, 3, 2]], np.float32)).tolist() == [[6, 4, 9, 6]]
    assert boxes_in(Window(2, 1, 2, 2), np.array([[0, 0, 9, 9]], np.float32)).tolist() == [[0, 0, 2, 2]]
    for _ in range(200):
        window = expanded(rng, 40, 60, 4.0)
        assert window.left <= 0 and window.top <= 0
        assert window.left + window.width >= 60 and window.top + window.height >= 40
        assert 1 <= window.width / 60 <= 4 and 1 <= window.height / 40 <= 4


def test_crops_keep_exactly_the_objects_whose_centre_they_hold() -> None:
    boxes = np.array([[10, 10, 20, 20], [80, 50, 96, 70], [40, 30, 44, 33]], np.float32)
    sizes = set()
    for seed in range(300):
        window, kept = cropped(np.random.default_rng(seed), Window(0, 0, 100, 80), boxes)
        assert 0 <= window.left and window.left + window.width <= 100
        assert 0 <= window.top and window.top + window.height <= 80
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        low, high = (window.left, window.top), (window.left + window.width, window.top + window.height)
        inside = np.flatnonzero(((centres > low) & (centres < high)).all(axis=1))
        assert kept.tolist() == inside.tolist() and len(kept)
        sizes.add(window.width)
    assert len(sizes) > 10 and 100 in sizes


def test_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    rates = [learning_rate(step, 0.1, 10, 100) for step in range(100)]
    assert rates[0] == 0 and rates[5] == pytest.approx(0.05) and rates[10] == pytest.approx(0.1)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    # the cosine ends at 1.2 times the training: at step 100 it is 90 of 110 on its way
    assert learning_rate(100, 0.1, 10, 100) == pytest.approx(0.05 * (1 + np.cos(np.pi * 90 / 110)))
    assert learning_rate(0, 0.1, 0, 10) == pytest.approx(0.1)
    assert scaled_rate(0.01, 16, 64) == pytest.approx(0.0025)


def test_all_sides_come_and_every_worker_takes_the_same() -> None:
    sides = [side_of_step((320, 352, 384), 0, step) for step in range(60)]
    assert set(sides) == {320, 352, 384} and sides == [side_of_step((320, 352, 384), 0, step) for step in range(60)]
