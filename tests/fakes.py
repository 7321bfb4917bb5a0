"""Stand-ins for the costly parts: a predictor that needs no model, rows that need no pictures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from sodbatch.ids import digest
from sodbatch.preprocess import Preprocess, parse_preprocess
from sodbatch.tables import PENDING, detections_array, inferred_schema

LABELS = ("pedestrian", "car")
NO_COLUMNS = pa.schema([])


def preprocess(side: int = 32) -> Preprocess:
    steps = [
        {"type": "Resize", "target_size": [side, side], "keep_ratio": False, "interp": 2},
        {"type": "NormalizeImage", "norm_type": "none", "mean": [0, 0, 0], "std": [1, 1, 1]},
        {"type": "Permute"},
    ]
    return parse_preprocess(steps)


class MeanPredictor:
    """Gives each picture one box whose score is its mean brightness; refuses pictures that are all 255."""

    name = "mean"

    def predict(self, images: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
        if any((image == 255).all() for image in images):
            raise RuntimeError("a white picture")
        return [
            np.array([[1, image.mean() / 255, 0, 0, width, height]], np.float32)
            for image, (height, width) in zip(images, sizes, strict=True)
        ]


class ListManifest:
    """A manifest of the given sources, in tables of two rows; ``columns`` pass through."""

    def __init__(self, sources: list[str], etags: list[str | None] | None = None, **columns: list[object]) -> None:
        self._rows = pa.table(
            {
                "source": pa.array(sources, pa.string()),
                "uri": pa.array([source.split("?")[0] for source in sources], pa.string()),
                "etag": pa.array(etags or [None] * len(sources), pa.string()),
                **columns,
            }
        )
        self.passthrough = pa.schema(list(self._rows.schema)[3:])

    def tables(self, rows: int = 2) -> Iterator[pa.Table]:
        for start in range(0, len(self._rows), rows):
            yield self._rows.slice(start, rows)

    def count_hint(self) -> int:
        return len(self._rows)


def pending_rows(sources: list[str], **columns: list[object]) -> pa.Table:
    """Pending rows of inputs without pages."""
    none = [None] * len(sources)
    fixed = [sources, sources, [digest(source) for source in sources], none, none]
    arrays = [pa.array(values, field.type) for values, field in zip(fixed, PENDING, strict=True)]
    table = pa.table(arrays, schema=PENDING)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    return table


def inferred_rows(
    ids: list[str],
    *,
    boxes: int = 1,
    failed: bool = False,
    page_count: int = 1,
    pages: list[int | None] | None = None,
    input_id: str | None = None,
    passthrough: pa.Schema = NO_COLUMNS,
    **columns: list[object],
) -> pa.Table:
    """Rows as Infer gives them: each with ``boxes`` boxes, or failed as missing."""
    one = (np.ones(boxes, np.int32), np.full(boxes, 0.75, np.float32), np.tile([1.0, 2, 3, 4], (boxes, 1)))
    count = len(ids)
    made = {
        "source": ids,
        "image_id": ids,
        "input_id": [input_id] * count if input_id else ids,
        "uri": [f"/data/{x[:8]}.jpg" for x in ids],
        "page_index": pages or [None] * count,
        "page_count": [page_count] * count,
        "status": ["failed" if failed else "ok"] * count,
        "error_class": ["missing" if failed else None] * count,
        "error_message": ["no such file" if failed else None] * count,
        "width": [None if failed else 640] * count,
        "height": [None if failed else 480] * count,
        "file_bytes": [None if failed else 1000] * count,
        "num_detections": [None if failed else boxes] * count,
        "capped": [None if failed else False] * count,
        "fetch_seconds": [0.25] * count,
        "decode_seconds": [0.5] * count,
        "infer_seconds": [1.0] * count,
        **columns,
    }
    schema = inferred_schema(passthrough)
    detections = detections_array([None if failed else one] * count, LABELS)
    arrays = [detections if f.name == "detections" else pa.array(made[f.name], f.type) for f in schema]
    return pa.table(arrays, schema=schema)
