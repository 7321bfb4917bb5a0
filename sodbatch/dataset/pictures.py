"""Pictures: each one is fetched and decoded, on as many CPUs as there are, and compared with its record."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sodbatch.config import LimitsSection
from sodbatch.dataset.coco import Part
from sodbatch.dataset.faults import Faults
from sodbatch.dataset.records import unsafe
from sodbatch.decode import FailedPage, decode_pages
from sodbatch.errors import ErrorClass, PictureError
from sodbatch.fetch import Fetcher
from sodbatch.ids import digest
from sodbatch.manifest.pictures import SUFFIXES
from sodbatch.stages import UNWATCHED, InHand
from sodbatch.storage import Storage, display_uri, local_path, printable
from sodbatch.tables import PENDING

NUMBER = pa.schema([pa.field("number", pa.int64())])
"""The column that passes through: the row of an image among all of the parts'."""

INSPECTED = pa.schema(
    [
        PENDING.field("input_id"),
        pa.field("page_index", pa.int32()),
        pa.field("page_count", pa.int32()),
        *NUMBER,
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("content", pa.string(), metadata={"doc": "hash of the file's bytes"}),
        pa.field("error_class", pa.string()),
        pa.field("error_message", pa.string()),
    ]
)
"""What is known of a picture; ``page_index`` is null, since only the first page of a document is a picture here."""

ROWS = 256
"""Pictures in one table of pending rows: some seconds of work."""

BLOCK_ROWS = 16
"""Pictures in one table of results: what is done again when a picture kills its process."""


@dataclass(frozen=True)
class Inspect:
    """Fetch and decode: pending rows become what their pictures are. Called as :class:`sodbatch.stages.Load` is.

    Attributes:
        fetcher: Gets the bytes.
        limits: Bounds on what is decoded.
    """

    fetcher: Fetcher
    limits: LimitsSection

    def __call__(self, pending: pa.Table, in_hand: InHand = UNWATCHED) -> Iterator[pa.Table]:
        """Yield tables of :data:`INSPECTED`, a row for each pending one."""
        rows = pending.select(["source", "input_id", "number"]).to_pylist()
        fetched = self.fetcher.fetch_all([row["source"] for row in rows])
        block: list[dict[str, object]] = []
        for index, row in enumerate(rows):
            in_hand.fetching(index)
            data = next(fetched)
            in_hand.decoding(index)
            block.append(self._row(row["input_id"], row["number"], data))
            if len(block) == BLOCK_ROWS or index == len(rows) - 1:
                yield pa.Table.from_pylist(block, schema=INSPECTED)
                block = []

    def failed(self, row: pa.Table, page_index: int | None, page_count: int, error: PictureError) -> pa.Table:
        """Return what is yielded for a pending row that cannot be inspected."""
        [values] = row.select(["input_id", "number"]).to_pylist()
        return pa.Table.from_pylist([self._row(values["input_id"], values["number"], error)], schema=INSPECTED)

    def _row(self, input_id: str, number: int, data: bytes | PictureError) -> dict[str, object]:
        found: dict[str, object] = {"input_id": input_id, "page_count": 1, "number": number}
        error = data if isinstance(data, PictureError) else None
        if not isinstance(data, PictureError):
            found["content"] = hashlib.blake2b(data, digest_size=16).hexdigest()
            page = next(decode_pages(data, self.limits))
            if isinstance(page, FailedPage):
                error = page.error
            else:
                found["height"], found["width"] = page.image.shape[:2]
        if error is not None:
            found["error_class"], found["error_message"] = error.error_class.value, error.message
        return found


def pending_pictures(parts: list[Part], folder: str, rows: int = ROWS) -> Iterator[pa.Table]:
    """Stream the pictures of all parts whose name may be followed, as tables of pending rows."""
    number = 0
    for part in parts:
        names = part.images.names
        for start in range(0, len(names), rows):
            chunk = [
                (number + i, name) for i, name in enumerate(names[start : start + rows], start) if not unsafe(name)
            ]
            if chunk:
                yield _pending(folder, chunk)
        number += len(names)


def _pending(folder: str, chunk: list[tuple[int, str]]) -> pa.Table:
    sources = [picture_url(folder, name) for _, name in chunk]
    columns = {
        "source": sources,
        "uri": [display_uri(source) for source in sources],
        "input_id": [digest(str(number)) for number, _ in chunk],
        "page_count": [None] * len(chunk),
        "skip_pages": [None] * len(chunk),
        "number": [number for number, _ in chunk],
    }
    return pa.table(columns, schema=pa.schema([*PENDING, *NUMBER]))


