"""The stages between manifest and write, as plain callables over Arrow tables.

They know neither an engine nor the configuration file: the inline engine calls them in a loop, the Ray engine
hands the same objects to Ray Data.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from sodbatch.config import LimitsSection
from sodbatch.decode import FailedPage, Page, decode_pages
from sodbatch.errors import ErrorClass, PictureError
from sodbatch.fetch import Fetcher
from sodbatch.ids import image_id
from sodbatch.predictor.base import Predictor
from sodbatch.preprocess import Preprocess, resize
from sodbatch.storage import redact
from sodbatch.tables import FAILED, OK, PENDING, detections_array, inferred_schema, loaded_schema
from sodbatch.threshold import Detections, Threshold, select

BLOCK_BYTES = 64 * 2**20
"""Pixels in one table between Load and Infer: large enough for few tasks, small enough for few of them in memory."""


def pictures_per_block(preprocess: Preprocess) -> int:
    """Return how many model inputs make one table of about :data:`BLOCK_BYTES`, at most 64."""
    return max(1, min(64, BLOCK_BYTES // math.prod(preprocess.shape)))


class InHand(Protocol):
    """Who is told what Load is about to do (see :class:`sodbatch.isolate.Journal`)."""

    def fetching(self, row: int) -> None:
        """It waits for the bytes of the ``row``-th pending row."""

    def decoding(self, row: int, page: int | None = None, page_count: int = 1) -> None:
        """It decodes that row's picture or opens its document, or decodes one of its pages."""


class _Unwatched:
    def fetching(self, row: int) -> None:
        pass

    def decoding(self, row: int, page: int | None = None, page_count: int = 1) -> None:
        pass


UNWATCHED = _Unwatched()
"""Takes no notice."""


@dataclass(frozen=True)
class Load:
    """Fetch, decode and resize: pending rows become rows with pixels, one a picture or page.

    Attributes:
        fetcher: Gets the bytes.
        limits: Bounds on what is decoded.
        preprocess: The model's input.
        passthrough: The manifest's own columns.
        block_rows: Rows of one table that it yields.
    """

    fetcher: Fetcher
    limits: LimitsSection
    preprocess: Preprocess
    passthrough: pa.Schema
    block_rows: int

    @property
    def block_bytes(self) -> int:
        """Bytes of pixels in one full table."""
        return self.block_rows * math.prod(self.preprocess.shape)

    def __call__(self, pending: pa.Table, in_hand: InHand = UNWATCHED) -> Iterator[pa.Table]:
        """Yield tables of :func:`sodbatch.tables.loaded_schema`, all but the last of ``block_rows`` rows.

        Args:
            pending: Rows of :data:`sodbatch.tables.PENDING` and the passed-through columns.
            in_hand: Told what is about to be done.
        """
        block = _Block(self.block_rows, self.preprocess, pending.select(self.passthrough.names))
        rows = pending.select(PENDING.names).to_pylist()
        fetched = self.fetcher.fetch_all([row["source"] for row in rows])
        for index, row in enumerate(rows):
            started = time.perf_counter()
            in_hand.fetching(index)
            data = next(fetched)
            in_hand.decoding(index)
            fetch_seconds = time.perf_counter() - started
            file_bytes = None if isinstance(data, PictureError) else len(data)
            started = time.perf_counter()
            for page in self._pages(row, data, partial(in_hand.decoding, index)):
                block.add(index, row, page, file_bytes, fetch_seconds, started)
                fetch_seconds = 0.0
                if block.full:
                    yield block.table()
                started = time.perf_counter()
        if block.rows:
            yield block.table()

    def failed(self, row: pa.Table, page_index: int | None, page_count: int, error: PictureError) -> pa.Table:
        """Return what is yielded for one pending row when it, or one of its pages, cannot be loaded.

        Args:
            row: A table of one pending row.
            page_index: The page; None for a picture, or a document as a whole.
            page_count: Pages of the document.
            error: Why.
        """
        [values] = row.select(PENDING.names).to_pylist()
        page = FailedPage(page_index, page_count, error)
        pages = _all_failed(values, error) if page_index is None else [page]
        block = _Block(len(pages), self.preprocess, row.select(self.passthrough.names))
        for page in pages:
            block.add(0, values, page, None, 0.0, time.perf_counter())
        return block.table()

    def _pages(
        self, row: dict[str, Any], data: bytes | PictureError, on_page: Callable[[int, int], None]
    ) -> Iterator[Page | FailedPage]:
        if isinstance(data, PictureError):
            yield from _all_failed(row, data)
            return
        seen: set[int | None] = set()
        for page in decode_pages(data, self.limits, row["skip_pages"] or (), on_page):
            if isinstance(page, FailedPage) and page.page_index is None:
                yield from _all_failed(row, page.error)
                return
            seen.add(page.page_index)
            yield page
        gone = PictureError(ErrorClass.MISSING, "the document had this page when it was first read, and has it no more")
        yield from (
            page for page in _all_failed(row, gone) if page.page_index is not None and page.page_index not in seen
        )


