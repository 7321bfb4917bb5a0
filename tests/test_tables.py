from __future__ import annotations

import io

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from sodbatch.tables import (
    detections_array,
    detections_schema,
    explode_detections,
    images_schema,
    to_parquet,
)

LABELS = ("a", "b", "c")
pictures = st.lists(st.none() | st.lists(st.integers(0, 2), max_size=4), min_size=1, max_size=6)


def images_of(classes: list[list[int] | None]) -> pa.Table:
    arrays = [
        None
        if ids is None
        else (np.array(ids), np.linspace(0.5, 0.9, len(ids)), np.arange(4 * len(ids)).reshape(-1, 4))
        for ids in classes
    ]
    names = [f"id{i}" for i in range(len(classes))]
    return pa.table(
        {
            "image_id": names,
            "uri": names,
            "page_index": pa.nulls(len(classes), pa.int32()),
            "detections": detections_array(arrays, LABELS),
        }
    )


@given(pictures)
def test_boxes_are_listed_by_picture_and_exploded_in_order(classes: list[list[int] | None]) -> None:
    images = images_of(classes)
    lists = images["detections"].to_pylist()
    assert [None if x is None else [box["cls_id"] for box in x] for x in lists] == classes
    assert all(box["label"] == LABELS[box["cls_id"]] for boxes in lists for box in boxes or ())

    rows = explode_detections(images).to_pylist()
    expected = [(f"id{i}", k, box) for i, ids in enumerate(classes) for k, box in enumerate(ids or ())]
    assert [(row["image_id"], row["detection_index"], row["cls_id"]) for row in rows] == expected


def test_a_slice_explodes_to_its_own_boxes() -> None:
    rows = explode_detections(images_of([[0, 1], None, [], [2]]).slice(1)).to_pylist()
    assert [(row["image_id"], row["detection_index"], row["cls_id"]) for row in rows] == [("id3", 0, 2)]


def test_every_column_says_what_it_is_and_coordinates_their_unit() -> None:
    for schema in (images_schema(pa.schema([])), detections_schema()):
        assert all(field.metadata[b"doc"] for field in schema)
    assert detections_schema().field("xmin").metadata[b"unit"] == b"px of the original picture"
    assert images_schema(pa.schema([])).field("file_bytes").metadata[b"unit"] == b"bytes"


def test_an_empty_part_keeps_its_schema_and_another_reader_reads_it(tmp_path) -> None:  # type: ignore[no-untyped-def]
    schema = images_schema(pa.schema([("city", pa.string())]))
    data = to_parquet(schema.empty_table())
    assert pq.read_table(io.BytesIO(data)).schema.equals(schema, check_metadata=False)
    assert pq.ParquetFile(io.BytesIO(data)).schema_arrow.field("width").metadata[b"unit"] == b"px"
    (tmp_path / "part.parquet").write_bytes(data)
    described = duckdb.sql(f"describe select * from '{tmp_path}/part.parquet'").fetchall()
    types = {row[0]: row[1] for row in described}
    assert types["detections"].startswith("STRUCT(cls_id INTEGER") and types["detections"].endswith("[]")
    assert types["created_at"] == "TIMESTAMP WITH TIME ZONE"