def picture_url(folder: str, name: str) -> str:
    """Return where the picture of a file name lies; the name is taken as it stands, also with ``?`` or ``#``."""
    return f"{folder.rstrip('/')}/images/{name}"


def check_pictures(parts: list[Part], inspected: pa.Table, faults: Faults) -> None:
    """Compare what the pictures are with what the parts say of them.

    Args:
        parts: The data set.
        inspected: A table of :data:`INSPECTED`, in any order.
        faults: Takes what is wrong.
    """
    inspected = inspected.sort_by("number")
    numbers = inspected["number"].to_numpy()
    starts = np.cumsum([0, *(len(part.images.ids) for part in parts)])
    for part, start, end in zip(parts, starts[:-1], starts[1:]):
        of_part = inspected.slice(*_span(numbers, start, end))
        _check_part(part, of_part, of_part["number"].to_numpy() - start, faults)
    _check_content(parts, inspected, starts, faults)


def unreadable(parts: list[Part], inspected: pa.Table) -> dict[str, str]:
    """Return why, for the file names of all pictures that could not be read."""
    names = [name for part in parts for name in part.images.names]
    failed = inspected.filter(inspected["error_class"].is_valid())
    return {names[row["number"]]: f"{row['error_class']}: {row['error_message']}" for row in failed.to_pylist()}


def check_names(parts: list[Part], listed: set[str], faults: Faults, *, decoded: bool) -> None:
    """Compare the names of the parts with the files in ``images/``.

    Args:
        parts: The data set.
        listed: Names below ``images/`` of all files there.
        faults: Takes what is wrong.
        decoded: The pictures are read too, which tells which are missing.
    """
    named = {posixpath.normpath(name) for part in parts for name in part.images.names}
    pictures = {name for name in listed if name.rpartition(".")[2].lower() in SUFFIXES}
    for name in sorted(pictures - named) if all(part.whole for part in parts) else ():
        faults.add("picture_unlisted", "both", f"images/{printable(name)}", None, "stands in no part")
    for part in () if decoded else parts:
        names = part.images.names
        rows = [row for row, name in enumerate(names) if posixpath.normpath(name) not in listed and not unsafe(name)]
        faults.add_all(
            "picture_missing",
            part.name,
            [f"images/{names[row]}" for row in rows],
            [f"image {part.images.ids[row]}" for row in rows],
            ["there is no such file"] * len(rows),
        )


def list_names(folder: str, storage: Storage) -> set[str]:
    """Return the names below ``images/`` of all files."""
    images = f"{folder.rstrip('/')}/images"
    path = local_path(images)
    root = (os.path.abspath(path) if path is not None else images).rstrip("/") + "/"
    urls = (info.url for info in storage.list_files(images))
    return {(local_path(url) or url if path is not None else url).removeprefix(root) for url in urls}


def _span(numbers: np.ndarray, start: int, end: int) -> tuple[int, int]:
    first, last = np.searchsorted(numbers, [start, end])
    return int(first), int(last - first)


def _check_part(part: Part, inspected: pa.Table, rows: np.ndarray, faults: Faults) -> None:
    names, ids = part.images.names, part.images.ids
    for row, found in zip(rows.tolist(), inspected.to_pylist()):
        file, record = f"images/{names[row]}", f"image {ids[row]}"
        if found["error_class"] == ErrorClass.MISSING.value:
            faults.add("picture_missing", part.name, file, record, "there is no such file")
        elif found["error_class"] is not None:
            detail = f"{found['error_class']}: {found['error_message']}"
            faults.add("picture_unreadable", part.name, file, record, detail)
        elif (found["width"], found["height"]) != tuple(part.images.sizes[row]):
            width, height = part.images.sizes[row]
            detail = f"{width} x {height} in {part.file}, the picture has {found['width']} x {found['height']}"
            faults.add("size_mismatch", part.name, file, record, detail)


def _check_content(parts: list[Part], inspected: pa.Table, starts: np.ndarray, faults: Faults) -> None:
    """Find files of train and val that have the same bytes under different names."""
    train, val = parts
    border = int(starts[1])
    contents = zip(inspected["number"].to_pylist(), inspected["content"].to_pylist())
    first: dict[str, int] = {}
    for number, content in contents:
        if content is None:
            continue
        if number < border:
            first.setdefault(content, number)
        elif (twin := first.get(content)) is not None and train.images.names[twin] != val.images.names[number - border]:
            detail = f"has the bytes of images/{train.images.names[twin]}, image {train.images.ids[twin]} of train"
            row = number - border
            record = f"image {val.images.ids[row]}"
            faults.add("content_in_both_parts", "both", f"images/{val.images.names[row]}", record, detail)
