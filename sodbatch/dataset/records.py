"""Rules on the records of the parts, without a look at the pictures."""

from __future__ import annotations

import itertools
import posixpath
import re
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from sodbatch.dataset.coco import Boxes, Part
from sodbatch.dataset.faults import Faults

EDGE_PX = 1.0
"""How far a box may reach over the edge of its picture: tools count edges of pixels in different ways."""

_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93,
                         0xA0761D6478BD642F, 0xE7037ED1A0B428DB], np.uint64).astype(np.int64)  # fmt: skip
"""Odd numbers that spread keys over all bits of a hash."""

AREA_TOLERANCE = 0.01
"""Of the box's area; and half a pixel of each side, since many tools round."""


def check_records(parts: list[Part], faults: Faults) -> None:
    """Check every record of all parts, and the parts beside each other."""
    for part in parts:
        _check_part(part, faults)
    for train, val in itertools.pairwise(parts):
        _check_between(train, val, faults)


def unsafe(name: str) -> str | None:
    """Say why a file name may not be followed; None when it may."""
    if not name.strip():
        return "blank"
    if "\0" in name:
        return "holds a NUL"
    if "://" in name or re.match(r"[/\\]|[A-Za-z]:[/\\]", name):
        return "absolute: expected a path below images/"
    if posixpath.normpath(name.replace("\\", "/")).split("/")[0] == "..":
        return "leaves the folder images/"
    return None


