from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from fakes import LABELS, NO_COLUMNS, MeanPredictor, pending_rows, preprocess
from PIL import Image

from sodbatch.config import FetchSection, LimitsSection
from sodbatch.errors import ErrorClass, PictureError
from sodbatch.fetch import Fetcher
from sodbatch.ids import digest, image_id
from sodbatch.preprocess import Preprocess
from sodbatch.stages import Infer, Load, pictures_per_block, predict_each
from sodbatch.storage import Storage
from sodbatch.tables import inferred_schema, loaded_schema
from sodbatch.threshold import resolve_threshold

SIDE = 32


def load(passthrough: pa.Schema = NO_COLUMNS) -> Load:
    return Load(Fetcher(Storage(), FetchSection(), LimitsSection()), LimitsSection(), preprocess(SIDE), passthrough, 64)


def infer(threshold: float = 0.1, passthrough: pa.Schema = NO_COLUMNS) -> Infer:
    return Infer(MeanPredictor(), resolve_threshold(threshold, 0.5, 2), LABELS, 500, (SIDE, SIDE, 3), passthrough)


def picture(folder: Path, name: str, value: int, size: tuple[int, int] = (48, 64)) -> str:
    path = folder / name
    cv2.imwrite(str(path), np.full((*size, 3), value, np.uint8))
    return str(path)


def tiff(folder: Path, values: list[int]) -> str:
    first, *others = [Image.new("RGB", (40, 30), (value,) * 3) for value in values]
    data = io.BytesIO()
    first.save(data, "TIFF", save_all=True, append_images=others)
    (folder / "pages.tif").write_bytes(data.getvalue())
    return str(folder / "pages.tif")


def run(sources: list[str], **columns: list[object]) -> list[dict[str, object]]:
    """Load and infer in one go; rows in order."""
    pending = pending_rows(sources, **columns)
    passthrough = pa.schema(list(pending.schema)[5:])
    tables = [infer(passthrough=passthrough)(loaded) for loaded in load(passthrough)(pending)]
    assert all(table.schema.equals(inferred_schema(passthrough)) for table in tables)
    return pa.concat_tables(tables).to_pylist()


def test_every_picture_is_one_row_with_its_own_pixels(tmp_path: Path) -> None:
    sources = [picture(tmp_path, f"{value}.png", value) for value in (50, 100, 200)]
    rows = run(sources)
    assert [row["uri"] for row in rows] == sources
    assert [round(row["detections"][0]["score"] * 255) for row in rows] == [50, 100, 200]
    assert [(row["width"], row["height"]) for row in rows] == [(64, 48)] * 3
    assert [row["file_bytes"] for row in rows] == [Path(source).stat().st_size for source in sources]
    assert rows[0]["detections"][0] | {"score": 0} == {
        "cls_id": 1, "label": "car", "score": 0, "xmin": 0, "ymin": 0, "xmax": 64, "ymax": 48,
    }  # fmt: skip


def test_a_failed_picture_is_a_row_in_its_place_and_costs_its_neighbours_nothing(tmp_path: Path) -> None:
    text, empty = tmp_path / "text.jpg", tmp_path / "empty.jpg"
    text.write_text("hello, I am no picture")
    empty.touch()
    good = [picture(tmp_path, "a.png", 50), picture(tmp_path, "b.png", 100)]
    rows = run([good[0], str(text), str(empty), str(tmp_path / "gone.jpg"), good[1]])
    assert [row["status"] for row in rows] == ["ok", "failed", "failed", "failed", "ok"]
    assert [row["error_class"] for row in rows] == [None, "not_an_image", "empty", "missing", None]
    assert all(row["error_message"] for row in rows[1:4])
    assert [row["detections"] for row in rows[1:4]] == [None] * 3
    assert round(rows[4]["detections"][0]["score"] * 255) == 100


def test_columns_of_the_manifest_pass_through(tmp_path: Path) -> None:
    sources = [picture(tmp_path, "a.png", 50), str(tmp_path / "gone.png")]
    rows = run(sources, city=["Bonn", "Aix"], altitude=[10.5, None])
    assert [(row["city"], row["altitude"]) for row in rows] == [("Bonn", 10.5), ("Aix", None)]


def test_values_of_the_manifest_that_python_cannot_hold_pass_through(tmp_path: Path) -> None:
    far = pa.array([253_402_300_800_000_000], pa.timestamp("us"))
    nanoseconds = pa.array([1], pa.time64("ns"))
    pending = pending_rows([picture(tmp_path, "a.png", 50)])
    pending = pending.append_column("valid_to", far).append_column("taken", nanoseconds)
    passthrough = pa.schema(list(pending.schema)[5:])
    [loaded] = load(passthrough)(pending)
    row = infer(passthrough=passthrough)(loaded)
    assert row["valid_to"].cast(pa.int64()).to_pylist() == [253_402_300_800_000_000]
    assert row["taken"].cast(pa.int64()).to_pylist() == [1]


