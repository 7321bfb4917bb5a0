"""One part of a data set: a COCO file as a stream into arrays; records that are not COCO's become faults."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sodbatch.dataset.faults import Faults
from sodbatch.errors import UsageError
from sodbatch.json_stream import JsonStream
from sodbatch.storage import Storage, display_uri

_WHOLE, _TEXT, _NUMBER, _BOX, _FLAG = "a whole number", "text", "a number", "four numbers", "0 or 1"
_IMAGE = {"id": _WHOLE, "file_name": _TEXT, "width": _WHOLE, "height": _WHOLE}
_ANNOTATION = {
    "id": _WHOLE,
    "image_id": _WHOLE,
    "category_id": _WHOLE,
    "bbox": _BOX,
    "area": _NUMBER,
    "iscrowd": _FLAG,
}
_BOX_KEYS = itemgetter(*_ANNOTATION)
_CATEGORY = {"id": _WHOLE, "name": _TEXT}


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a part that are records of COCO's, as aligned columns.

    Attributes:
        ids: int64 [n].
        names: File names, below ``images/``.
        sizes: int64 [n, 2], width and height in pixels.
    """

    ids: NDArray[np.int64]
    names: list[str]
    sizes: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Boxes:
    """The annotations of a part that are records of COCO's, as aligned columns.

    Attributes:
        ids, image_ids, category_ids: int64 [m].
        xywh: float64 [m, 4], left, top, width, height in pixels.
        areas: float64 [m], in square pixels.
        crowd: bool [m].
        outlined: bool [m], has a segmentation, whose area need not be the box's.
    """

    ids: NDArray[np.int64]
    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    xywh: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    outlined: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Part:
    """What one annotation file holds.

    Attributes:
        name: ``train`` or ``val``.
        file: What messages call the file.
        images, boxes: The records.
        categories: Id and name of each, in the file's order.
        whole: The file could be read to its end.
    """

    name: str
    file: str
    images: Images
    boxes: Boxes
    categories: list[tuple[int, str]]
    whole: bool


