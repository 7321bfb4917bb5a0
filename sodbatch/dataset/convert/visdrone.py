"""VisDrone-DET: a text file a picture, a line a box.

A line is left, top, width, height, score, category, truncation, occlusion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sodbatch.dataset.convert.scene import Object, Scene, SceneError
from sodbatch.dataset.convert.yolo import numbers, rows

COLUMNS = 8


def read_visdrone(data: bytes, picture: str, size: tuple[int, int], labels: Sequence[str]) -> Scene:
    """Read an annotation; ignored regions and others are left out, and that is noted.

    Args:
        data: The text.
        picture: What it belongs to.
        size: Width and height of that in pixels.
        labels: Names of categories 1, 2, ...; 0 are ignored regions, the one after the last are others.

    Raises:
        SceneError: A line is not of that form.
    """
    objects = []
    notes: Counter[str] = Counter()
    for number, words in rows(data, ","):
        if len(words) != COLUMNS:
            raise SceneError(f"expected {COLUMNS} numbers between commas, found {len(words)}", number)
        left, top, width, height, _, category, truncation, occlusion = numbers(words, number)
        if category != int(category) or not 0 <= category <= len(labels) + 1:
            raise SceneError(f"category {words[5]}: expected a whole number from 0 to {len(labels) + 1}", number)
        if not 1 <= category <= len(labels):
            notes["ignored regions left out" if category == 0 else "boxes of the category others left out"] += 1
            continue
        extra = {"truncation": int(truncation), "occlusion": int(occlusion)}
        box = (left, top, left + width, top + height)
        objects.append(Object(labels[int(category) - 1], box, extra))
    return Scene(picture, *size, objects, notes)
