"""YOLO: a text file a picture, a line a box: class index, centre, width and height as shares of the picture's sides."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sodbatch.dataset.convert.scene import Object, Scene, SceneError

COLUMNS = 5


def read_yolo(data: bytes, picture: str, size: tuple[int, int], labels: Sequence[str]) -> Scene:
    """Read an annotation.

    Args:
        data: The text; empty for a negative.
        picture: What it belongs to.
        size: Width and height of that in pixels.
        labels: Names of the classes, by index.

    Raises:
        SceneError: A line is not of that form.
    """
    objects = []
    for number, words in rows(data):
        if len(words) != COLUMNS:
            raise SceneError(f"expected {COLUMNS} numbers (class, x, y, width, height), found {len(words)}", number)
        index, x, y, width, height = numbers(words, number)
        if index != int(index) or not 0 <= index < len(labels):
            raise SceneError(f"class {words[0]}: expected 0 to {len(labels) - 1}, as classes.txt has lines", number)
        x, width, y, height = x * size[0], width * size[0], y * size[1], height * size[1]
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        objects.append(Object(labels[int(index)], box))
    return Scene(picture, *size, objects)


def rows(data: bytes, separator: str | None = None) -> list[tuple[int, list[str]]]:
    """Return number and words of every line that is not blank.

    Raises:
        SceneError: It is not text.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SceneError("not text", data[: error.start].count(b"\n") + 1) from error
    lines = enumerate(text.splitlines(), 1)
    return [(number, line.strip().rstrip(",").split(separator)) for number, line in lines if line.strip()]


def numbers(words: Sequence[str], line: int) -> list[float]:
    """Return words as numbers.

    Raises:
        SceneError: One of them is none.
    """
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise SceneError(f"expected numbers: {error}", line) from None
    if not all(map(math.isfinite, values)):
        raise SceneError("expected finite numbers", line)
    return values
