"""Companions of the tables: pictures with boxes, PaddleX's JSON per picture, COCO results.

Pictures never ride through the tables' blocks: those to be drawn are fetched and decoded again where they are drawn.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any
from urllib.parse import unquote, urlsplit

import cv2
import pyarrow as pa
import pyarrow.compute as pc

from sodbatch.config import LimitsSection
from sodbatch.decode import FailedPage, Page, decode_pages
from sodbatch.errors import ErrorClass, PictureError, RunEndedError
from sodbatch.fetch import Fetcher
from sodbatch.ledger import part_urls, read_parts
from sodbatch.storage import Storage, local_path, redact
from sodbatch.tables import OK
from sodbatch.threshold import Detections
from sodbatch.visualize import draw
from sodbatch.write import ending_when_full

JPEG_QUALITY = 92

STEM_BYTES = 200
"""Most bytes of a file's stem in a companion's name; file systems allow 255 for the whole."""


def companion_name(row: dict[str, Any]) -> str:
    """Name what belongs to one picture: its file's stem, its page, and enough of its id to tell namesakes apart."""
    path = row["uri"] if row["uri"].startswith("/") else unquote(urlsplit(row["uri"]).path)
    stem = re.sub(r"[\x00-\x1f\x7f/]", "_", PurePosixPath(path).stem)
    stem = stem.encode("utf-8", "replace")[:STEM_BYTES].decode("utf-8", "ignore")
    page = "" if row["page_index"] is None else f"_{row['page_index']}"
    return f"{stem}{page}_{row['image_id'][:12]}"


@dataclass(frozen=True)
class DrawPictures:
    """Draws the boxes of pictures and writes them to ``OUT/pictures``.

    Attributes:
        output: Folder of the tables.
        storage: Where it lies.
        fetcher: Gets the pictures again.
        limits: Bounds on what is decoded.
        labels: Label of each class id.
        min_boxes: Pictures with fewer boxes are not drawn.
    """

    output: str
    storage: Storage
    fetcher: Fetcher
    limits: LimitsSection
    labels: tuple[str, ...]
    min_boxes: int

    def __call__(self, rows: pa.Table) -> list[str]:
        """Draw what is to be drawn of rows that have a ``source``; return a note for each that could not be."""
        wanted = pc.and_(pc.equal(rows["status"], OK), pc.greater_equal(rows["num_detections"], self.min_boxes))
        columns = ["source", "uri", "image_id", "page_index", "page_count", "detections"]
        notes = []
        chosen = rows.select(columns).filter(pc.fill_null(wanted, False)).to_pylist()
        for row, data in zip(chosen, self.fetcher.fetch_all([row["source"] for row in chosen]), strict=True):
            try:
                with ending_when_full(self.output):
                    self._draw(row, data)
            except RunEndedError:
                raise
            except Exception as error:  # a drawing is never worth a row, let alone a job
                notes.append(redact(f"not drawn: {row['uri']}: {error}"))
        return notes

    def _draw(self, row: dict[str, Any], data: bytes | PictureError) -> None:
        if isinstance(data, PictureError):
            raise data
        others = set(range(row["page_count"])) - {row["page_index"]} if row["page_index"] is not None else ()
        page: Page | FailedPage | None = next(iter(decode_pages(data, self.limits, others)), None)
        if page is None:
            raise PictureError(ErrorClass.MISSING, f"page {row['page_index']} is no longer there")
        if isinstance(page, FailedPage):
            raise page.error
        drawn = draw(page.image, _detections(row["detections"]), self.labels)
        done, encoded = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if not done:
            raise PictureError(ErrorClass.UNSUPPORTED, "the drawn picture is too large for JPEG (65,500 pixels a side)")
        self.storage.write_atomic(f"{self.output}/pictures/{companion_name(row)}.jpg", encoded.tobytes())


