"""What any format says of a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MOST = 10**9
"""Of any number of pixels."""


@dataclass(frozen=True)
class Object:
    """A labelled box.

    Attributes:
        label: Name of its class.
        box: xmin, ymin, xmax, ymax in pixels.
        extra: Keys that its annotation gets besides COCO's.
    """

    label: str
    box: tuple[float, float, float, float]
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scene:
    """A picture and its objects.

    Attributes:
        picture: What the annotation calls the picture, with ``/`` between folders.
        width, height: In pixels.
        objects: What is in it; nothing in a negative.
        notes: What has been changed in reading, such as polygons turned into boxes, by its number of cases.
    """

    picture: str
    width: int
    height: int
    objects: list[Object]
    notes: Mapping[str, int] = field(default_factory=dict)


class SceneError(Exception):
    """An annotation cannot be read.

    Attributes:
        line: Where, from 1; None where that is not known.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


def forward(path: str) -> str:
    """Return a path with ``/`` between its folders, whatever system wrote it."""
    return path.strip().replace("\\", "/")