def rows_of(ids: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each wanted id stands among ids, the first place where several are equal; -1 where nowhere."""
    if not len(ids):
        return np.full(len(wanted), -1)
    order = np.argsort(ids, kind="stable")
    at = np.minimum(np.searchsorted(ids[order], wanted), len(ids) - 1)
    found = order[at]
    return np.where(ids[found] == wanted, found, -1)


def _check_part(part: Part, faults: Faults) -> None:
    images, boxes = part.images, part.boxes
    for what, count in (("images", len(images.ids)), ("annotations", len(boxes.ids))):
        if not count and part.whole:
            faults.add("part_empty", part.name, part.file, None, f"it has no {what}")
    _check_duplicates(part, faults)
    for index, name in enumerate(images.names):
        if reason := unsafe(name):
            faults.add("path_unsafe", part.name, part.file, f"image {images.ids[index]}", f"{name!r}: {reason}")
    for index in np.flatnonzero((images.sizes <= 0).any(axis=1)).tolist():
        width, height = images.sizes[index].tolist()
        faults.add("image_size", part.name, part.file, f"image {images.ids[index]}", f"{width} x {height}")
    owner = rows_of(images.ids, boxes.image_ids)
    known = np.array([identity for identity, _ in part.categories], np.int64)
    _add(part, faults, "image_unknown", owner < 0, lambda i: f"image_id {boxes.image_ids[i]}: there is no such image")
    _add(
        part,
        faults,
        "category_unknown",
        ~np.isin(boxes.category_ids, known),
        lambda i: f"category_id {boxes.category_ids[i]}: there is no such category",
    )
    _check_boxes(part, owner, faults)
    empty = np.setdiff1d(np.arange(len(images.ids)), owner)
    faults.add_all(
        "image_without_boxes",
        part.name,
        [part.file] * len(empty),
        [f"image {images.ids[i]}" for i in empty],
        [f"{images.names[i]!r} has no annotations" for i in empty],
    )


def _check_duplicates(part: Part, faults: Faults) -> None:
    images = part.images
    for rule, kind, ids in (
        ("image_id_duplicate", "image", images.ids),
        ("annotation_id_duplicate", "annotation", part.boxes.ids),
        ("category_id_duplicate", "category", np.array([identity for identity, _ in part.categories], np.int64)),
    ):
        values, counts = np.unique(ids, return_counts=True)
        again = counts > 1
        faults.add_all(
            rule,
            part.name,
            [part.file] * int(again.sum()),
            [f"{kind} {value}" for value in values[again]],
            [f"{count} records have this id" for count in counts[again]],
        )
    names: dict[str, int] = {}
    for identity, name in part.categories:
        other = names.setdefault(name.strip(), identity)
        if not name.strip() or other != identity:
            detail = f"{name!r} is also the name of category {other}" if name.strip() else "its name is blank"
            faults.add("category_name", part.name, part.file, f"category {identity}", detail)
    first: dict[str, int] = {}
    for index, name in enumerate(images.names):
        if (other := first.setdefault(posixpath.normpath(name), index)) != index:
            detail = f"{name!r} is also the file of image {images.ids[other]}"
            faults.add("file_name_duplicate", part.name, part.file, f"image {images.ids[index]}", detail)


def _check_boxes(part: Part, owner: NDArray[np.int64], faults: Faults) -> None:
    boxes = part.boxes
    left, top, width, height = boxes.xywh.T
    with np.errstate(invalid="ignore", over="ignore"):
        sound = np.isfinite(boxes.xywh).all(axis=1) & (width > 0) & (height > 0)
        _add(
            part, faults, "box_side", ~sound, lambda i: f"bbox {_text(boxes, i)}: expected finite numbers, sides over 0"
        )
        size = part.images.sizes[owner].astype(np.float64) if len(part.images.sizes) else np.zeros((len(owner), 2))
        placed = sound & (owner >= 0) & (size > 0).all(axis=1)
        right, bottom = left + width, top + height
        outside = placed & ((right <= 0) | (bottom <= 0) | (left >= size[:, 0]) | (top >= size[:, 1]))
        over = np.maximum.reduce([-left, -top, right - size[:, 0], bottom - size[:, 1]])
        area = width * height
        slack = AREA_TOLERANCE * area + 0.5 * (width + height)
        mismatch = sound & ~boxes.outlined & ~(np.abs(boxes.areas - area) <= slack)

    def beside(i: int) -> str:
        return f"bbox {_text(boxes, i)} in a picture of {size[i, 0]:g} x {size[i, 1]:g}"

    _add(part, faults, "box_outside", outside, beside)
    _add(part, faults, "box_over_edge", placed & ~outside & (over > EDGE_PX), beside)
    _add(part, faults, "box_tiny", sound & (np.minimum(width, height) < 1), lambda i: f"bbox {_text(boxes, i)}")
    _add(
        part,
        faults,
        "area_mismatch",
        mismatch,
        lambda i: f"area {boxes.areas[i]:g}, bbox {_text(boxes, i)}: expected {area[i]:g}",
    )
    twins = _twins(boxes)
    _add(part, faults, "box_duplicate", twins >= 0, lambda i: f"the same as annotation {boxes.ids[twins[i]]}")


def _twins(boxes: Boxes) -> NDArray[np.int64]:
    """Return for each box the row of the first equal one before it in the same picture; -1 where there is none."""
    keys = np.column_stack([boxes.image_ids, boxes.category_ids, boxes.xywh.view(np.int64)])
    with np.errstate(over="ignore"):
        hashed = (keys * _MULTIPLIERS).sum(axis=1)
    by_hash = np.argsort(hashed, kind="stable")
    again = np.zeros(len(keys) + 1, bool)
    again[1:-1] = hashed[by_hash][1:] == hashed[by_hash][:-1]
    rows = np.sort(by_hash[again[1:] | again[:-1]])  # all that may have a twin, few as a rule
    order = rows[np.lexsort(keys[rows].T[::-1])]
    same = np.zeros(len(order), bool)
    same[1:] = (keys[order][1:] == keys[order][:-1]).all(axis=1)
    first = order[np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))] if len(order) else order
    twins = np.full(len(keys), -1)
    twins[order] = np.where(same, first, -1)
    return twins


def _check_between(train: Part, val: Part, faults: Faults) -> None:
    if train.categories and val.categories and dict(train.categories) != dict(val.categories):
        ours, theirs = set(train.categories), set(val.categories)
        detail = f"only in train: {_named(ours - theirs)}; only in val: {_named(theirs - ours)}"
        faults.add("categories_differ", "both", val.file, None, detail)
    places = dict(zip(map(posixpath.normpath, val.images.names), val.images.ids.tolist()))
    twins = [places.get(posixpath.normpath(name)) for name in train.images.names]
    rows = [row for row, twin in enumerate(twins) if twin is not None]
    faults.add_all(
        "name_in_both_parts",
        "both",
        [train.file] * len(rows),
        [f"image {train.images.ids[row]}" for row in rows],
        [f"{train.images.names[row]!r} is also image {twins[row]} of val" for row in rows],
    )


def _add(part: Part, faults: Faults, rule: str, broken: NDArray[np.bool_], detail: Callable[[int], str]) -> None:
    """Add a fault for every annotation of a mask."""
    rows = np.flatnonzero(broken).tolist()
    faults.add_all(
        rule,
        part.name,
        [part.file] * len(rows),
        [f"annotation {part.boxes.ids[row]}" for row in rows],
        [detail(row) for row in rows],
    )


def _text(boxes: Boxes, row: int) -> str:
    return "[" + ", ".join(f"{value:g}" for value in boxes.xywh[row]) + "]"


def _named(categories: Iterable[tuple[int, str]]) -> str:
    return ", ".join(f"{identity} {name!r}" for identity, name in sorted(categories)) or "none"
