"""What training does to a picture at random, as PaddleDetection's reader for PP-YOLOE+ does; pure, given a generator.

Expansion and crop are found first, as one window onto the picture, and painted once at the size that is needed: a
canvas of four times the picture's sides is never made. So colours are distorted within the window only.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

EXPAND_PROBABILITY = 0.5
FILL = (123.675, 116.28, 103.53)
"""RGB beside an expanded picture."""

CROP_THRESHOLDS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
NO_CROP = 2.0
"""Stands among the thresholds for no crop at all."""

CROP_SCALES, CROP_ASPECTS, CROP_ATTEMPTS = (0.3, 1.0), (0.5, 2.0), 50
FLIP_PROBABILITY = 0.5
DISTORT_PROBABILITY = 0.5
"""Of each distortion of colour."""

FACTORS, HUES = (0.5, 1.5), (-18.0, 18.0)
"""Of brightness, contrast and saturation; of the hue in 256ths of the circle."""

INTERPOLATIONS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """A picture and its objects.

    Attributes:
        image: uint8 RGB [H, W, 3].
        boxes: float32 [n, 4], (x1, y1, x2, y2) in pixels.
        labels: int64 [n].
    """

    image: NDArray[np.uint8]
    boxes: Floats
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """A rectangle of a picture's plane, in its pixels; it may reach beyond the picture."""

    left: int
    top: int
    width: int
    height: int


def augment(rng: np.random.Generator, sample: Sample, side: int, interpolation: int, most: float) -> Sample:
    """Distort colours, expand, crop, mirror, and bring to ``side`` x ``side`` pixels, not keeping the aspect.

    Args:
        rng: Decides.
        sample: As read.
        side: Of the result in pixels.
        interpolation: One of OpenCV's.
        most: The most that the canvas is enlarged.
    """
    height, width = sample.image.shape[:2]
    window = expanded(rng, height, width, most)
    window, kept = cropped(rng, window, sample.boxes)
    boxes = boxes_in(window, sample.boxes[kept])
    image = paint(rng, sample.image, window, side, interpolation)
    boxes = boxes * np.array([side / window.width, side / window.height] * 2, np.float32)
    if rng.random() < FLIP_PROBABILITY:
        image = np.ascontiguousarray(image[:, ::-1])
        boxes = np.stack([side - boxes[:, 2], boxes[:, 1], side - boxes[:, 0], boxes[:, 3]], axis=1)
    return Sample(image, boxes, sample.labels[kept])


def expanded(rng: np.random.Generator, height: int, width: int, most: float) -> Window:
    """Return the whole picture, or at random a canvas of up to ``most`` times its sides with it somewhere."""
    if rng.random() < EXPAND_PROBABILITY:
        return Window(0, 0, width, height)
    ratio = rng.uniform(1.0, most)
    wide, tall = int(width * ratio), int(height * ratio)
    left, top = int(rng.integers(0, wide - width + 1)), int(rng.integers(0, tall - height + 1))
    return Window(-left, -top, wide, tall)


def cropped(rng: np.random.Generator, window: Window, boxes: Floats) -> tuple[Window, NDArray[np.intp]]:
    """Crop a window so that an object overlaps it enough, or not at all.

    Thresholds of the best IoU of an object with the crop are tried in random order, ``CROP_ATTEMPTS`` crops each; the
    first crop that passes and holds an object's centre is taken. No crop at all is among the choices.

    Args:
        rng: Decides.
        window: What is cropped.
        boxes: float32 [n, 4], in the picture's pixels.

    Returns:
        The new window, and the indices of the boxes whose centre lies in it.
    """
    everything = np.arange(len(boxes))
    if not len(boxes):
        return window, everything
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    for threshold in rng.permutation([*CROP_THRESHOLDS, NO_CROP]).tolist():
        if threshold == NO_CROP:
            return window, everything
        crops = _crops(rng, window)
        inside = np.all((centres[None] > crops[:, None, :2]) & (centres[None] < crops[:, None, 2:]), axis=2)
        best: Floats = _iou(crops, boxes).max(axis=1)
        passed = np.asarray(np.any(inside, axis=1) & (best >= threshold))
        if passed.any():
            first = int(passed.argmax())
            left, top, right, bottom = crops[first].astype(int).tolist()
            return Window(left, top, right - left, bottom - top), np.flatnonzero(inside[first])
    return window, everything


