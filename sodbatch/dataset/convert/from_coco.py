"""COCO to YOLO and to VOC: one text a picture, the lists of both parts, and for YOLO the names of the classes.

Beside the folder ``images/`` the files make a data set that :func:`sodbatch.dataset.convert.convert` takes back.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from sodbatch.dataset.coco import Part
from sodbatch.dataset.records import rows_of, unsafe
from sodbatch.errors import JobError

FOLDERS: Mapping[str, str] = {"YOLO": "labels", "VOC": "annotations"}
"""By ``dst_dataset_type``: where the texts lie."""

Boxes = NDArray[np.float64]


def texts(parts: Sequence[Part], kind: str) -> Iterator[tuple[str, str]]:
    """Yield relative path and text of every file of a sound data set in another format.

    Args:
        parts: The data set.
        kind: A key of :data:`FOLDERS`.

    Boxes that break the rules of their sides, image or category are left out, where these have been switched off.

    Raises:
        JobError: A name that does not come back from the other format; nothing has been yielded.
    """
    _check_names(parts, kind)
    names = {identity: name for part in parts for identity, name in part.categories}
    numbers = {identity: number for number, identity in enumerate(names)}
    if kind == "YOLO":
        yield "classes.txt", "".join(f"{' '.join(name.split())}\n" for name in names.values())
    for part in parts:
        lines = []
        owner = rows_of(part.images.ids, part.boxes.image_ids)
        boxes = part.boxes
        sound = np.isfinite(boxes.xywh).all(axis=1) & (boxes.xywh[:, 2:] > 0).all(axis=1)
        owner[~(sound & np.isin(boxes.category_ids, list(names)))] = -1
        order = np.argsort(owner, kind="stable")
        starts = np.searchsorted(owner[order], np.arange(len(part.images.ids) + 1))
        for row, name in enumerate(part.images.names):
            if not _usable(name, part.images.sizes[row]):
                continue
            mine = order[starts[row] : starts[row + 1]]
            size, xywh = part.images.sizes[row].tolist(), part.boxes.xywh[mine]
            ids = part.boxes.category_ids[mine].tolist()
            path = f"{FOLDERS[kind]}/{posixpath.splitext(name)[0]}"
            if kind == "YOLO":
                path, text = f"{path}.txt", _yolo(size, xywh, [numbers[identity] for identity in ids])
            else:
                path, text = f"{path}.xml", _voc(name, size, xywh, [names[identity] for identity in ids])
            yield path, text
            lines.append(f"{path}\n")
        yield f"{part.name}_anno_list.txt", "".join(lines)


def _usable(name: str, size: NDArray[np.int64]) -> bool:
    """Tell whether a picture can be named; the rules against it may have been switched off."""
    return not unsafe(name) and bool((size > 0).all())


def _check_names(parts: Sequence[Part], kind: str) -> None:
    """Refuse names of pictures and classes that the other format cannot tell apart or hold."""
    for _, label in (category for part in parts for category in part.categories):
        if not label.strip() or any(ord(character) < 32 for character in label):
            raise JobError(f"category {label!r} cannot stand in {kind}: its name is blank or has control characters")
    pictures = {
        name
        for part in parts
        for name, size in zip(part.images.names, part.images.sizes, strict=True)
        if _usable(name, size)
    }
    stems: dict[str, str] = {}
    for name in sorted(pictures):
        stem = posixpath.splitext(name)[0]
        if "\\" in name or any(ord(character) < 32 for character in name):
            raise JobError(f"{name!r} cannot stand in {kind}: it has a backslash or control characters; rename it")
        if (other := stems.setdefault(stem, name)) != name or (stem in pictures and stem != name):
            twin = other if other != name else stem
            raise JobError(f"{twin} and {name} could not be told apart in {kind}: rename one of them")


def _yolo(size: list[int], xywh: Boxes, numbers: list[int]) -> str:
    width, height = size
    lines = []
    for (left, top, wide, tall), number in zip(xywh.tolist(), numbers):
        values = ((left + wide / 2) / width, (top + tall / 2) / height, wide / width, tall / height)
        lines.append(f"{number} " + " ".join(f"{value:.12g}" for value in values) + "\n")
    return "".join(lines)


def _voc(name: str, size: list[int], xywh: Boxes, labels: list[str]) -> str:
    objects = "".join(
        f"  <object>\n    <name>{escape(label)}</name>\n    <bndbox>"
        f"<xmin>{left!r}</xmin><ymin>{top!r}</ymin><xmax>{left + wide!r}</xmax><ymax>{top + tall!r}</ymax>"
        "</bndbox>\n  </object>\n"
        for (left, top, wide, tall), label in zip(xywh.tolist(), labels)
    )
    sides = f"<width>{size[0]}</width><height>{size[1]}</height><depth>3</depth>"
    return f"<annotation>\n  <filename>{escape(name)}</filename>\n  <size>{sides}</size>\n{objects}</annotation>\n"
