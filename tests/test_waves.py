"""Waves: pending rows grouped into finite pieces of work."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sodbatch.engine import waves as engine
from sodbatch.engine.resources import ActorPlan
from sodbatch.errors import UsageError

ROWS = 1_000_000


def tables(sizes: list[int]) -> Iterator[pa.Table]:
    start = 0
    for size in sizes:
        yield pa.table({"n": range(start, start + size)})
        start += size


@given(st.lists(st.integers(1, 40), max_size=8), st.integers(1, 60))
def test_waves_hold_every_row_once_in_order(sizes: list[int], wave_rows: int) -> None:
    waves = list(engine.waves(tables(sizes), wave_rows))
    assert [n for wave in waves for n in wave["n"].to_pylist()] == list(range(sum(sizes)))
    assert all(0 < len(wave) < wave_rows + 40 for wave in waves)


@pytest.mark.parametrize(
    ("actors", "gpus", "threads", "rows"),
    [
        (1, 0.0, 2, 1_000_000),
        (200, 0.0, 8, 2_400_000),
        (400, 0.0, 8, 4_000_000),
        (1, 1.0, 2, 1_000_000),
        (40, 1.0, 2, 2_400_000),
        (400, 0.25, 2, 4_000_000),
    ],
)
def test_waves_grow_with_the_pool_up_to_what_memory_allows(actors: int, gpus: float, threads: int, rows: int) -> None:
    assert engine.wave_rows(ActorPlan(1, actors, 1.0, gpus, threads)) == rows


@pytest.mark.parametrize(
    ("actors", "cpus_of_an_actor", "cpus", "blocks"),
    [(1, 1.0, 2.0, 11), (1, 0.0, 2.0, 16), (4, 1.0, 64.0, 324), (8, 4.0, 0.0, 48)],
)
def test_loaded_blocks_wait_for_actors_and_come_from_the_cpus_that_are_left(
    actors: int, cpus_of_an_actor: float, cpus: float, blocks: int
) -> None:
    assert engine.bytes_ahead(ActorPlan(actors, actors, cpus_of_an_actor, 0.0, 2), cpus, 1000) == blocks * 1000


@given(st.integers(1, 3_000_000), st.integers(1, 2000), st.integers(1, 64))
def test_load_tasks_are_whole_blocks_and_few_enough(wave: int, cpus: int, block: int) -> None:
    rows = engine.task_rows(wave, cpus, block)
    assert rows % block == 0 and block <= rows <= engine.TASK_ROWS
    assert rows <= max(block, math.ceil(wave / (cpus * engine.TASKS_PER_CPU)))


@given(st.integers(1, 100), st.integers(1, 30))
def test_a_wave_is_cut_without_losing_a_row(rows: int, size: int) -> None:
    blocks = engine.cut(pa.table({"n": range(rows)}), size)
    assert [n for block in blocks for n in block["n"].to_pylist()] == list(range(rows))
    assert all(len(block) <= size for block in blocks)


def test_a_wave_of_wide_rows_ends_at_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MOST_WAVE_BYTES", 800)  # of rows of 8 bytes
    waves = list(engine.waves(tables([10] * 45), ROWS))
    assert [len(wave) for wave in waves] == [100, 100, 100, 100, 50]


def test_a_slow_listing_does_not_keep_the_first_wave_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "WAVE_SECONDS", 0.05)
    go_on = threading.Event()

    def slow() -> Iterator[pa.Table]:
        yield pa.table({"n": [0]})
        go_on.wait(30)
        yield pa.table({"n": [1]})

    waves = engine.waves(slow(), ROWS)
    assert next(waves)["n"].to_pylist() == [0]
    go_on.set()
    assert [wave["n"].to_pylist() for wave in waves] == [[1]]


def test_an_error_of_the_listing_is_raised_where_the_waves_are_used() -> None:
    def broken() -> Iterator[pa.Table]:
        yield pa.table({"n": [0]})
        raise UsageError("line 7 is no JSON")

    with pytest.raises(UsageError, match="line 7"):
        list(engine.waves(broken(), ROWS))


def test_waves_that_are_given_up_end_the_listing() -> None:
    waves = engine.waves((pa.table({"n": range(10_000)}) for _ in range(10**9)), ROWS)
    next(waves)
    waves.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "listing"]