def _crops(rng: np.random.Generator, window: Window) -> Floats:
    """Draw crops float32 [CROP_ATTEMPTS, 4], corners in the picture's pixels."""
    scale = rng.uniform(*CROP_SCALES, CROP_ATTEMPTS)
    aspect = rng.uniform(np.maximum(CROP_ASPECTS[0], scale**2), np.minimum(CROP_ASPECTS[1], scale**-2))
    height = np.maximum(1, (window.height * scale / np.sqrt(aspect)).astype(int))
    width = np.maximum(1, (window.width * scale * np.sqrt(aspect)).astype(int))
    left = window.left + rng.integers(0, np.maximum(1, window.width - width))
    top = window.top + rng.integers(0, np.maximum(1, window.height - height))
    return np.stack([left, top, left + width, top + height], axis=1).astype(np.float32)


def _iou(crops: Floats, boxes: Floats) -> Floats:
    corner1 = np.maximum(crops[:, None, :2], boxes[None, :, :2])
    corner2 = np.minimum(crops[:, None, 2:], boxes[None, :, 2:])
    overlap = np.prod(np.clip(corner2 - corner1, 0, None), axis=2)
    areas = [np.prod(each[:, 2:] - each[:, :2], axis=1) for each in (crops, boxes)]
    return overlap / (areas[0][:, None] + areas[1][None] - overlap + 1e-10)


def boxes_in(window: Window, boxes: Floats) -> Floats:
    """Bring boxes into a window's coordinates, clipped to it."""
    moved = boxes - np.array([window.left, window.top] * 2, np.float32)
    return np.clip(moved, 0, np.array([window.width, window.height] * 2, np.float32))


def paint(
    rng: np.random.Generator, image: NDArray[np.uint8], window: Window, side: int, interpolation: int
) -> NDArray[np.uint8]:
    """Paint what a window shows, ``side`` x ``side``, with distorted colours; beside the picture it shows ``FILL``."""
    height, width = image.shape[:2]
    left, top = max(0, window.left), max(0, window.top)
    right, bottom = min(width, window.left + window.width), min(height, window.top + window.height)
    x1, x2 = (round((x - window.left) * side / window.width) for x in (left, right))
    y1, y2 = (round((y - window.top) * side / window.height) for y in (top, bottom))
    canvas = np.empty((side, side, 3), np.uint8)
    if (x2 - x1, y2 - y1) != (side, side):
        canvas[:] = np.round(FILL)
    if x2 > x1 and y2 > y1:
        shown = cv2.resize(image[top:bottom, left:right], (x2 - x1, y2 - y1), interpolation=interpolation)
        canvas[y1:y2, x1:x2] = distorted(rng, np.asarray(shown, np.uint8))
    return canvas


def distorted(rng: np.random.Generator, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Change brightness, contrast, saturation and hue of an RGB picture, each at random, in random order."""
    for change in rng.permutation(4):
        if rng.random() < DISTORT_PROBABILITY:
            continue
        factor = float(rng.uniform(*FACTORS))
        if change == 0:
            image = _blend(image, factor, 0.0)
        elif change == 1:
            grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
            image = _blend(image, factor, (1 - factor) * float(grey.mean()))
        elif change == 2:
            grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
            image = np.asarray(cv2.addWeighted(image, factor, grey, 1 - factor, 0), np.uint8)
        else:
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
            turned = (np.arange(256) + round(float(rng.uniform(*HUES)))) % 256
            hsv[..., 0] = cv2.LUT(np.ascontiguousarray(hsv[..., 0]), turned.astype(np.uint8))
            image = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL), np.uint8)
    return image


def _blend(image: NDArray[np.uint8], factor: float, offset: float) -> NDArray[np.uint8]:
    table = np.clip(np.arange(256) * factor + offset, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table), np.uint8)
