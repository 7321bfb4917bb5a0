"""Preprocessing: the yml's meaning, resizing, normalisation; numbers by hand and by OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sodbatch.errors import UsageError
from sodbatch.preprocess import Preprocess, parse_preprocess, resize

RESIZE = {"type": "Resize", "target_size": [24, 32], "keep_ratio": False, "interp": 2}
PERMUTE = {"type": "Permute"}
PLAIN = {"type": "NormalizeImage", "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "norm_type": "none"}


def pixels(values):
    return np.array(values, np.uint8).reshape(1, 1, 1, 3)


def test_without_a_normalize_step_the_graph_gets_the_pixels():
    preprocess = parse_preprocess([RESIZE, PERMUTE])
    assert preprocess == Preprocess(24, 32, 2, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    assert preprocess.normalize(pixels([0, 7, 255])).ravel().tolist() == [0.0, 7.0, 255.0]


def test_norm_type_none_with_mean_0_and_std_1_divides_by_255_only():
    values = parse_preprocess([RESIZE, PLAIN, PERMUTE]).normalize(pixels([0, 51, 255])).ravel()
    np.testing.assert_allclose(values, [0.0, 0.2, 1.0], atol=1e-7)


@pytest.mark.parametrize("norm_type", [{}, {"norm_type": "mean_std"}, {"norm_type": "none"}, {"norm_type": None}])
def test_mean_and_std_apply_to_the_scaled_pixel(norm_type):
    step = {"type": "NormalizeImage", "mean": [0.5, 0.4, 0.3], "std": [0.5, 0.2, 0.1], "is_scale": True, **norm_type}
    values = parse_preprocess([RESIZE, step, PERMUTE]).normalize(pixels([255, 102, 0])).ravel()
    np.testing.assert_allclose(values, [1.0, 0.0, -3.0], atol=1e-6)


def test_is_scale_false_leaves_out_the_255():
    step = {"type": "NormalizeImage", "mean": [10.0, 0.0, 0.0], "std": [2.0, 1.0, 4.0], "is_scale": False}
    values = parse_preprocess([RESIZE, step, PERMUTE]).normalize(pixels([20, 30, 40])).ravel()
    assert values.tolist() == [5.0, 30.0, 10.0]


def test_absent_mean_and_std_are_imagenets():
    values = parse_preprocess([RESIZE, {"type": "NormalizeImage"}, PERMUTE]).normalize(pixels([255, 255, 255]))
    np.testing.assert_allclose(
        values.ravel(), [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225], atol=1e-5
    )


def test_normalize_moves_channels_first_and_keeps_memory_in_order():
    images = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    planes = Preprocess(4, 5).normalize(images)
    assert planes.dtype == np.float32
    assert planes.flags.c_contiguous
    np.testing.assert_array_equal(planes, images.transpose(0, 3, 1, 2))


def test_scale_factors_are_input_over_original_height_first():
    factors = Preprocess(640, 320).scale_factors(np.array([[1280, 160], [640, 320]]))
    assert factors.dtype == np.float32
    assert factors.tolist() == [[0.5, 2.0], [1.0, 1.0]]


@pytest.mark.parametrize("interp", [0, 1, 2, 3, 4])
def test_resize_is_opencvs_and_gives_rgb(interp):
    image = np.random.default_rng(0).integers(0, 256, (37, 51, 3), dtype=np.uint8)
    out = np.zeros((24, 32, 3), np.uint8)
    resize(image, Preprocess(24, 32, interp), out)
    np.testing.assert_array_equal(out, cv2.resize(image, (32, 24), interpolation=interp)[:, :, ::-1])


def test_resize_does_not_keep_the_aspect_ratio():
    image = np.zeros((10, 40, 3), np.uint8)
    image[:, 20:] = (255, 0, 0)
    out = np.zeros((24, 32, 3), np.uint8)
    resize(image, Preprocess(24, 32, interp=0), out)
    assert (out[:, :16] == 0).all()
    assert (out[:, 16:] == (0, 0, 255)).all()


@given(height=st.integers(1, 60), width=st.integers(1, 60), value=st.integers(0, 255))
def test_a_uniform_picture_stays_uniform(height, width, value):
    out = np.zeros((24, 32, 3), np.uint8)
    resize(np.full((height, width, 3), value, np.uint8), Preprocess(24, 32), out)
    assert (out == value).all()


@pytest.mark.parametrize(
    "out", [np.zeros((32, 24, 3), np.uint8), np.zeros((24, 32, 3), np.float32), np.zeros((24, 64, 3), np.uint8)[:, ::2]]
)
def test_resize_refuses_an_unfitting_target(out):
    with pytest.raises(ValueError, match="expected contiguous uint8"):
        resize(np.zeros((8, 8, 3), np.uint8), Preprocess(24, 32), out)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (None, "list of steps"),
        ([{"target_size": [1, 1]}], "list of steps"),
        ([PERMUTE], "the steps Permute; supported"),
        ([RESIZE], "the steps Resize; supported"),
        ([PLAIN, RESIZE, PERMUTE], "in this order"),
        ([RESIZE, {"type": "Pad"}, PERMUTE], "Resize, Pad, Permute"),
        ([RESIZE | {"keep_ratio": True}, PERMUTE], "keep_ratio"),
        ([RESIZE | {"interp": 9}, PERMUTE], "interp 9"),
        ([RESIZE | {"interp": True}, PERMUTE], "interp True"),
        ([RESIZE | {"target_size": [640]}, PERMUTE], "target_size"),
        ([RESIZE | {"target_size": [640, -1]}, PERMUTE], "target_size"),
        ([RESIZE | {"size_divisor": 32}, PERMUTE], "size_divisor"),
        ([RESIZE, PLAIN | {"std": [1.0, 0.0, 1.0]}, PERMUTE], "std"),
        ([RESIZE, PLAIN | {"mean": [1.0]}, PERMUTE], "three numbers"),
        ([RESIZE, PLAIN | {"mean": "abc"}, PERMUTE], "three numbers"),
        ([RESIZE, PLAIN | {"norm_type": "min_max"}, PERMUTE], "norm_type 'min_max'"),
        ([RESIZE, {"type": "Permute", "to_bgr": True}], "to_bgr"),
    ],
)
def test_what_is_not_understood_is_refused(steps, message):
    with pytest.raises(UsageError, match=message):
        parse_preprocess(steps)
