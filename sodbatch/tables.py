"""The two tables: their schemas, and how rows become Arrow.

``images`` has one row a picture (or page), ``detections`` one row a box. Field metadata says units and ranges,
so that ``pyarrow.parquet.read_schema`` tells what a column means.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SCHEMA_VERSION = 1
"""Part of every run's fingerprint: raise it when a change of code changes what a row says."""

OK, FAILED = "ok", "failed"


def _field(name: str, kind: pa.DataType, doc: str, unit: str = "", nullable: bool = True) -> pa.Field:
    metadata = {"doc": doc} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, nullable, metadata)


DETECTION = pa.struct(
    [
        _field("cls_id", pa.int32(), "class id, counted from 0"),
        _field("label", pa.string(), "class label"),
        _field("score", pa.float32(), "confidence, over the threshold and at most 1"),
        _field("xmin", pa.float32(), "left edge", "px of the original picture"),
        _field("ymin", pa.float32(), "top edge", "px of the original picture"),
        _field("xmax", pa.float32(), "right edge", "px of the original picture"),
        _field("ymax", pa.float32(), "bottom edge", "px of the original picture"),
    ]
)
DETECTIONS = pa.list_(DETECTION)

_IDENTITY = [
    _field("image_id", pa.string(), "id of the picture, from its path and page", nullable=False),
    _field("input_id", pa.string(), "id of its input: equals image_id unless it is a page", nullable=False),
    _field("uri", pa.string(), "where the picture lies, without credentials or query", nullable=False),
    _field("page_index", pa.int32(), "page of a TIFF or PDF, counted from 0; null otherwise"),
    _field("page_count", pa.int32(), "pages of the input; 1 where it has none"),
]
_DECODED = [
    _field("width", pa.int32(), "width of the picture as decoded", "px"),
    _field("height", pa.int32(), "height of the picture as decoded", "px"),
    _field("file_bytes", pa.int64(), "size of the fetched input", "bytes"),
]
_ERROR = [
    _field("error_class", pa.string(), "why the picture failed, one of a closed set; null when ok"),
    _field("error_message", pa.string(), "the reason in words; null when ok"),
]
_STATUS = [_field("status", pa.string(), "ok or failed", nullable=False)]
_RESULT = [
    _field("num_detections", pa.int32(), "boxes over the threshold; null when failed"),
    _field("capped", pa.bool_(), "the model's keep_top_k was reached, so there may be more boxes; null when failed"),
    _field("detections", DETECTIONS, "the boxes, as the model orders them; null when failed"),
]
_RUN = [
    _field("model_name", pa.string(), "name of the model", nullable=False),
    _field("model_fingerprint", pa.string(), "SHA-256 over the model's files", nullable=False),
    _field("run_id", pa.string(), "id of the run that wrote the row", nullable=False),
    _field("attempt", pa.int32(), "which run on this output, from 1; a later one supersedes", nullable=False),
    _field("created_at", pa.timestamp("us", "UTC"), "when the row was written, by the worker's clock", nullable=False),
]
_TIMES = [
    _field("fetch_seconds", pa.float32(), "time to fetch", "s"),
    _field("decode_seconds", pa.float32(), "time to decode and resize", "s"),
    _field("infer_seconds", pa.float32(), "share of its batch's time in the predictor", "s"),
]
TIMED_STAGES = ("fetch", "decode", "infer", "write")
"""Stages whose seconds, summed over the rows of a part, its metadata carries."""

PENDING = pa.schema(
    [
        _field(
            "source", pa.string(), "what is fetched; may carry a secret, so it never reaches a table", nullable=False
        ),
        _field("uri", pa.string(), "the same without credentials or query", nullable=False),
        _field("input_id", pa.string(), "id of the input", nullable=False),
        _field("page_count", pa.int32(), "pages of the input, where an earlier run has seen them"),
        _field("skip_pages", pa.list_(pa.int32()), "pages that are committed already"),
    ]
)
"""What an engine is fed with, before the columns that pass through."""


