"""LabelMe: a JSON file a picture."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from sodbatch.dataset.convert.scene import MOST, Object, Scene, SceneError, forward


def read_labelme(data: bytes) -> Scene:
    """Read an annotation.

    A rectangle is two corners in any order, or all of its corners; of a polygon the box around it is taken, and that
    is noted. PaddleX takes rectangles of two points only.

    Raises:
        SceneError: It is not LabelMe's, or has another kind of shape.
    """
    try:
        text = data.decode("utf-8-sig")
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise SceneError(f"not JSON: {error.msg}", error.lineno) from error
    except (ValueError, RecursionError) as error:  # of bytes that are no text, or a number of thousands of digits
        raise SceneError(f"not JSON: {error}") from error
    if not isinstance(content, dict):
        raise SceneError("expected an object")
    picture, shapes = content.get("imagePath"), content.get("shapes")
    if not isinstance(picture, str) or not picture.strip():
        raise SceneError("expected imagePath as text")
    if not isinstance(shapes, list):
        raise SceneError("expected a list shapes")
    width, height = (_side(content, name) for name in ("imageWidth", "imageHeight"))
    notes: Counter[str] = Counter()
    objects = [_object(shape, index, text, notes) for index, shape in enumerate(shapes)]
    return Scene(forward(picture), width, height, objects, notes)


def _object(shape: Any, index: int, text: str, notes: Counter[str]) -> Object:
    line = _line_of_shape(text, index)
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
        raise SceneError(f"shape {index}: expected an object with a label", line)
    kind, points = shape.get("shape_type", "polygon"), shape.get("points")
    if kind not in ("rectangle", "polygon"):
        raise SceneError(f"shape {index}: expected a rectangle or polygon, found {str(kind)[:40]!r}", line)
    least = 2 if kind == "rectangle" else 3
    if not isinstance(points, list) or len(points) < least or not all(map(_is_point, points)):
        raise SceneError(f"shape {index}: expected at least {least} points [x, y]", line)
    if kind == "polygon":
        notes["polygons turned into the boxes around them"] += 1
    xs, ys = [float(point[0]) for point in points], [float(point[1]) for point in points]
    return Object(shape["label"], (min(xs), min(ys), max(xs), max(ys)))


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= MOST


def _side(content: dict[str, Any], name: str) -> int:
    value: Any = content.get(name)
    if not _is_number(value) or value != int(value) or value <= 0:
        raise SceneError(f"{name}: expected a whole number over 0, found {str(value)[:40]}")
    return int(value)


def _line_of_shape(text: str, index: int) -> int | None:
    """Return the line of the shape's key ``points``, which every shape has once."""
    place = -1
    for _ in range(index + 1):
        place = text.find('"points"', place + 1)
        if place < 0:
            return None
    return text.count("\n", 0, place) + 1
