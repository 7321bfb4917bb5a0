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

    Raises:
        JobError: Two pictures have names that differ in their ends alone.
    """
    names = {identity: name for part in parts for identity, name in part.categories}
    numbers = {identity: number for number, identity in enumerate(names)}
    if kind == "YOLO":
        yield "classes.txt", "".join(f"{' '.join(name.split())}\n" for name in names.values())
    written: dict[str, str] = {}
    for part in parts:
        lines = []
        owner = rows_of(part.images.ids, part.boxes.image_ids)
        order = np.argsort(owner, kind="stable")
        starts = np.searchsorted(owner[order], np.arange(len(part.images.ids) + 1))
        for row, name in enumerate(part.images.names):
            if unsafe(name):  # the rule against it may have been switched off
                continue
            mine = order[starts[row] : starts[row + 1]]
            size, xywh = part.images.sizes[row].tolist(), part.boxes.xywh[mine]
            ids = part.boxes.category_ids[mine].tolist()
            path = f"{FOLDERS[kind]}/{posixpath.splitext(name)[0]}"
            if kind == "YOLO":
                path, text = f"{path}.txt", _yolo(size, xywh, [numbers[identity] for identity in ids])
            else:
                path, text = f"{path}.xml", _voc(name, size, xywh, [names[identity] for identity in ids])
            if (other := written.setdefault(path, name)) != name:
                raise JobError(f"{other} and {name} would both become {path}: rename one of them")
            yield path, text
            lines.append(f"{path}\n")
        yield f"{part.name}_anno_list.txt", "".join(lines)


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
