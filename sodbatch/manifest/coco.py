"""Manifests in COCO's JSON format: ``images[].file_name``; id, width and height pass through as ``coco_*``.

Other keys of the first 1,000 images pass through under their own names, typed as in JSON lines.

The file is parsed as a stream: what comes before ``images`` is skipped value by value, what comes after is not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pyarrow as pa

from sodbatch.errors import UsageError
from sodbatch.json_stream import JsonStream
from sodbatch.manifest.json_values import fits, infer_type, scalar
from sodbatch.manifest.rows import FIRST_ROWS, Rows, choose_base, folder_of, join, passthrough_fields
from sodbatch.storage import Storage, display_uri

_OWN = {"file_name", "id", "width", "height"}
_COLUMNS = {"id": "coco_image_id", "width": "coco_width", "height": "coco_height"}


class CocoManifest:
    """The pictures of a COCO file, relative to its folder or to the folder ``../images`` beside that."""

    expected = "entries under images"

    def __init__(self, url: str, storage: Storage) -> None:
        self.name = display_uri(url)
        self._url = url
        self._storage = storage
        first = list(islice(self._images(), FIRST_ROWS))
        others = [name for name in dict.fromkeys(k for image in first for k in image) if name not in _OWN]
        types = {name: infer_type(self.name, name, [image.get(name) for image in first]) for name in others}
        self._keys = [*_COLUMNS, *others]
        fields = [pa.field(name, pa.int64()) for name in _COLUMNS.values()]
        fields += passthrough_fields([pa.field(*item) for item in types.items()], self.name)
        self.passthrough = pa.schema(fields)
        folder = folder_of(url)
        paths = [image.get("file_name") for image in first]
        self._rows = Rows(self.name, choose_base([folder, join(folder, "../images")], paths, storage))

    def tables(self, rows: int) -> Iterator[pa.Table]:
        """Stream the entries of ``images``."""
        images = self._images()
        start = 0
        while chunk := list(islice(images, rows)):
            try:
                paths = pa.array([image.get("file_name") for image in chunk], pa.string())
                values = [self._column(key, chunk, field.type) for key, field in zip(self._keys, self.passthrough)]
            except (pa.ArrowException, OverflowError, TypeError, UnicodeError) as error:
                raise UsageError(
                    f"{self.name}: expected images with file_name as text, id, width, height as integers and other "
                    f"keys as in the first {FIRST_ROWS:,}; "
                    f"among images {start} to {start + len(chunk) - 1}: {error}"
                ) from error
            yield self._rows.table(paths, start, list(zip(self.passthrough, values)))
            start += len(chunk)

    def count_hint(self) -> int | None:
        """Return None: entries are not counted ahead."""
        return None

    @staticmethod
    def _column(key: str, images: list[dict[str, Any]], kind: pa.DataType) -> pa.Array:
        values = [scalar(image.get(key)) for image in images]
        if key in _COLUMNS:  # some tools write 640.0
            values = [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]
        if not fits(values, kind):
            raise TypeError(f"{key} is not {kind} in all of them")
        return pa.array(values, kind)

    def _images(self) -> Iterator[dict[str, Any]]:
        with self._storage.open(self._url) as file:
            text = JsonStream(file)
            try:
                yield from text.array_of("images")
            except (ValueError, RecursionError) as error:
                raise UsageError(
                    f'{self.name}: expected a COCO file, an object with a list "images" of objects: {error}; '
                    "for a list of paths use .txt, .csv, .jsonl or .parquet"
                ) from error
