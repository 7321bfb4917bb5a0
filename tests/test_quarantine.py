from __future__ import annotations

import os
import pickle
import select
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from deadly import (
    DEADLY_VALUE,
    DeadlyLoad,
    DeadlySpec,
    HangingSpec,
    KilledSpec,
    KilledWhenLoadedSpec,
    UnloadableSpec,
    mark,
)
from fakes import LABELS, NO_COLUMNS, pending_rows, preprocess
from test_stages import infer, load, picture, tiff

from sodbatch.engine.pipeline import InferSpec
from sodbatch.errors import JobError, UsageError
from sodbatch.model.folder import open_model_folder
from sodbatch.quarantine import IsolatedInfer, IsolatedLoad
from sodbatch.tables import inferred_schema, loaded_schema
from sodbatch.threshold import resolve_threshold


@pytest.fixture
def isolated_load() -> Iterator[Callable[..., IsolatedLoad]]:
    made = []

    def make(block_rows: int = 4, stall_s: float = 60.0, passthrough: pa.Schema = NO_COLUMNS) -> IsolatedLoad:
        plain = load(passthrough)
        deadly = DeadlyLoad(plain.fetcher, plain.limits, plain.preprocess, passthrough, block_rows)
        made.append(IsolatedLoad(deadly, stall_s))
        return made[-1]

    yield make
    for stage in made:
        stage.close()


@pytest.fixture
def isolated_infer(tiny_model_dir: Path) -> Iterator[Callable[..., IsolatedInfer]]:
    made = []

    def make(kind: type[InferSpec] = DeadlySpec, max_seconds: float = 60.0) -> IsolatedInfer:
        folder = replace(
            open_model_folder(str(tiny_model_dir)), preprocess=preprocess(32), labels=LABELS, keep_top_k=500
        )
        spec = kind(folder, resolve_threshold(0.0, 0.5, 2), "paddle", "fp32", False, 1, "cpu", 1, NO_COLUMNS)
        made.append(IsolatedInfer(spec, max_seconds))
        return made[-1]

    yield make
    for stage in made:
        stage.close()


def pictures(folder: Path, count: int) -> list[str]:
    return [picture(folder, f"{index:03d}.png", 10 + index) for index in range(count)]


def rows_of(tables: Iterator[pa.Table]) -> list[dict[str, object]]:
    found = list(tables)
    assert all(table.schema.equals(loaded_schema(NO_COLUMNS)) for table in found)
    return pa.concat_tables(found).to_pylist()


def test_rows_are_those_of_load_itself(tmp_path: Path, isolated_load: Callable[..., IsolatedLoad]) -> None:
    sources = [*pictures(tmp_path, 9), str(tmp_path / "missing.png"), tiff(tmp_path, [40, 80])]
    stage = isolated_load()
    for _ in range(2):  # a child answers more than one call
        found = rows_of(stage(pending_rows(sources)))
        expected = rows_of(load()(pending_rows(sources)))
        for row in (*found, *expected):
            row.update(fetch_seconds=0, decode_seconds=0)
        assert found == expected


@pytest.mark.parametrize("how", ["SEGV", "EXIT"])
def test_a_picture_that_kills_its_process_is_a_failed_row_and_no_other_is(
    how: str, tmp_path: Path, isolated_load: Callable[..., IsolatedLoad]
) -> None:
    sources = pictures(tmp_path, 11)
    mark(sources[6], how)
    rows = rows_of(isolated_load()(pending_rows(sources)))
    assert sorted(row["uri"] for row in rows) == sources
    failed = [row for row in rows if row["error_class"]]
    assert [(row["uri"], row["error_class"], row["pixels"]) for row in failed] == [
        (sources[6], "decoder_failure", None)
    ]
    assert failed[0]["error_message"] == (
        f"its process died 2 times with this picture in hand ({'SIGSEGV' if how == 'SEGV' else 'exit code 3'})"
    )
    assert all(row["pixels"] for row in rows if row["uri"] != sources[6])