def _all_failed(row: dict[str, Any], error: PictureError) -> list[FailedPage]:
    """Fail a pending row as a whole; of a document that an earlier run could open each missing page, so that none is
    lost."""
    count = row["page_count"] or 0
    missing = sorted(set(range(count)) - set(row["skip_pages"] or ()))
    return [FailedPage(index, count, error) for index in missing] or [FailedPage(None, 1, error)]


class _Block:
    """Rows of one table in the making, their pixels written straight into the buffer that Arrow takes over."""

    def __init__(self, capacity: int, preprocess: Preprocess, passed_through: pa.Table) -> None:
        self._capacity = capacity
        self._preprocess = preprocess
        self._passed_through = passed_through
        self._clear()

    def _clear(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._indices: list[int] = []
        self._pixels = np.empty((self._capacity, *self._preprocess.shape), np.uint8)
        self._with_pixels: list[bool] = []

    @property
    def full(self) -> bool:
        return len(self.rows) == self._capacity

    def add(
        self,
        index: int,
        row: dict[str, Any],
        page: Page | FailedPage,
        file_bytes: int | None,
        fetch_seconds: float,
        decode_started: float,
    ) -> None:
        """Append one page of the ``index``-th pending row; a picture that cannot be resized becomes a failed row."""
        self._indices.append(index)
        error = page.error if isinstance(page, FailedPage) else self._resize(page.image)
        height, width = page.image.shape[:2] if isinstance(page, Page) else (None, None)
        self._with_pixels.append(error is None)
        self.rows.append(
            row
            | {
                "image_id": image_id(row["input_id"], page.page_index),
                "page_index": page.page_index,
                "page_count": page.page_count,
                "width": width,
                "height": height,
                "file_bytes": file_bytes,
                "error_class": error.error_class.value if error else None,
                "error_message": error.message if error else None,
                "fetch_seconds": fetch_seconds,
                "decode_seconds": time.perf_counter() - decode_started,
            }
        )

    def _resize(self, image: np.ndarray) -> PictureError | None:
        try:
            resize(image, self._preprocess, out=self._pixels[sum(self._with_pixels)])
        except Exception as error:
            return PictureError(ErrorClass.DECODER_FAILURE, f"cannot be resized: {redact(str(error))}")
        return None

    def table(self) -> pa.Table:
        """Return the rows so far and start anew."""
        passed_through = self._passed_through.take(pa.array(self._indices, pa.int64()))
        schema = loaded_schema(passed_through.schema)
        made: dict[str, pa.Array | pa.ChunkedArray] = {
            field.name: pa.array([row[field.name] for row in self.rows], field.type)
            for field in schema
            if field.name != "pixels" and field.name not in passed_through.column_names
        }
        made["pixels"] = _pixel_column(self._pixels, np.array(self._with_pixels))
        made |= {name: passed_through[name] for name in passed_through.column_names}
        self._clear()
        return pa.table([made[name] for name in schema.names], schema=schema)


def _pixel_column(pixels: np.ndarray, valid: np.ndarray) -> pa.Array:
    """Wrap pixels [>= n valid, H, W, 3] as a large_binary column without a copy; rows not valid are null."""
    size = int(np.prod(pixels.shape[1:]))
    offsets = np.zeros(len(valid) + 1, np.int64)
    np.cumsum(valid * size, out=offsets[1:])
    mask = pa.py_buffer(np.packbits(valid, bitorder="little"))
    data = pa.py_buffer(pixels.reshape(-1)[: offsets[-1]])
    return pa.Array.from_buffers(pa.large_binary(), len(valid), [mask, pa.py_buffer(offsets), data])


def _pixels_of(column: pa.ChunkedArray, shape: tuple[int, int, int]) -> np.ndarray:
    """View the pixels of all valid rows as uint8 [n, H, W, 3]; no copy where the column is one chunk."""
    chunk = column.combine_chunks()
    if isinstance(chunk, pa.ChunkedArray):
        chunk = pa.concat_arrays(chunk.chunks)
    offsets = np.frombuffer(chunk.buffers()[1], np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
    data = np.frombuffer(chunk.buffers()[2] or b"", np.uint8)
    return data[offsets[0] : offsets[-1]].reshape(-1, *shape)


@dataclass(frozen=True)
class Infer:
    """Predict and apply the threshold: rows with pixels become rows with boxes.

    Attributes:
        predictor: The loaded detector.
        threshold: Scores that count, by class.
        labels: Label of each class id.
        keep_top_k: Boxes a picture at which the model cuts off.
        shape: Height, width and channels of the model input.
        passthrough: The manifest's own columns.
    """

    predictor: Predictor
    threshold: Threshold
    labels: tuple[str, ...]
    keep_top_k: int
    shape: tuple[int, int, int]
    passthrough: pa.Schema

    def __call__(self, loaded: pa.Table) -> pa.Table:
        """Return a table of :func:`sodbatch.tables.inferred_schema`, row by row that of the table given."""
        images = _pixels_of(loaded["pixels"], self.shape)
        valid = loaded["pixels"].is_valid().to_numpy()
        sizes = np.stack([loaded["height"].to_numpy()[valid], loaded["width"].to_numpy()[valid]], axis=1).astype(
            np.int32
        )
        started = time.perf_counter()
        found = iter(predict_each(self.predictor, images, sizes))
        results = [next(found) if ok else None for ok in valid]
        seconds = (time.perf_counter() - started) / max(1, len(images))
        return self._rows(loaded, results, seconds)

    def _rows(self, loaded: pa.Table, results: list[np.ndarray | PictureError | None], seconds: float) -> pa.Table:
        errors = list(zip(loaded["error_class"].to_pylist(), loaded["error_message"].to_pylist(), strict=True))
        pictures: list[Detections | None] = []
        sizes = zip(loaded["height"].to_pylist(), loaded["width"].to_pylist(), strict=True)
        for i, (result, (height, width)) in enumerate(zip(results, sizes, strict=True)):
            if isinstance(result, np.ndarray):
                pictures.append(select(result, self.threshold, height, width, self.keep_top_k))
            else:
                pictures.append(None)
                if isinstance(result, PictureError):
                    errors[i] = (result.error_class.value, result.message)
        made = {
            "status": pa.array([FAILED if picture is None else OK for picture in pictures]),
            "error_class": pa.array([error[0] for error in errors], pa.string()),
            "error_message": pa.array([error[1] for error in errors], pa.string()),
            "num_detections": pa.array([None if p is None else len(p.score) for p in pictures], pa.int32()),
            "capped": pa.array([None if p is None else p.capped for p in pictures], pa.bool_()),
            "detections": detections_array(
                [None if p is None else (p.cls_id, p.score, p.boxes) for p in pictures], self.labels
            ),
            "infer_seconds": pa.array([None if r is None else seconds for r in results], pa.float32()),
        }
        schema = inferred_schema(self.passthrough)
        columns = [made[field.name] if field.name in made else loaded[field.name] for field in schema]
        return pa.table(columns, schema=schema)


def predict_each(predictor: Predictor, images: np.ndarray, sizes: np.ndarray) -> list[np.ndarray | PictureError]:
    """Predict a batch; where that fails, halve it until the picture that is to blame stands alone.

    Args:
        predictor: The detector.
        images: uint8 RGB [n, H, W, 3].
        sizes: int32 [n, 2], height and width of each original picture.

    Returns:
        A picture each: float32 [k, 6] as the predictor gives it, or why it failed.
    """
    if len(images) == 0:
        return []
    try:
        return list(predictor.predict(images, sizes))
    except Exception as error:
        if len(images) == 1:
            message = f"{type(error).__name__}: {redact(' '.join(str(error).split()))[:500]}"
            return [PictureError(ErrorClass.PREDICTOR_FAILURE, message)]
        half = len(images) // 2
        return predict_each(predictor, images[:half], sizes[:half]) + predict_each(
            predictor, images[half:], sizes[half:]
        )
