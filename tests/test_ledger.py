from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import inferred_rows
from fixtures_lease import FIELDS, claim

from sodbatch.errors import JobError, RunEndedError
from sodbatch.ids import digest, image_id
from sodbatch.ledger import read_ledger, settle
from sodbatch.record import fingerprint_id
from sodbatch.storage import Storage
from sodbatch.summary import count
from sodbatch.write import Write

A, B, C, D = (digest(name) for name in "abcd")


FINGERPRINT = fingerprint_id(FIELDS)


def commit(output: Path, rows: pa.Table, attempt: int = 1) -> None:
    Write(str(output), Storage(), claim(output, attempt), pa.schema([]))(rows)


def settled(output: Path) -> int:
    return settle(str(output), FINGERPRINT, lambda: None, Storage())


def images(output: Path) -> dict[str, dict[str, object]]:
    rows = [row for part in output.glob("images/*") for row in pq.read_table(part).to_pylist()]
    by_id = {row["image_id"]: row for row in rows}
    assert len(by_id) == len(rows)
    return by_id


def boxes(output: Path) -> list[str]:
    parts = output.glob("detections/*")
    return sorted(row["image_id"] for part in parts for row in pq.read_table(part).to_pylist())


def done(output: Path, ids: list[str], **options: int) -> list[bool]:
    return read_ledger(str(output), FINGERPRINT, Storage(), **options).done.contains(pa.array(ids)).tolist()


def test_what_is_committed_is_done_and_nothing_else(tmp_path: Path) -> None:
    assert done(tmp_path, [A, B]) == [False, False]
    commit(tmp_path, inferred_rows([A]))
    assert done(tmp_path, [A, B]) == [True, False]


def test_a_part_in_the_making_is_not_committed(tmp_path: Path) -> None:
    commit(tmp_path, inferred_rows([A]))
    (tmp_path / "images" / ".part-0.parquet.tmp").write_bytes(b"half a par")
    (tmp_path / "images" / "readme.txt").write_text("not a part")
    assert done(tmp_path, [A]) == [True]


def test_files_of_others_are_neither_read_nor_deleted(tmp_path: Path) -> None:
    commit(tmp_path, inferred_rows([A]))
    for table in ("images", "detections"):
        (tmp_path / table / "part-00000-of-spark.parquet").write_bytes(b"theirs")
    settled(tmp_path)
    assert done(tmp_path, [A]) == [True]
    assert len(list(tmp_path.rglob("part-00000-of-spark.parquet"))) == 2


def test_failed_pictures_are_done_unless_they_are_to_be_retried(tmp_path: Path) -> None:
    commit(tmp_path, inferred_rows([A], failed=True))
    commit(tmp_path, inferred_rows([B]))
    assert done(tmp_path, [A, B]) == [True, True]
    assert done(tmp_path, [A, B], redo_failed_before=2) == [False, True]
    assert done(tmp_path, [A, B], redo_failed_before=1) == [True, True]


def test_a_document_is_done_when_its_pages_are_all_committed_in_whatever_parts(tmp_path: Path) -> None:
    pages = [image_id(A, i) for i in range(3)]
    commit(tmp_path, inferred_rows(pages[:2], input_id=A, pages=[0, 1], page_count=3))
    ledger = read_ledger(str(tmp_path), FINGERPRINT, Storage())
    assert ledger.done.contains(pa.array([A])).tolist() == [False]
    assert ledger.partial[A].pages == {0, 1} and ledger.partial[A].page_count == 3
    commit(tmp_path, inferred_rows(pages[2:], input_id=A, pages=[2], page_count=3))
    assert done(tmp_path, [A]) == [True]
    commit(tmp_path, inferred_rows([image_id(B, 0)], input_id=B, pages=[0], page_count=1))
    assert done(tmp_path, [B]) == [True]


def test_settling_keeps_the_latest_attempt_and_its_boxes(tmp_path: Path) -> None:
    commit(tmp_path, inferred_rows([A, B, C], failed=True), attempt=1)
    commit(tmp_path, inferred_rows([B], boxes=2), attempt=2)
    assert settled(tmp_path) == 1
    rows = images(tmp_path)
    assert {key: row["status"] for key, row in rows.items()} == {A: "failed", B: "ok", C: "failed"}
    assert boxes(tmp_path) == [B, B]
    assert settled(tmp_path) == 0


