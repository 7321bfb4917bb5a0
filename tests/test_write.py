from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from fakes import inferred_rows

from sodbatch.ids import digest
from sodbatch.storage import Storage
from sodbatch.write import Run, Write, partition_folder

IDS = [digest(str(i)) for i in range(4)]


def run(attempt: int = 1, fingerprint: str = "f") -> Run:
    return Run("run-1", attempt, fingerprint, "model", "sha")


def write(output: Path, passthrough: pa.Schema | None = None, **changes: object) -> Write:
    options = {"run": run(), "passthrough": passthrough or pa.schema([])} | changes
    return Write(str(output), Storage(), **options)  # type: ignore[arg-type]


def test_a_part_of_each_table_is_published_under_the_same_name(tmp_path: Path) -> None:
    written = write(tmp_path)(inferred_rows(IDS, boxes=2))
    assert (written.pictures, written.failed) == (4, 0)
    [images], [detections] = tmp_path.glob("images/*"), tmp_path.glob("detections/*")
    assert images.name == detections.name
    assert pq.read_table(images)["num_detections"].to_pylist() == [2] * 4
    assert len(pq.read_table(detections)) == 8


def test_a_retried_write_lands_on_itself_whatever_the_order_of_its_rows(tmp_path: Path) -> None:
    rows = inferred_rows(IDS)
    write(tmp_path)(rows)
    write(tmp_path, run=run(attempt=2))(rows.take([3, 1, 0, 2]))
    assert len(list(tmp_path.glob("images/*"))) == len(list(tmp_path.glob("detections/*"))) == 1


def test_failed_pictures_are_rows_with_null_results_and_an_empty_detections_part(tmp_path: Path) -> None:
    written = write(tmp_path)(inferred_rows(IDS, failed=True))
    assert (written.pictures, written.failed) == (4, 4)
    [row, *_] = pq.read_table(next(tmp_path.glob("images/*"))).to_pylist()
    assert (row["status"], row["error_class"], row["detections"], row["num_detections"]) == (
        "failed",
        "missing",
        None,
        None,
    )
    assert len(pq.read_table(next(tmp_path.glob("detections/*")))) == 0


def test_the_source_that_may_carry_a_secret_is_in_no_table(tmp_path: Path) -> None:
    write(tmp_path)(inferred_rows(IDS, source=["https://x/a.jpg?X-Amz-Signature=SECRET"] * 4))
    for part in tmp_path.rglob("*.parquet"):
        assert b"SECRET" not in part.read_bytes()
        assert "source" not in pq.read_schema(part).names


def test_a_manifest_column_becomes_a_hive_partition_that_other_readers_see(tmp_path: Path) -> None:
    passthrough = pa.schema([("city", pa.string()), ("altitude", pa.float64())])
    cities = ["Aix / Nord", "Bonn", None, "Bonn"]
    rows = inferred_rows(IDS, passthrough=passthrough, city=cities, altitude=[1.5, 2.5, None, 4.5])
    write(tmp_path, passthrough, partition_by="city")(rows)
    found = duckdb.sql(
        f"select image_id, city, altitude from read_parquet('{tmp_path}/images/**/*.parquet', hive_partitioning=true)"
    ).fetchall()
    assert sorted(found) == sorted(zip(IDS, cities, [1.5, 2.5, None, 4.5], strict=True))
    read = ds.dataset(tmp_path / "images", partitioning="hive").to_table(["image_id", "city"]).to_pylist()
    assert {row["image_id"]: row["city"] for row in read} == dict(zip(IDS, cities, strict=True))


def test_every_row_lands_in_exactly_one_partition(tmp_path: Path) -> None:
    passthrough = pa.schema([("c", pa.string())])
    write(tmp_path, passthrough, partition_by="c")(inferred_rows(IDS, passthrough=passthrough, c=["", None, "1", "1"]))
    parts = [pq.read_table(part)["image_id"].to_pylist() for part in tmp_path.glob("images/*/*.parquet")]
    assert sorted(x for ids in parts for x in ids) == sorted(IDS) and len(parts) == 2


@pytest.mark.parametrize(
    ("value", "folder"),
    [
        (None, "c=__HIVE_DEFAULT_PARTITION__"),
        ("../x", "c=..%2Fx"),
        ("", "c=__HIVE_DEFAULT_PARTITION__"),
        ("ä b", "c=%C3%A4%20b"),
    ],
)
def test_a_partition_value_cannot_leave_its_folder(value: str | None, folder: str) -> None:
    assert partition_folder("c", value) == folder


def test_companions_come_before_the_commit(tmp_path: Path) -> None:
    seen: list[int] = []

    def companion(rows: pa.Table) -> list[str]:
        seen.append(len(list(tmp_path.glob("images/*"))))
        return ["a note"]

    assert write(tmp_path, companions=(companion,))(inferred_rows(IDS)).notes == ("a note",)
    assert seen == [0]
