"""Tables between two ends of a link: they arrive as they were, stay as they are, and take no new memory each."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from sodbatch.link import Link


@pytest.fixture
def ends() -> Iterator[tuple[Link, Link]]:
    """Make both ends of a link."""
    one, other = map(Link, socket.socketpair())
    yield one, other
    one.close()
    other.close()


def table(seed: int, rows: int = 1000) -> pa.Table:
    values = np.random.default_rng(seed).random(rows)
    return pa.table({"value": values, "name": [f"{seed} {value}" for value in values], "none": pa.nulls(rows)})


def through(ends: tuple[Link, Link], sent: pa.Table) -> pa.Table:
    ends[0].send(b"t", b"payload", sent)
    kind, payload, received = ends[1].receive()
    assert (kind, payload) == (b"t", b"payload")
    ends[1].send(b"a")
    assert ends[0].receive() == (b"a", b"", None)
    return received


def mapped() -> set[str]:
    """Return the memory files that this process has mapped."""
    with open("/proc/self/maps") as maps:
        return {line.split()[4] for line in maps if "memfd:sodbatch" in line}


def test_tables_stay_as_they_are_while_they_are_held(ends: tuple[Link, Link]) -> None:
    sent = [table(seed, rows=1 + 700 * (seed % 4)) for seed in range(20)]
    received = [through(ends, one) for one in sent]
    assert received == sent
    held = received[::3]
    del received
    for seed in range(100, 130):
        assert through(ends, table(seed)) == table(seed)
    assert held == sent[::3]


def test_a_slice_is_enough_to_hold_a_table(ends: tuple[Link, Link]) -> None:
    part = through(ends, table(0)).slice(10, 5)["name"]
    for seed in range(1, 20):
        through(ends, table(seed))
    assert part.equals(table(0)["name"].slice(10, 5))


def test_tables_that_are_let_go_take_no_new_memory(ends: tuple[Link, Link]) -> None:
    through(ends, table(0))
    files, descriptors = mapped(), len(os.listdir("/proc/self/fd"))
    for seed in range(1, 50):
        through(ends, table(seed))
    assert len(mapped()) <= len(files) + 1
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2


def test_a_larger_table_gets_more_room(ends: tuple[Link, Link]) -> None:
    for rows in (0, 1, 10, 100_000, 3, 200_000):
        assert through(ends, table(rows, rows)) == table(rows, rows)


def test_tables_outlive_the_link() -> None:
    one, other = map(Link, socket.socketpair())
    received = through((one, other), table(5))
    one.close()
    other.close()
    assert received == table(5)
    with pytest.raises(OSError, match="Bad file descriptor"):
        one.send(b"t", table=table(1))


def test_the_end_of_one_side_is_the_end_for_the_other() -> None:
    one, other = map(Link, socket.socketpair())
    one.close()
    with pytest.raises(EOFError):
        other.receive()
    other.close()
