from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from fakes import inferred_rows
from fixtures_lease import FIELDS, claim

from sodbatch.errors import RunEndedError
from sodbatch.ids import digest
from sodbatch.storage import Storage
from sodbatch.write import Write, partition_folder

IDS = [digest(str(i)) for i in range(4)]


def write(output: Path, passthrough: pa.Schema | None = None, attempt: int = 1, **changes: object) -> Write:
    run = claim(output, attempt)
    return Write(str(output), Storage(), run, passthrough or pa.schema([]), **changes)  # type: ignore[arg-type]


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
    write(tmp_path, attempt=2)(rows.take([3, 1, 0, 2]))
    assert len(list(tmp_path.glob("images/*"))) == len(list(tmp_path.glob("detections/*"))) == 1


def test_failed_pictures_are_rows_with_null_results_and_an_empty_detections_part(tmp_path: Path) -> None:
    written = write(tmp_path)(inferred_rows(IDS, failed=True))
    assert (written.pictures, written.failed) == (4, 4)
    assert written.errors == {"missing": (4, f"/data/{IDS[0][:8]}.jpg: no such file")}
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


@pytest.mark.parametrize(
    ("attempt", "run_id", "fields"), [(2, "a", FIELDS), (1, "s", FIELDS), (1, "a", {"threshold": 0.9})]
)
def test_a_writer_of_a_run_that_has_lost_the_output_changes_nothing(
    tmp_path: Path, attempt: int, run_id: str, fields: dict[str, object]
) -> None:
    late = write(tmp_path)
    late(inferred_rows(IDS[:2]))
    claim(tmp_path, attempt, run_id, fields)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RunEndedError, match="another run has taken it over"):
        late(inferred_rows(IDS[2:]))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_writer_that_loses_the_output_while_it_writes_does_not_commit(tmp_path: Path) -> None:
    class Overtaken(Storage):
        def write_atomic(self, url: str, data: bytes) -> None:
            super().write_atomic(url, data)
            claim(tmp_path, attempt=2)

    late = Write(str(tmp_path), Overtaken(), claim(tmp_path), pa.schema([]))
    with pytest.raises(RunEndedError, match="taken it over"):
        late(inferred_rows(IDS))
    assert not (tmp_path / "images").exists()


def test_of_two_runs_that_began_at_once_the_greater_id_writes_whoevers_record_came_last(tmp_path: Path) -> None:
    greater = write(tmp_path)
    claim(tmp_path, run_id="aaa")
    assert greater(inferred_rows(IDS)).pictures == 4


def test_a_writer_without_a_record_changes_nothing(tmp_path: Path) -> None:
    late = write(tmp_path)
    (tmp_path / "run.json").unlink()
    with pytest.raises(RunEndedError, match=r"run\.json has gone"):
        late(inferred_rows(IDS))
    assert list(tmp_path.iterdir()) == []


def test_companions_come_before_the_commit(tmp_path: Path) -> None:
    seen: list[int] = []

    def companion(rows: pa.Table) -> list[str]:
        seen.append(len(list(tmp_path.glob("images/*"))))
        return ["a note"]

    assert write(tmp_path, companions=(companion,))(inferred_rows(IDS)).notes == ("a note",)
    assert seen == [0]
