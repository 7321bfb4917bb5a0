from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from fixtures_s3 import S3Bucket
from hypothesis import given
from hypothesis import strategies as st

from sodbatch.errors import RunEndedError, UsageError
from sodbatch.ids import digest
from sodbatch.output import begin, choose_output, differences, finish, standing, sweep
from sodbatch.record import Rank, check_ours, fingerprint_id
from sodbatch.storage import Storage
from sodbatch.tables import to_parquet

FIELDS = {"model": "S", "threshold": [0.5, 0.5]}
OTHER = {"model": "S", "threshold": [0.3, 0.5]}
PART = "part-" + "0" * 32 + ".parquet"
ID = digest("a")


def start(output: str, fields: dict[str, object], storage: Storage | None = None) -> Rank:
    """Begin as the job does, and return which run that makes."""
    known = standing(output, fields, Storage())
    rank = Rank(known.attempt, f"run {known.attempt}")
    begin(output, fields, known, rank, storage or Storage())
    return rank


def filled(output: Path, fields: dict[str, object] = FIELDS) -> str:
    """A folder with a run's tables and companions of the picture ID."""
    start(str(output), fields)
    for table in ("images", "detections"):
        (output / table).mkdir()
        (output / table / PART).write_bytes(to_parquet(pa.table({"image_id": [ID]})))
    for name in (f"pictures/a_{ID[:12]}.jpg", f"json/a_{ID[:12]}_res.json"):
        (output / name).parent.mkdir()
        (output / name).write_bytes(b"x")
    finish(str(output), {"ok": 1}, lambda: None, Storage())
    return str(output)


def files(output: Path) -> set[str]:
    return {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}


def test_the_same_fingerprint_goes_on_and_counts_attempts(tmp_path: Path) -> None:
    output = filled(tmp_path / "out")
    assert choose_output(output, FIELDS, "refuse", Storage()) == output
    assert (tmp_path / "out" / "_SUCCESS").exists()
    assert start(output, FIELDS).attempt == 2
    assert files(tmp_path / "out") >= {f"images/{PART}", f"pictures/a_{ID[:12]}.jpg"}
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_another_fingerprint_is_refused_with_what_differs_and_nothing_changes(tmp_path: Path) -> None:
    output = filled(tmp_path / "out")
    before = files(tmp_path / "out")
    with pytest.raises(UsageError, match=r"threshold: \[0.5, 0.5\] there, \[0.3, 0.5\] now"):
        choose_output(output, OTHER, "refuse", Storage())
    assert files(tmp_path / "out") == before


def test_beside_writes_to_a_folder_of_its_own_which_must_be_free(tmp_path: Path) -> None:
    output = filled(tmp_path / "out")
    beside = choose_output(output, OTHER, "beside", Storage())
    assert beside == f"{output}-{fingerprint_id(OTHER)[:8]}"
    assert choose_output(output, FIELDS, "beside", Storage()) == output
    filled(Path(beside), OTHER)
    assert choose_output(output, OTHER, "beside", Storage()) == beside
    (Path(beside) / "run.json").unlink()
    with pytest.raises(UsageError, match=r"no run\.json"):
        choose_output(output, OTHER, "beside", Storage())


def test_overwriting_deletes_what_a_run_wrote_and_nothing_else(tmp_path: Path) -> None:
    output = filled(tmp_path / "out")
    mine = {"notes.txt", "images/mine.parquet", "pictures/holiday.jpg", "pictures/COCO_val2014_000000000001.jpg"}
    for name in mine:
        (tmp_path / "out" / name).write_bytes(b"mine")
    assert choose_output(output, OTHER, "overwrite", Storage()) == output
    assert standing(output, OTHER, Storage()) == (2, False)
    assert start(output, OTHER).attempt == 2
    assert files(tmp_path / "out") == {"run.json", *mine}


def test_a_first_run_deletes_nothing(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name in ("pictures/COCO_val2014_000000000001.jpg", "data.json"):
        (tmp_path / name).write_bytes(b"mine")
    assert standing(str(tmp_path), FIELDS, Storage()) == (1, False)
    assert start(str(tmp_path), FIELDS).attempt == 1
    assert files(tmp_path) == {"run.json", "pictures/COCO_val2014_000000000001.jpg", "data.json"}


@pytest.mark.parametrize("name", ["coco.json", "summary.json", "_SUCCESS", f"detections/{PART}"])
def test_files_of_others_that_a_run_would_write_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"mine")
    for on_mismatch in ("refuse", "beside", "overwrite"):
        with pytest.raises(UsageError, match=r"no run\.json"):
            choose_output(str(tmp_path), FIELDS, on_mismatch, Storage())  # type: ignore[arg-type]