def read_part(name: str, url: str, storage: Storage, faults: Faults) -> Part:
    """Read an annotation file.

    Args:
        name: ``train`` or ``val``.
        url: The file.
        storage: Opens it.
        faults: Takes what is wrong with the file and its records; such a record is left out.

    Raises:
        UsageError: The file may not be read.
    """
    reader = _Reader(name, display_uri(url), faults)
    try:
        with storage.open(url) as file, _no_garbage_collection():
            reader.read(JsonStream(file))
            reader.whole = True
    except FileNotFoundError:
        faults.add("json_invalid", name, reader.file, None, "there is no such file")
    except PermissionError as error:
        raise UsageError(f"{reader.file} may not be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        detail = f"expected an object with lists images, annotations and categories: {error}"
        faults.add("json_invalid", name, reader.file, None, detail)
    return reader.part()


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Millions of small objects come and go, and none in a cycle: looking for cycles would cost a fifth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Reader:
    def __init__(self, name: str, file: str, faults: Faults) -> None:
        self.name = name
        self.file = file
        self._faults = faults
        self._images: list[Images] = []
        self._boxes: list[Boxes] = []
        self._categories: list[tuple[int, str]] = []
        self.whole = False

    def read(self, json: JsonStream) -> None:
        takers = {"images": self._take_images, "annotations": self._take_boxes, "categories": self._take_categories}
        seen = set()
        for key, value in json.members():
            if key not in takers:
                continue
            if not isinstance(value, Iterator):
                self._fault("type_wrong", key, f"expected a list, found {type(value).__name__}")
                continue
            seen.add(key)
            start = 0
            for chunk in value:
                takers[key](chunk, start)
                start += len(chunk)
        for key in takers.keys() - seen:
            self._fault("key_missing", None, f"there is no list {key!r}")

    def part(self) -> Part:
        images = [Images(np.empty(0, np.int64), [], np.empty((0, 2), np.int64)), *self._images]
        boxes = [_boxes([]), *self._boxes]
        return Part(
            self.name,
            self.file,
            Images(
                np.concatenate([each.ids for each in images]),
                [name for each in images for name in each.names],
                np.concatenate([each.sizes for each in images]),
            ),
            Boxes(*(np.concatenate([getattr(each, field) for each in boxes]) for field in Boxes.__dataclass_fields__)),
            self._categories,
            self.whole,
        )

    def _take_images(self, chunk: list[Any], start: int) -> None:
        records = self._valid("image", chunk, start, _IMAGE)
        sizes = np.array([(r["width"], r["height"]) for r in records], np.int64).reshape(-1, 2)
        ids = np.array([r["id"] for r in records], np.int64)
        self._images.append(Images(ids, [r["file_name"] for r in records], sizes))

    def _take_boxes(self, chunk: list[Any], start: int) -> None:
        try:
            boxes = _boxes(chunk)
        except (KeyError, TypeError, ValueError, OverflowError):
            boxes = _boxes(self._valid("annotation", chunk, start, _ANNOTATION))
        self._boxes.append(boxes)

    def _take_categories(self, chunk: list[Any], start: int) -> None:
        self._categories += [(r["id"], r["name"]) for r in self._valid("category", chunk, start, _CATEGORY)]

    def _valid(self, kind: str, chunk: list[Any], start: int, keys: dict[str, str]) -> list[dict[str, Any]]:
        """Return the records that have all keys with the right types; the others are faults."""
        valid = []
        for index, record in enumerate(chunk, start):
            if not isinstance(record, dict):
                self._fault("type_wrong", f"{kind} at index {index}", f"expected an object, found {_short(record)}")
                continue
            named = _fits(record.get("id"), _WHOLE)
            record_name = f"{kind} {int(record['id'])}" if named else f"{kind} at index {index}"
            missing = [key for key in keys if key not in record]
            wrong = [key for key, type_ in keys.items() if key in record and not _fits(record[key], type_)]
            if missing:
                self._fault("key_missing", record_name, f"has no {', '.join(missing)}")
            for key in wrong:
                self._fault("type_wrong", record_name, f"{key}: expected {keys[key]}, found {_short(record[key])}")
            if not missing and not wrong:
                whole = {key: int(record[key]) for key, type_ in keys.items() if type_ in (_WHOLE, _FLAG)}
                valid.append(record | whole)  # some tools write 640.0
        return valid

    def _fault(self, rule: str, record: str | None, detail: str) -> None:
        self._faults.add(rule, self.name, self.file, record, detail)


def _boxes(records: list[dict[str, Any]]) -> Boxes:
    """Make columns of annotations.

    Raises:
        KeyError, TypeError, ValueError, OverflowError: One of them is not as it should be.
    """
    count = len(records)
    columns = list(zip(*map(_BOX_KEYS, records))) or [()] * len(_ANNOTATION)
    ids, image_ids, category_ids, bbox, areas, crowd = columns
    if not set(map(type, crowd)) <= {int} or not set(crowd) <= {0, 1} or not set(map(len, bbox)) <= {4}:
        raise TypeError
    return Boxes(
        _numbers(ids, np.int64),
        _numbers(image_ids, np.int64),
        _numbers(category_ids, np.int64),
        _numbers(list(itertools.chain.from_iterable(bbox)), np.float64).reshape(count, 4),
        _numbers(areas, np.float64),
        np.array(crowd, np.bool_),
        np.array([bool(record.get("segmentation")) for record in records], np.bool_),
    )


def _numbers(values: Sequence[Any], kind: type[np.generic]) -> NDArray[Any]:
    """Make an array [n] of numbers, and of nothing that only looks like numbers.

    Raises:
        TypeError, ValueError, OverflowError: They are not such numbers.
    """
    if not values:
        return np.empty(0, kind)
    if not set(map(type, values)) <= ({int} if kind is np.int64 else {int, float}):
        raise TypeError
    array = np.array(values)
    if array.ndim != 1 or array.dtype.kind not in "if":
        raise TypeError
    return array.astype(kind, copy=False)


def _fits(value: Any, expected: str) -> bool:
    if expected == _TEXT:  # JSON may hold half of a surrogate pair, which is no text
        return isinstance(value, str) and value == value.encode("utf-8", "ignore").decode()
    if expected == _BOX:
        return isinstance(value, list) and len(value) == 4 and all(_fits(side, _NUMBER) for side in value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if expected == _NUMBER:
        return abs(value) < 2**63 or isinstance(value, float)
    whole = abs(value) < 2**62 and float(value).is_integer()
    return whole and (expected != _FLAG or value in (0, 1))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