def test_several_killers_in_one_call(tmp_path: Path, isolated_load: Callable[..., IsolatedLoad]) -> None:
    sources = pictures(tmp_path, 6)
    killers = {mark(source, "SEGV") for source in (sources[0], sources[1], sources[5])}
    rows = rows_of(isolated_load()(pending_rows(sources)))
    assert sorted(row["uri"] for row in rows) == sources
    assert {row["uri"] for row in rows if row["error_class"]} == killers


def test_of_a_document_only_the_page_that_kills_fails(
    tmp_path: Path, isolated_load: Callable[..., IsolatedLoad]
) -> None:
    document = mark(tiff(tmp_path, [10, 20, 30, 40, 50, 60]), "SEGV:3")
    sources = [*pictures(tmp_path, 2), document]
    rows = rows_of(isolated_load(block_rows=3)(pending_rows(sources)))
    pages = sorted((row["page_index"], row["error_class"]) for row in rows if row["uri"] == document)
    assert pages == [(0, None), (1, None), (2, None), (3, "decoder_failure"), (4, None), (5, None)]
    assert {row["page_count"] for row in rows if row["uri"] == document} == {6}
    assert sorted(row["uri"] for row in rows if row["page_index"] is None) == sources[:2]


def test_a_document_that_kills_when_it_is_opened_fails_as_a_whole_and_known_pages_one_by_one(
    tmp_path: Path, isolated_load: Callable[..., IsolatedLoad]
) -> None:
    document = mark(tiff(tmp_path, [10, 20, 30]), "SEGV")
    [row] = rows_of(isolated_load()(pending_rows([document])))
    assert (row["page_index"], row["page_count"], row["error_class"]) == (None, 1, "decoder_failure")
    pending = pending_rows([document])
    for name, value in (("page_count", 3), ("skip_pages", [1])):
        index = pending.schema.get_field_index(name)
        field = pending.schema.field(index)
        pending = pending.set_column(index, field, pa.array([value], field.type))
    rows = rows_of(isolated_load()(pending))
    assert [(row["page_index"], row["page_count"]) for row in rows] == [(0, 3), (2, 3)]


def test_a_process_killed_from_outside_blames_nobody_the_first_times(
    tmp_path: Path, isolated_load: Callable[..., IsolatedLoad]
) -> None:
    sources = pictures(tmp_path, 5)
    mark(sources[2], f"ONCE:{tmp_path / 'killed'}")
    rows = rows_of(isolated_load()(pending_rows(sources)))
    assert (tmp_path / "killed").exists()
    assert sorted(row["uri"] for row in rows) == sources and not any(row["error_class"] for row in rows)


def test_a_picture_for_which_the_system_kills_every_time_fails_in_the_end(
    tmp_path: Path, isolated_load: Callable[..., IsolatedLoad]
) -> None:
    sources = pictures(tmp_path, 3)
    mark(sources[1], "KILL")
    rows = {row["uri"]: row["error_message"] for row in rows_of(isolated_load()(pending_rows(sources)))}
    assert rows == {
        sources[0]: None,
        sources[1]: "its process died 4 times with this picture in hand (SIGKILL)",
        sources[2]: None,
    }


def test_a_picture_that_hangs_its_decoder_fails(tmp_path: Path, isolated_load: Callable[..., IsolatedLoad]) -> None:
    sources = pictures(tmp_path, 3)
    mark(sources[1], "HANG")
    rows = {row["uri"]: row["error_message"] for row in rows_of(isolated_load(stall_s=0.5)(pending_rows(sources)))}
    assert rows == {
        sources[0]: None,
        sources[1]: "its process died 2 times with this picture in hand (no sign of life for 0.5 s)",
        sources[2]: None,
    }


def test_the_child_ends_with_the_call_that_is_given_up_and_with_its_parent(
    tmp_path: Path, isolated_load: Callable[..., IsolatedLoad]
) -> None:
    stage = isolated_load(block_rows=1)
    tables = stage(pending_rows(pictures(tmp_path, 8)))
    next(tables)
    tables.close()
    assert stage._child._process is None
    assert len(rows_of(stage(pending_rows(pictures(tmp_path, 2))))) == 2
    pid = os.fork()
    if pid == 0:  # a parent that dies without a word; only its side of the socket tells
        try:
            orphan = isolated_load()
            list(orphan(pending_rows(pictures(tmp_path, 1))))
            (tmp_path / "orphan").write_text(str(orphan._child._process.pid))
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    orphan_pid = int((tmp_path / "orphan").read_text())
    try:
        descriptor = os.pidfd_open(orphan_pid)
    except ProcessLookupError:
        return  # it has ended already
    ended, _, _ = select.select([descriptor], [], [], 30)
    os.close(descriptor)
    assert ended