def test_a_run_notices_that_another_has_taken_over(tmp_path: Path) -> None:
    output = filled(tmp_path / "out")
    check_ours(output, Rank(1, "run 1"), fingerprint_id(FIELDS), Storage())
    second = start(output, FIELDS)
    with pytest.raises(RunEndedError, match="taken it over"):
        check_ours(output, Rank(1, "run 1"), fingerprint_id(FIELDS), Storage())
    check_ours(output, second, fingerprint_id(FIELDS), Storage())


@pytest.mark.parametrize("fields", [FIELDS, OTHER])
def test_a_run_that_another_has_come_before_since_it_was_planned_touches_nothing(
    tmp_path: Path, fields: dict[str, object]
) -> None:
    known = standing(str(tmp_path / "out"), FIELDS, Storage())
    output = filled(tmp_path / "out", fields)
    before = files(tmp_path / "out")
    with pytest.raises(UsageError, match="has just been at work"):
        begin(output, FIELDS, known, Rank(1, "late"), Storage())
    assert files(tmp_path / "out") == before


def test_what_killed_runs_left_half_written_is_swept_and_nothing_else(tmp_path: Path) -> None:
    output = filled(tmp_path / "out")
    before = files(tmp_path / "out") | {".hidden.tmp", "images/.sodbatch", "images/my.sodbatch-1.tmp"}
    left = {".sodbatch-0123456789abcdef", "images/.sodbatch-ab_d3f8h.tmp", "pictures/.sodbatch-x7.tmp"}
    for name in before | left:
        (tmp_path / "out" / name).touch()
    sweep(output, Storage())
    assert files(tmp_path / "out") == before


def test_probes_left_on_s3_are_swept_and_nothing_else(s3_bucket: S3Bucket) -> None:
    for key in ("out/.sodbatch-0123456789abcdef", "out/run.json", "out/.sodbatch-mine!", "out2/.sodbatch-0123"):
        s3_bucket.put(key)
    sweep(f"{s3_bucket.url}/out", Storage(s3_bucket.section))
    found = s3_bucket.client().list_objects_v2(Bucket=s3_bucket.name)["Contents"]
    assert {item["Key"] for item in found} == {"out/run.json", "out/.sodbatch-mine!", "out2/.sodbatch-0123"}


def test_a_kill_while_overwriting_leaves_nothing_to_be_taken_for_the_new_run(tmp_path: Path) -> None:
    output = filled(tmp_path / "out")

    class Killed(Storage):
        def delete(self, url: str) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(output, OTHER, Killed())
    start(output, OTHER)
    assert files(tmp_path / "out") == {"run.json"}


def test_tables_of_unknown_origin_are_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mine.txt").write_text("no part")
    assert choose_output(str(tmp_path), FIELDS, "refuse", Storage()) == str(tmp_path)
    (tmp_path / "images" / PART).write_bytes(b"")
    with pytest.raises(UsageError, match=r"no run\.json"):
        choose_output(str(tmp_path), FIELDS, "refuse", Storage())


@pytest.mark.parametrize("content", ["", "{}", "[]", "[" * 100_000, '{"fingerprint": 1, "attempt": 1}'])
def test_a_record_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UsageError, match="not the record of a run"):
        choose_output(str(tmp_path), FIELDS, "refuse", Storage())


def test_success_comes_with_the_summary(tmp_path: Path) -> None:
    finish(str(tmp_path), {"ok": 3}, lambda: None, Storage())
    assert json.loads((tmp_path / "summary.json").read_text()) == {"ok": 3}
    assert (tmp_path / "_SUCCESS").read_bytes() == b""


fields = st.dictionaries(st.text(max_size=3), st.integers() | st.lists(st.floats(0, 1)), max_size=4)


@given(fields, fields)
def test_fingerprints_differ_exactly_when_something_can_be_named_that_differs(a: dict, b: dict) -> None:  # type: ignore[type-arg]
    assert (fingerprint_id(a) == fingerprint_id(b)) == (differences(a, b) == [])
