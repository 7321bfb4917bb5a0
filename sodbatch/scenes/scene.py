"""One scene: the ground, what is built and grows on it, and the things on roads, parking places and pavements."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import cv2
import numpy as np

from sodbatch.scenes.things import BUS, CAR, LABELS, PEDESTRIAN, TRUCK, Thing, fill, make_thing, paint_thing

__all__ = ["LABELS", "Scene", "make_scene"]

SCALE = (7.0, 12.0)
"""Pixels a metre: a car is 31 to 54 pixels long, a pedestrian 12 to 21 high."""

MAX_TURN = 0.6
"""Most that the roads of a scene are turned from the picture's sides, in radians."""

ROAD_WIDTH, PAVEMENT_WIDTH, LANE_OFFSET, BLOCK = 9.0, 3.0, 2.2, (34.0, 60.0)
"""In metres; BLOCK is the distance of parallel roads."""

GROUNDS = ((78, 112, 96), (70, 120, 85), (105, 130, 140), (120, 135, 135), (60, 95, 70))
ASPHALTS = ((92, 90, 88), (110, 108, 105), (78, 76, 75))
PAVEMENT = (150, 152, 155)
ROOFS = ((70, 80, 150), (120, 120, 125), (160, 165, 170), (60, 75, 110), (95, 105, 90))
MARKING = (215, 220, 220)

VISIBLE = 0.6
"""Share of a thing that lies in the picture, below which it is not placed."""

VEHICLES, UP_TO = (CAR, TRUCK, BUS), (0.64, 0.84, 1.0)
"""What drives on the roads, and which share of it is of a kind or one before."""

HIGHEST_ROOF = 7.0
"""In metres; its shadow is as long."""


@dataclass(frozen=True)
class Scene:
    """A picture and what is on it.

    Attributes:
        picture: uint8 [height, width, 3], BGR.
        boxes: float64 [n, 4], (x1, y1, x2, y2) in pixels, inside the picture.
        labels: int64 [n], indices into ``LABELS``.
    """

    picture: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class _Road:
    """A strip through the whole picture: a point of its middle line, its unit direction, half its width in pixels."""

    point: np.ndarray
    ahead: np.ndarray
    half: float

    @property
    def aside(self) -> np.ndarray:
        return np.array([-self.ahead[1], self.ahead[0]])

    @property
    def heading(self) -> float:
        return float(np.arctan2(self.ahead[1], self.ahead[0]))

    def strip(self, left: float, right: float, reach: float) -> np.ndarray:
        """Corners [4, 2] of what lies between two distances from the middle line."""
        ends = (self.point - reach * self.ahead, self.point + reach * self.ahead)
        return np.array([ends[0] + left * self.aside, ends[1] + left * self.aside,
                         ends[1] + right * self.aside, ends[0] + right * self.aside])  # fmt: skip


def make_scene(seed: int | tuple[int, ...], height: int, width: int) -> Scene:
    """Make one scene; the same arguments give the same picture.

    Args:
        seed: Of everything in it.
        height: Of the picture in pixels, at least 64.
        width: Of the picture in pixels, at least 64.
    """
    rng = np.random.default_rng(seed)
    scale = float(rng.uniform(*SCALE))
    sun = rng.uniform(0, 2 * np.pi)
    shadow = np.array([np.cos(sun), np.sin(sun)]) * scale
    roads = _lay_roads(rng, height, width, scale)
    picture = _paint_ground(rng, height, width)
    taken = np.zeros((height, width), np.uint8)
    _paint_roads(rng, picture, roads, scale, taken)
    parking = _paint_blocks(rng, picture, roads, scale, shadow, taken)
    things = _place(rng, roads, parking, scale, height, width)
    _paint_shadows(picture, things, shadow)
    for thing in things:
        paint_thing(picture, thing)
    return _seen(rng, picture, things)


def _lay_roads(rng: np.random.Generator, height: int, width: int, scale: float) -> list[_Road]:
    """Lay two families of parallel roads, at right angles to each other."""
    turn = rng.uniform(-MAX_TURN, MAX_TURN)
    centre = np.array([width, height]) / 2 + rng.uniform(-0.3, 0.3, 2) * BLOCK[0] * scale
    reach = np.hypot(height, width) / 2
    roads = []
    for angle in (turn, turn + np.pi / 2):
        ahead = np.array([np.cos(angle), np.sin(angle)])
        aside = np.array([-ahead[1], ahead[0]])
        offset = -reach + rng.uniform(0, 0.5) * BLOCK[0] * scale
        while offset < reach:
            roads.append(_Road(centre + offset * aside, ahead, ROAD_WIDTH / 2 * scale * rng.uniform(0.85, 1.2)))
            offset += rng.uniform(*BLOCK) * scale
    return roads