def test_pages_are_rows_of_their_own_and_committed_ones_are_skipped(tmp_path: Path) -> None:
    source = tiff(tmp_path, [50, 100, 200])
    rows = run([source])
    assert [row["page_index"] for row in rows] == [0, 1, 2]
    assert {row["page_count"] for row in rows} == {3}
    assert [row["image_id"] for row in rows] == [image_id(digest(source), page) for page in range(3)]

    pending = pending_rows([source])
    pending = pending.set_column(3, pending.schema.field(3), pa.array([3], pa.int32()))
    pending = pending.set_column(4, pending.schema.field(4), pa.array([[0, 2]], pa.list_(pa.int32())))
    [loaded] = load()(pending)
    assert loaded["page_index"].to_pylist() == [1]


def test_missing_pages_of_a_document_that_cannot_be_opened_any_more_fail_one_by_one(tmp_path: Path) -> None:
    pending = pending_rows([str(tmp_path / "gone.tif")])
    pending = pending.set_column(3, pending.schema.field(3), pa.array([4], pa.int32()))
    pending = pending.set_column(4, pending.schema.field(4), pa.array([[0, 2]], pa.list_(pa.int32())))
    [loaded] = load()(pending)
    assert loaded["page_index"].to_pylist() == [1, 3]
    assert loaded["error_class"].to_pylist() == ["missing"] * 2


def test_pages_that_a_document_has_lost_since_it_was_first_read_are_failed_rows(tmp_path: Path) -> None:
    pending = pending_rows([tiff(tmp_path, [50, 100, 200])])
    pending = pending.set_column(3, pending.schema.field(3), pa.array([5], pa.int32()))
    pending = pending.set_column(4, pending.schema.field(4), pa.array([[0, 1]], pa.list_(pa.int32())))
    loaded = pa.concat_tables(load()(pending))
    assert loaded["page_index"].to_pylist() == [2, 3, 4]
    assert loaded["error_class"].to_pylist() == [None, "missing", "missing"]


def test_a_long_document_is_loaded_in_blocks(tmp_path: Path) -> None:
    pages = tiff(tmp_path, [9] * 8)
    small = replace(load(), block_rows=6)
    tables = list(small(pending_rows([pages, picture(tmp_path, "a.png", 1)])))
    assert [len(table) for table in tables] == [6, 3]
    assert all(table.schema.equals(loaded_schema(NO_COLUMNS)) for table in tables)


def test_blocks_hold_fewer_pictures_the_larger_they_are() -> None:
    assert pictures_per_block(Preprocess(640, 640)) == 54
    assert pictures_per_block(Preprocess(1920, 1920)) == 6
    assert pictures_per_block(Preprocess(320, 320)) == 64


def test_pixels_survive_slicing_and_concatenation(tmp_path: Path) -> None:
    sources = [picture(tmp_path, f"{value}.png", value) for value in (50, 100, 150, 200)]
    [loaded] = load()(pending_rows([*sources[:2], str(tmp_path / "gone.png"), *sources[2:]]))
    shuffled = pa.concat_tables([loaded.slice(3), loaded.slice(1, 2)])
    scores = [
        None if boxes is None else round(boxes[0]["score"] * 255)
        for boxes in infer()(shuffled)["detections"].to_pylist()
    ]
    assert scores == [150, 200, 100, None]


def test_a_predictor_failure_is_bisected_to_the_picture(tmp_path: Path) -> None:
    values = [50, 255, 100, 150, 255]
    rows = run([picture(tmp_path, f"{i}.png", value) for i, value in enumerate(values)])
    assert [row["status"] for row in rows] == ["ok", "failed", "ok", "ok", "failed"]
    assert {row["error_class"] for row in rows if row["status"] == "failed"} == {"predictor_failure"}
    assert "a white picture" in rows[1]["error_message"]


@pytest.mark.parametrize("bad", [set(), {0}, {6}, {1, 2, 5}, set(range(7))])
def test_bisecting_finds_exactly_the_pictures_to_blame(bad: set[int]) -> None:
    images = np.stack([np.full((2, 2, 3), 255 if i in bad else i, np.uint8) for i in range(7)])
    results = predict_each(MeanPredictor(), images, np.full((7, 2), 2, np.int32))
    assert {i for i, result in enumerate(results) if isinstance(result, PictureError)} == bad
    assert all(r.error_class is ErrorClass.PREDICTOR_FAILURE for r in results if isinstance(r, PictureError))
    assert [round(float(r[0, 1]) * 255) for r in results if isinstance(r, np.ndarray)] == sorted(set(range(7)) - bad)