def test_settling_takes_out_doubles_of_one_attempt_and_the_boxes_that_go_with_them(tmp_path: Path) -> None:
    commit(tmp_path, inferred_rows([A, B], boxes=2))
    commit(tmp_path, inferred_rows([B, C], boxes=3))
    commit(tmp_path, inferred_rows([B, D], failed=True))
    assert settled(tmp_path) == 2
    rows = images(tmp_path)
    assert set(rows) == {A, B, C, D} and rows[B]["status"] == "ok"
    assert boxes(tmp_path) == sorted([A] * 2 + [B] * rows[B]["num_detections"] + [C] * 3)


def test_a_later_failure_supersedes_an_earlier_success(tmp_path: Path) -> None:
    commit(tmp_path, inferred_rows([A, B]), attempt=1)
    commit(tmp_path, inferred_rows([A], failed=True), attempt=2)
    settled(tmp_path)
    assert images(tmp_path)[A]["status"] == "failed"
    assert boxes(tmp_path) == [B]


def test_a_failed_document_gives_way_to_its_pages(tmp_path: Path) -> None:
    commit(tmp_path, inferred_rows([A, B], failed=True), attempt=1)
    commit(tmp_path, inferred_rows([image_id(A, 0)], input_id=A, pages=[0]), attempt=2)
    settled(tmp_path)
    assert set(images(tmp_path)) == {B, image_id(A, 0)}


def test_parts_of_another_fingerprint_do_not_count_and_go(tmp_path: Path) -> None:
    late = claim(tmp_path, fields={"threshold": 0.9})
    Write(str(tmp_path), Storage(), late, pa.schema([]))(inferred_rows([A, B], boxes=2))
    commit(tmp_path, inferred_rows([B], boxes=1), attempt=2)
    assert done(tmp_path, [A, B]) == [False, True]
    assert settled(tmp_path) == 0
    assert set(images(tmp_path)) == {B} and boxes(tmp_path) == [B]


def test_nothing_is_settled_once_the_output_is_anothers(tmp_path: Path) -> None:
    commit(tmp_path, inferred_rows([A, B], boxes=2))
    commit(tmp_path, inferred_rows([B, C], boxes=1), attempt=2)
    orphan = next(tmp_path.glob("detections/*"))
    (tmp_path / "images" / orphan.name).rename(tmp_path / "kept")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for looks in range(2):  # lost before the first look, and between that and the first change
        answers = iter([None] * looks)

        def check(answers: Iterator[None] = answers) -> None:
            if next(answers, "lost") == "lost":
                raise RunEndedError("lost")

        with pytest.raises(RunEndedError):
            settle(str(tmp_path), FINGERPRINT, check, Storage())
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_detections_follow_images_after_a_writer_was_killed_between_the_two(tmp_path: Path) -> None:
    commit(tmp_path, inferred_rows([A, B], boxes=2))
    commit(tmp_path, inferred_rows([C], boxes=1))
    first, second = sorted(tmp_path.glob("images/*"), key=lambda part: len(pq.read_table(part)))
    first.unlink()
    (tmp_path / "detections" / second.name).unlink()
    settled(tmp_path)
    assert boxes(tmp_path) == sorted([A, A, B, B])


@pytest.mark.parametrize("failed", [False, True])
def test_the_count_is_made_from_the_files(tmp_path: Path, failed: bool) -> None:
    commit(tmp_path, inferred_rows([A, B], boxes=2))
    commit(tmp_path, inferred_rows([C], failed=failed, boxes=0))
    counted = count(str(tmp_path), Storage())
    assert (counted["pictures"], counted["ok"], counted["failed"]) == (3, 2 if failed else 3, 1 if failed else 0)
    assert counted["inputs"] == 3 and counted["doubles"] == 0
    assert counted["detections"] == 4 and counted["classes"] == {"car": 4}
    assert counted["errors"] == ({"missing": 1} if failed else {})
    assert counted["seconds"].pop("write") > 0
    assert counted["seconds"] == {"fetch": 0.75, "decode": 1.5, "infer": 3.0}
    assert counted["bytes"] == (2000 if failed else 3000)


def test_the_count_sees_doubles(tmp_path: Path) -> None:
    commit(tmp_path, inferred_rows([A, B]))
    commit(tmp_path, inferred_rows([A]))
    assert count(str(tmp_path), Storage())["doubles"] == 1


def test_a_damaged_part_is_named_with_what_to_do(tmp_path: Path) -> None:
    commit(tmp_path, inferred_rows([A, B]))
    [part] = (tmp_path / "images").iterdir()
    part.write_bytes(part.read_bytes()[:500])
    with pytest.raises(JobError, match=rf"{part.name} is damaged \(500 bytes, .*delete it and the file of that name"):
        read_ledger(str(tmp_path), FINGERPRINT, Storage())