def test_copies_in_one_process_share_the_child(tmp_path: Path, isolated_load: Callable[..., IsolatedLoad]) -> None:
    stage = isolated_load()
    first, second = pickle.loads(pickle.dumps(stage)), pickle.loads(pickle.dumps(stage))
    assert first is second
    list(first(pending_rows(pictures(tmp_path, 1))))
    first.close()


def loaded(folder: Path, values: list[int]) -> pa.Table:
    sources = [picture(folder, f"{index}.png", value) for index, value in enumerate(values)]
    return pa.concat_tables(load()(pending_rows(sources)))


def test_inferred_rows_are_those_of_infer_itself(tmp_path: Path, isolated_infer: Callable[..., IsolatedInfer]) -> None:
    rows = loaded(tmp_path, [50, 100, 255, 200])
    stage = isolated_infer()
    assert stage.reason() == "deadly"
    found, expected = stage(rows), infer(0.0)(rows)
    assert found.schema.equals(inferred_schema(NO_COLUMNS))
    assert found.drop_columns("infer_seconds").equals(expected.drop_columns("infer_seconds"))


@pytest.mark.parametrize(
    ("kind", "max_seconds", "reason"),
    [
        (DeadlySpec, 60.0, "its process died 2 times with this picture in hand (SIGSEGV)"),
        (KilledSpec, 60.0, "its process died 4 times with this picture in hand (SIGKILL)"),
        (HangingSpec, 0.5, "its process died 2 times with this picture in hand (no sign of life for 0.5 s)"),
    ],
)
def test_a_picture_that_kills_the_predictor_is_a_failed_row_and_its_neighbours_are_not(
    kind: type[InferSpec],
    max_seconds: float,
    reason: str,
    tmp_path: Path,
    isolated_infer: Callable[..., IsolatedInfer],
) -> None:
    rows = loaded(tmp_path, [50, DEADLY_VALUE, 100, 200])
    found = isolated_infer(kind, max_seconds)(rows).to_pylist()
    assert [row["status"] for row in found] == ["ok", "failed", "ok", "ok"]
    assert (found[1]["error_class"], found[1]["error_message"]) == ("predictor_failure", reason)
    assert [row["input_id"] for row in found] == rows["input_id"].to_pylist()


def test_a_model_that_kills_its_process_when_it_is_loaded_is_refused(
    tmp_path: Path, isolated_infer: Callable[..., IsolatedInfer]
) -> None:
    with pytest.raises(UsageError, match="kills its process when it starts .SIGSEGV"):
        isolated_infer(UnloadableSpec)(loaded(tmp_path, [50]))


def test_who_kills_from_outside_is_told_from_a_model_that_does(
    tmp_path: Path, isolated_infer: Callable[..., IsolatedInfer]
) -> None:
    with pytest.raises(JobError, match="was killed from outside when it started .SIGKILL, 4 times"):
        isolated_infer(KilledWhenLoadedSpec)(loaded(tmp_path, [50]))


def test_a_model_that_cannot_be_loaded_says_why(
    tmp_path: Path, tiny_model_dir: Path, isolated_infer: Callable[..., IsolatedInfer]
) -> None:
    stage = isolated_infer(UnknownSpec)
    with pytest.raises(UsageError, match="no such thing"):
        stage.reason()


class UnknownSpec(InferSpec):
    def create(self):  # type: ignore[no-untyped-def]
        raise UsageError("no such thing")


def test_an_error_in_a_stage_is_one_line(tmp_path: Path, isolated_load: Callable[..., IsolatedLoad]) -> None:
    stage = isolated_load(passthrough=pa.schema([("group", pa.string())]))
    with pytest.raises(JobError, match="KeyError"):
        list(stage(pending_rows(pictures(tmp_path, 1))))
