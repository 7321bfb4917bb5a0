"""Waves: pending rows, listed ahead in a thread, grouped into finite pieces of work."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Generator, Iterable

import pyarrow as pa

from sodbatch.engine.resources import ActorPlan

LEAST_WAVE_ROWS = 1_000_000
"""Most inputs of one wave of a small pool: some 140 MB in the driver each time it holds them."""

MOST_WAVE_ROWS = 4_000_000
"""Most inputs of one wave, whatever the pool: at some 140 bytes a row without the manifest's own columns, held twice in
the driver and once in the object store, that is 1.1 GB and 0.6 GB."""

MOST_WAVE_BYTES = 2**30
"""Bytes at which a wave is large enough, however few its rows: the manifest's own columns may be wide."""

WORK_SECONDS = 600
"""How long a wave is to last at least, as far as memory allows, since each starts the actors anew."""

GPU_RATE, THREAD_RATE = 100.0, 2.5
"""Pictures a second of an actor on a GPU, an assumption, and of one thread on CPUs, as measured at 640 x 640."""

WAVE_SECONDS = 5.0
"""How long the first picture waits for a manifest that is slow to list."""

TASK_ROWS = 4096
"""Most inputs of one Load task, which streams its output: fewer, larger tasks cost the driver less."""

TASKS_PER_CPU = 8
"""Load tasks that a small wave is cut into for each CPU, so that all CPUs end at about the same time."""

TABLES_AHEAD = 100
"""Tables of the manifest, of some 10,000 rows, that are listed ahead."""


BLOCKS_PER_ACTOR, BLOCKS_PER_CPU = 6, 5
"""Loaded blocks that may wait, for each actor and for each CPU that is left to Load. With half as many, Ray Data starts
the tasks of Load one after another, and a fast detector waits a fifth of its time."""


def wave_rows(actors: ActorPlan) -> int:
    """Return the most inputs of one wave.

    A wave starts the actors anew and ends as the last of them runs dry, which takes half a minute or so in all, however
    large the pool. So the rows grow with what the pool does in :data:`WORK_SECONDS`, until memory is the bound.
    """
    rate = GPU_RATE if actors.gpus else THREAD_RATE * actors.threads
    return int(max(LEAST_WAVE_ROWS, min(MOST_WAVE_ROWS, WORK_SECONDS * rate * actors.max_actors)))


def bytes_ahead(actors: ActorPlan, cpus: float, block_bytes: int) -> int:
    """Return how many bytes of loaded blocks may be in Ray's object store.

    Ray's own bound is half of the store, which a slow detector lets fill up: gigabytes of pictures read far ahead.
    """
    left = max(0.0, cpus - actors.max_actors * actors.cpus)
    return int((BLOCKS_PER_ACTOR * actors.max_actors + BLOCKS_PER_CPU * left) * block_bytes)


def waves(pending: Iterable[pa.Table], most_rows: int) -> Generator[pa.Table, None, None]:
    """Group pending rows into waves of about ``most_rows``, listing ahead in a thread."""
    tables: queue.Queue[pa.Table | BaseException | None] = queue.Queue(maxsize=TABLES_AHEAD)
    stopped = threading.Event()

    def put(item: pa.Table | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                tables.put(item, timeout=1.0)
                return
            except queue.Full:
                continue

    def listing() -> None:
        try:
            for table in pending:
                put(table)
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=listing, name="listing", daemon=True)
    thread.start()
    try:
        ended = False
        while not ended:
            wave, ended = _next_wave(tables, most_rows)
            if wave:
                yield pa.concat_tables(wave)
    finally:
        stopped.set()
        thread.join()


def task_rows(wave_rows: int, cpus: float, block_rows: int) -> int:
    """Return the inputs of one Load task: whole blocks, at most :data:`TASK_ROWS` inputs."""
    even = math.ceil(wave_rows / max(1.0, cpus * TASKS_PER_CPU))
    return max(block_rows, min(TASK_ROWS, even) // block_rows * block_rows)


def cut(rows: pa.Table, size: int) -> list[pa.Table]:
    """Cut rows into tables of at most ``size`` rows, each with memory of its own."""
    return [rows.slice(start, size).combine_chunks() for start in range(0, len(rows), size)]


def _next_wave(tables: queue.Queue[pa.Table | BaseException | None], most_rows: int) -> tuple[list[pa.Table], bool]:
    """Take what has been listed, until there is enough or it has taken long enough."""
    wave: list[pa.Table] = []
    deadline: float | None = None
    rows = size = 0
    while rows < most_rows and size < MOST_WAVE_BYTES:
        try:
            item = tables.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return wave, False
        if isinstance(item, BaseException):
            raise item
        if item is None:
            return wave, True
        wave.append(item)
        rows, size = rows + len(item), size + item.nbytes
        deadline = deadline or time.monotonic() + WAVE_SECONDS
    return wave, False
