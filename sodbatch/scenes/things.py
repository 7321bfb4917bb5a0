"""What moves in a scene: pedestrians, cars, trucks and buses, as outlines in pixels and as paint on a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

LABELS = ("pedestrian", "car", "truck", "bus")
PEDESTRIAN, CAR, TRUCK, BUS = range(4)

SIZES = {CAR: (4.5, 1.9), TRUCK: (8.5, 2.5), BUS: (12.0, 2.6)}
"""(length, width) of a vehicle in metres."""

PEDESTRIAN_SIZE = (0.75, 1.75)
"""(width, height) in metres of a pedestrian, who is seen from aslant and stands upright in the picture."""

SIZE_SPREAD = 0.12
"""Share by which sizes differ, either way."""

CAR_PAINTS = ((235, 235, 235), (200, 200, 205), (60, 60, 60), (30, 30, 35), (40, 40, 190), (150, 70, 30), (60, 120, 60))
TRUCK_PAINTS = ((220, 225, 230), (60, 110, 190), (120, 80, 50), (90, 140, 90))
BUS_PAINTS = ((50, 190, 230), (60, 60, 200), (200, 140, 60), (230, 230, 230))
CLOTHES = ((40, 40, 160), (150, 60, 40), (50, 50, 50), (200, 200, 200), (60, 140, 60), (40, 160, 200))
GLASS = (70, 55, 40)
SKIN = (130, 160, 205)

SHIFT = 4
"""Fractional bits of the coordinates that OpenCV draws with."""

BLEED = 0.7
"""Pixels by which OpenCV paints smooth edges beyond what is asked for, measured; things are drawn smaller by it."""


@dataclass(frozen=True)
class Thing:
    """One object of a scene.

    Attributes:
        label: Index into ``LABELS``.
        x: Centre in pixels.
        y: Centre in pixels.
        length: Along its heading in pixels; of a pedestrian the height.
        width: Across it in pixels.
        heading: In radians, 0 to the right, growing clockwise in the picture; not used by pedestrians.
        paint: Colour, BGR.
    """

    label: int
    x: float
    y: float
    length: float
    width: float
    heading: float
    paint: tuple[int, int, int]

    def outline(
        self, along: tuple[float, float] = (-0.5, 0.5), across: tuple[float, float] = (-0.5, 0.5)
    ) -> np.ndarray:
        """Corners float64 [4, 2] of a part of the body, given in shares of length and width from the centre."""
        if self.label == PEDESTRIAN:
            (step_x, step_y), (side_x, side_y) = (0.0, self.length), (self.width, 0.0)
        else:
            cosine, sine = math.cos(self.heading), math.sin(self.heading)
            step_x, step_y = cosine * self.length, sine * self.length
            side_x, side_y = -sine * self.width, cosine * self.width
        shares = ((along[0], across[0]), (along[1], across[0]), (along[1], across[1]), (along[0], across[1]))
        return np.array([(self.x + a * step_x + b * side_x, self.y + a * step_y + b * side_y) for a, b in shares])

    def box(self) -> tuple[float, float, float, float]:
        """Box (x1, y1, x2, y2) in pixels, not clipped to the picture."""
        corners = self.outline()
        (x1, y1), (x2, y2) = corners.min(axis=0), corners.max(axis=0)
        return float(x1), float(y1), float(x2), float(y2)


def make_thing(rng: np.random.Generator, label: int, x: float, y: float, heading: float, scale: float) -> Thing:
    """Make one at a place.

    Args:
        rng: Size and paint follow it.
        label: Index into ``LABELS``.
        x: Centre in pixels.
        y: Centre in pixels.
        heading: In radians.
        scale: Pixels a metre.
    """
    if label == PEDESTRIAN:
        width, length = PEDESTRIAN_SIZE
        paints: Sequence[tuple[int, int, int]] = CLOTHES
    else:
        length, width = SIZES[label]
        paints = {CAR: CAR_PAINTS, TRUCK: TRUCK_PAINTS, BUS: BUS_PAINTS}[label]
    along, across = scale * (1 + rng.uniform(-SIZE_SPREAD, SIZE_SPREAD, 2))
    paint = paints[int(rng.integers(len(paints)))]
    return Thing(label, x, y, length * along, width * across, heading, paint)


def fill(picture: np.ndarray, corners: np.ndarray, paint: Sequence[float]) -> None:
    """Fill a convex polygon, with smooth edges; coordinates are edges of pixels, as boxes have them."""
    points = []
    listed = corners.tolist()
    for number, (x, y) in enumerate(listed):
        moved_x, moved_y = x, y
        for other_x, other_y in (listed[number - 1], listed[(number + 1) % len(listed)]):
            length = math.hypot(other_x - x, other_y - y)
            share = min(BLEED / max(length, 1e-9), 0.5)
            moved_x += (other_x - x) * share
            moved_y += (other_y - y) * share
        points.append((round((moved_x - 0.5) * (1 << SHIFT)), round((moved_y - 0.5) * (1 << SHIFT))))
    cv2.fillConvexPoly(picture, np.array(points, np.int32), tuple(paint), cv2.LINE_AA, SHIFT)


def paint_thing(picture: np.ndarray, thing: Thing) -> None:
    """Paint a thing on a BGR picture, in place."""
    if thing.label == PEDESTRIAN:
        _paint_pedestrian(picture, thing)
        return
    fill(picture, thing.outline(), thing.paint)
    dark = tuple(int(0.75 * value) for value in thing.paint)
    light = tuple(min(255, int(1.12 * value) + 8) for value in thing.paint)
    if thing.label == CAR:
        fill(picture, thing.outline((0.12, 0.30), (-0.40, 0.40)), GLASS)
        fill(picture, thing.outline((-0.20, 0.12), (-0.38, 0.38)), light)
        fill(picture, thing.outline((-0.34, -0.22), (-0.38, 0.38)), GLASS)
    elif thing.label == TRUCK:
        fill(picture, thing.outline((-0.48, 0.24), (-0.46, 0.46)), light)
        fill(picture, thing.outline((0.24, 0.29), (-0.50, 0.50)), (35, 35, 35))
        fill(picture, thing.outline((0.42, 0.48), (-0.40, 0.40)), GLASS)
    else:
        fill(picture, thing.outline((-0.46, 0.40), (-0.40, 0.40)), light)
        for start in (-0.3, 0.1):
            fill(picture, thing.outline((start, start + 0.12), (-0.2, 0.2)), dark)
        fill(picture, thing.outline((0.43, 0.48), (-0.42, 0.42)), GLASS)


def _paint_pedestrian(picture: np.ndarray, thing: Thing) -> None:
    """Paint legs, a body and a head; together they fill the box."""
    x1, y1, x2, y2 = thing.box()
    width, height = x2 - x1, y2 - y1
    hips, shoulders = y1 + 0.6 * height, y1 + 0.22 * height
    legs = [[x1 + 0.1 * width, hips], [x2 - 0.1 * width, hips], [x2 - 0.25 * width, y2], [x1 + 0.25 * width, y2]]
    body = [[x1, shoulders], [x2, shoulders], [x2 - 0.1 * width, hips], [x1 + 0.1 * width, hips]]
    fill(picture, np.array(legs), [0.5 * value for value in thing.paint])
    fill(picture, np.array(body), thing.paint)
    one = 1 << SHIFT
    centre = (int((thing.x - 0.5) * one), int((y1 + 0.13 * height - 0.5) * one))
    axes = (int((0.3 * width - BLEED) * one), int((0.13 * height - BLEED) * one))
    cv2.ellipse(picture, centre, axes, 0, 0, 360, SKIN, -1, cv2.LINE_AA, SHIFT)