def loaded_schema(passthrough: pa.Schema) -> pa.Schema:
    """Return the schema between Load and Infer: pixels are the uint8 RGB model input, null when failed."""
    pixels = pa.field("pixels", pa.large_binary())
    fields = [PENDING.field("source"), *_IDENTITY, *_DECODED, *_ERROR, *_TIMES[:2], pixels, *passthrough]
    return pa.schema(fields)


def inferred_schema(passthrough: pa.Schema) -> pa.Schema:
    """Return the schema between Infer and Write: all of a row but who wrote it."""
    fields = [PENDING.field("source"), *_IDENTITY, *_STATUS, *_ERROR, *_DECODED, *_RESULT, *_TIMES, *passthrough]
    return pa.schema(fields)


def images_schema(passthrough: pa.Schema) -> pa.Schema:
    """Return the schema of ``OUT/images``: the fixed columns, then those of the manifest."""
    return pa.schema([*_IDENTITY, *_STATUS, *_ERROR, *_DECODED, *_RESULT, *_RUN, *passthrough])


def detections_schema() -> pa.Schema:
    """Return the schema of ``OUT/detections``: one row a box, joined to its picture by ``image_id``."""
    index = _field("detection_index", pa.int32(), "position in the picture's list of boxes, from 0", nullable=False)
    return pa.schema([_IDENTITY[0], *_IDENTITY[2:4], index, *DETECTION])


RESERVED_COLUMNS = frozenset(
    name
    for schema in (PENDING, loaded_schema(pa.schema([])), inferred_schema(pa.schema([])), images_schema(pa.schema([])))
    for name in schema.names
) | {"etag", "detection_index"}
"""Names that a manifest's column may not have; such a column is renamed ``manifest_<name>``."""


def detections_array(
    per_picture: list[tuple[np.ndarray, np.ndarray, np.ndarray] | None], labels: tuple[str, ...]
) -> pa.Array:
    """Build the list column of boxes.

    Args:
        per_picture: A picture each: class ids int32 [n], scores float32 [n], boxes float32 [n, 4]; None when failed.
        labels: Label of each class id.
    """
    counts = np.array([0 if picture is None else len(picture[0]) for picture in per_picture], dtype=np.int32)
    found = [picture for picture in per_picture if picture is not None]
    cls_id = np.concatenate([np.empty(0, np.int32), *(picture[0] for picture in found)]).astype(np.int32)
    score = np.concatenate([np.empty(0, np.float32), *(picture[1] for picture in found)]).astype(np.float32)
    boxes = np.concatenate([np.empty((0, 4), np.float32), *(picture[2] for picture in found)]).astype(np.float32)
    label = pa.DictionaryArray.from_arrays(pa.array(cls_id), pa.array(labels, pa.string())).cast(pa.string())
    columns = [
        pa.array(cls_id),
        label,
        pa.array(score),
        *(pa.array(np.ascontiguousarray(boxes[:, i])) for i in range(4)),
    ]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    failed = np.array([picture is None for picture in per_picture])
    values = pa.StructArray.from_arrays(columns, fields=list(DETECTION))
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=DETECTIONS, mask=pa.array(failed))


def explode_detections(images: pa.Table) -> pa.Table:
    """Turn rows of ``images`` into rows of ``detections``; pictures without boxes give none."""
    lists = images["detections"].combine_chunks()
    parents = pc.list_parent_indices(lists)
    boxes = pc.list_flatten(lists)
    starts = np.zeros(len(images) + 1, dtype=np.int64)
    np.cumsum(pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False), out=starts[1:])
    owner = parents.to_numpy(zero_copy_only=False)
    index = np.arange(len(boxes)) - starts[owner]
    schema = detections_schema()
    columns = {name: images[name].take(parents) for name in ("image_id", "uri", "page_index")}
    columns["detection_index"] = pa.array(index, pa.int32())
    columns |= {field.name: pc.struct_field(boxes, field.name) for field in DETECTION}
    return pa.table([columns[name] for name in schema.names], schema=schema)


def to_parquet(rows: pa.Table) -> bytes:
    """Serialise a table as one Parquet file, zstd-compressed, with the metadata of its schema."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    return sink.getvalue().to_pybytes()