def _detections(boxes: list[dict[str, Any]]) -> Detections:
    corners = [[box["xmin"], box["ymin"], box["xmax"], box["ymax"]] for box in boxes]
    return Detections.of([box["cls_id"] for box in boxes], [box["score"] for box in boxes], corners)


@dataclass(frozen=True)
class WriteJson:
    """Writes one JSON a picture to ``OUT/json``, with the keys of PaddleX's ``save_to_json``."""

    output: str
    storage: Storage

    def __call__(self, rows: pa.Table) -> list[str]:
        """Write the JSON of all pictures that are ok."""
        columns = ["uri", "image_id", "page_index", "detections"]
        for row in rows.select(columns).filter(pc.equal(rows["status"], OK)).to_pylist():
            boxes = [
                {
                    "cls_id": box["cls_id"],
                    "label": box["label"],
                    "score": box["score"],
                    "coordinate": [box["xmin"], box["ymin"], box["xmax"], box["ymax"]],
                }
                for box in row["detections"]
            ]
            result = {"input_path": row["uri"], "page_index": row["page_index"], "boxes": boxes}
            data = json.dumps(result, indent=4, ensure_ascii=False).encode()
            self.storage.write_atomic(f"{self.output}/json/{companion_name(row)}_res.json", data)
        return []


def sample_rows(output: str, storage: Storage, size: int, min_boxes: int) -> pa.Table | None:
    """Choose pictures evenly from finished tables: those with the smallest ids, which are hashes.

    Returns:
        Rows as :class:`DrawPictures` takes them, their ``source`` being the ``uri``; None when there are none.
    """
    columns = ["image_id", "uri", "page_index", "page_count", "status", "num_detections", "detections"]
    chosen: pa.Table | None = None
    for rows in read_parts(part_urls(output, "images", storage), columns, storage):
        rows = rows.filter(pc.fill_null(pc.greater_equal(rows["num_detections"], min_boxes), False))
        merged = rows if chosen is None else pa.concat_tables([chosen, rows])
        chosen = merged.sort_by("image_id").slice(0, size)
    return None if chosen is None else chosen.append_column("source", chosen["uri"])


def write_coco(output: str, storage: Storage) -> None:
    """Write ``OUT/coco.json``: COCO results, one object a box, streamed from the tables.

    ``image_id`` is the manifest's ``coco_image_id`` where the input was a COCO file, else the table's; ``category_id``
    is the class id plus one, as in VisDrone's COCO files; ``bbox`` is [x, y, width, height].
    """
    with _open_whole(f"{output}/coco.json", storage) as file:
        separator = b"[\n"
        for result in _coco_results(output, storage):
            file.write(separator + json.dumps(result).encode())
            separator = b",\n"
        file.write(b"[]\n" if separator == b"[\n" else b"\n]\n")


@contextmanager
def _open_whole(url: str, storage: Storage) -> Iterator[IO[bytes]]:
    """Open a file for writing that is there whole when the block ends, and not at all when it does not."""
    path = local_path(url)
    if path is not None:
        temporary = f"{os.path.dirname(path)}/.sodbatch-{uuid.uuid4().hex}.tmp"
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
        return
    with tempfile.NamedTemporaryFile() as file:  # an upload that breaks off begins again
        yield file
        file.flush()
        storage.upload(file.name, url)


def _coco_results(output: str, storage: Storage) -> Iterator[dict[str, Any]]:
    urls = part_urls(output, "images", storage)
    for rows in read_parts(urls, ["image_id", "coco_image_id", "detections"], storage):
        ids = rows["coco_image_id" if "coco_image_id" in rows.column_names else "image_id"].to_pylist()
        for image_id, boxes in zip(ids, rows["detections"].to_pylist(), strict=True):
            for box in boxes or ():
                yield {
                    "image_id": image_id,
                    "category_id": box["cls_id"] + 1,
                    "bbox": [box["xmin"], box["ymin"], box["xmax"] - box["xmin"], box["ymax"] - box["ymin"]],
                    "score": box["score"],
                }