def _paint_ground(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Paint ground with grain of several sizes."""
    picture = np.empty((height, width, 3), np.float32)
    picture[:] = GROUNDS[int(rng.integers(len(GROUNDS)))]
    for cell, amplitude in ((64, 14.0), (16, 7.0), (4, 5.0)):
        grain = rng.standard_normal((height // cell + 2, width // cell + 2)).astype(np.float32) * amplitude
        picture += np.asarray(cv2.resize(grain, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)[..., None]
    return np.clip(picture, 0, 255).astype(np.uint8)


def _paint_roads(
    rng: np.random.Generator, picture: np.ndarray, roads: list[_Road], scale: float, taken: np.ndarray
) -> None:
    """Paint pavements, asphalt and markings; ``taken`` is set where nothing can be built."""
    reach = float(np.hypot(*picture.shape[:2])) * 1.5
    asphalt = ASPHALTS[int(rng.integers(len(ASPHALTS)))]
    for road in roads:
        edge = road.half + PAVEMENT_WIDTH * scale
        fill(picture, road.strip(-edge, edge, reach), PAVEMENT)
        fill(taken, road.strip(-edge - scale, edge + scale, reach), (255,))
    for road in roads:
        fill(picture, road.strip(-road.half, road.half, reach), asphalt)
    line = 0.15 * scale
    for road in roads:
        for start in np.arange(-reach, reach, 6.0 * scale):
            dash = _Road(road.point + start * road.ahead, road.ahead, road.half)
            fill(picture, dash.strip(-line, line, 1.2 * scale), MARKING)


def _paint_blocks(
    rng: np.random.Generator,
    picture: np.ndarray,
    roads: list[_Road],
    scale: float,
    shadow: np.ndarray,
    taken: np.ndarray,
) -> list[Thing]:
    """Build roofs, parking places and trees where there is room; returns the cars that are parked there."""
    rows, columns = picture.shape[:2]
    parked: list[Thing] = []
    for _ in range(rows * columns // int(90 * scale**2)):
        x, y = rng.uniform(0, columns), rng.uniform(0, rows)
        along = roads[int(rng.integers(len(roads)))].heading
        kind = rng.random()
        if kind < 0.3:
            length, width = (rng.uniform(8, 16, 2) * scale).tolist()
            site = Thing(TRUCK, x, y, length, width, along, (0, 0, 0))
            if _reserve(taken, site.outline()):
                _paint_roof(rng, picture, site, shadow)
        elif kind < 0.5:
            length = int(rng.integers(3, 8)) * 2.9 * scale
            site = Thing(TRUCK, x, y, length, 6.0 * scale, along, (0, 0, 0))
            if _reserve(taken, site.outline()):
                parked += _paint_parking(rng, picture, site, scale)
        else:
            radius = rng.uniform(1.5, 3.5) * scale
            circle = np.array([[x, y]]) + radius * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
            if _reserve(taken, circle):
                _paint_tree(rng, picture, x, y, radius, shadow)
    return parked


def _reserve(taken: np.ndarray, corners: np.ndarray) -> bool:
    """Take a polygon's ground where all of it that lies in the picture is free."""
    points = np.round(corners).astype(np.int32)
    left, top = np.maximum(points.min(axis=0), 0)
    right, bottom = points.max(axis=0) + 1
    window = taken[top:bottom, left:right]
    mask = np.zeros(window.shape, np.uint8)
    if not mask.size:
        return False
    cv2.fillConvexPoly(mask, points - np.array([left, top], np.int32), (255,))
    if (window & mask).any():
        return False
    window |= mask
    return True


def _paint_roof(rng: np.random.Generator, picture: np.ndarray, site: Thing, shadow: np.ndarray) -> None:
    corners = site.outline()
    _darken(picture, [corners + shadow * share * rng.uniform(3.0, HIGHEST_ROOF) for share in (0.5, 1.0)])
    paint = ROOFS[int(rng.integers(len(ROOFS)))]
    fill(picture, corners, paint)
    fill(picture, site.outline((-0.5, 0.5), (0.0, 0.5)), [0.82 * value for value in paint])
    for _ in range(int(rng.integers(0, 4))):
        along, across = rng.uniform(-0.4, 0.3, 2)
        fill(picture, site.outline((along, along + 0.1), (across, across + 0.1)), [0.6 * value for value in paint])


def _paint_parking(rng: np.random.Generator, picture: np.ndarray, site: Thing, scale: float) -> list[Thing]:
    fill(picture, site.outline(), ASPHALTS[int(rng.integers(len(ASPHALTS)))])
    places = round(site.length / (2.9 * scale))
    cars = []
    for place in range(places + 1):
        share = place / places - 0.5
        fill(picture, site.outline((share - 0.003, share + 0.003), (-0.45, 0.45)), MARKING)
    for place in range(places):
        if rng.random() < 0.7:
            x, y = site.outline(((place + 0.5) / places - 0.5,) * 2, (0.0, 0.0))[0]
            heading = site.heading + np.pi / 2 * float(rng.choice((-1, 1)))
            cars.append(make_thing(rng, CAR, float(x), float(y), heading, scale))
    return cars


def _paint_tree(
    rng: np.random.Generator, picture: np.ndarray, x: float, y: float, radius: float, shadow: np.ndarray
) -> None:
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    _darken(picture, [np.array([x, y]) + shadow * 1.5 + ring * radius])
    green = np.array([40, 90, 50]) * rng.uniform(0.7, 1.2)
    for _ in range(10):
        offset, size = rng.uniform(-0.6, 0.6, 2) * radius, rng.uniform(0.3, 0.6) * radius
        fill(picture, np.array([x, y]) + offset + ring * size, (green * rng.uniform(0.8, 1.25)).tolist())


def _darken(picture: np.ndarray, polygons: list[np.ndarray]) -> None:
    mask = np.zeros(picture.shape[:2], np.uint8)
    for corners in polygons:
        fill(mask, corners, (255,))
    picture[mask > 127] = (picture[mask > 127] * 0.6).astype(np.uint8)


def _place(
    rng: np.random.Generator, roads: list[_Road], parked: list[Thing], scale: float, height: int, width: int
) -> list[Thing]:
    """Place vehicles along the lanes and people on the pavements, none over another, most of each in the picture."""
    occupied = np.zeros((height, width), np.uint8)
    placed = [thing for thing in parked if _take(thing, occupied, margin=0.0)]
    reach = float(np.hypot(height, width))
    density, crowd = rng.uniform(0.25, 0.9), rng.uniform(0.1, 0.6)
    for road in roads:
        for side in (-1, 1):
            offset = -reach
            while offset < reach:
                offset += rng.uniform(6.0, 16.0) * scale
                label = VEHICLES[bisect.bisect_right(UP_TO, rng.random())]
                x, y = (
                    road.point + offset * road.ahead + side * LANE_OFFSET * scale * rng.uniform(0.9, 1.1) * road.aside
                )
                heading = road.heading + (np.pi if side > 0 else 0.0) + rng.normal(0, 0.03)
                thing = make_thing(rng, label, float(x), float(y), heading, scale)
                if rng.random() < density and _take(thing, occupied, margin=0.5 * scale):
                    placed.append(thing)
            offset = -reach
            while offset < reach:
                offset += rng.uniform(1.0, 5.0) * scale
                aside = side * (road.half + rng.uniform(0.4, PAVEMENT_WIDTH - 0.4) * scale)
                x, y = road.point + offset * road.ahead + aside * road.aside
                thing = make_thing(rng, PEDESTRIAN, float(x), float(y), 0.0, scale)
                if rng.random() < crowd and _take(thing, occupied, margin=0.1 * scale):
                    placed.append(thing)
    return placed


def _take(thing: Thing, occupied: np.ndarray, margin: float) -> bool:
    """Occupy a thing's box, where it is free and enough of it lies in the picture."""
    height, width = occupied.shape
    x1, y1, x2, y2 = thing.box()
    inside = max(0.0, min(x2, width) - max(x1, 0)) * max(0.0, min(y2, height) - max(y1, 0))
    if inside < VISIBLE * (x2 - x1) * (y2 - y1):
        return False
    corners = thing.outline()
    return _reserve(occupied, corners + np.sign(corners - [thing.x, thing.y]) * margin)


def _paint_shadows(picture: np.ndarray, things: list[Thing], shadow: np.ndarray) -> None:
    _darken(picture, [thing.outline() + shadow * (0.7 if thing.label == PEDESTRIAN else 0.9) for thing in things])


def _seen(rng: np.random.Generator, picture: np.ndarray, things: list[Thing]) -> Scene:
    """Take the picture: light, haze, blur and noise of a camera; boxes are clipped to it."""
    height, width = picture.shape[:2]
    light, haze = rng.uniform(0.65, 1.2), rng.uniform(0, 18)
    blurred = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 0.9))
    noise = rng.standard_normal((height, width), np.float32) * rng.uniform(1.0, 6.0) + haze
    seen = np.clip(blurred * np.float32(light) + noise[:, :, None], 0, 255).astype(np.uint8)
    boxes = np.array([thing.box() for thing in things], np.float64).reshape(-1, 4)
    return Scene(
        seen,
        np.clip(boxes, 0, np.array([width, height, width, height])),
        np.array([thing.label for thing in things], np.int64),
    )
