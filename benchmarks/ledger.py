"""A ledger of very many rows, written in parts directly: what reading it back, settling and counting cost.

As a command, for one size: ``python -m benchmarks.ledger ROWS ROWS_OF_A_PART FOLDER``.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.measure import MIB, Result, Setup, Table, in_turn, script
from sodbatch.ids import digest
from sodbatch.ledger import read_ledger, settle
from sodbatch.model.spec import VISDRONE_LABELS
from sodbatch.record import write_record
from sodbatch.storage import Storage
from sodbatch.summary import count
from sodbatch.tables import detections_array, inferred_schema
from sodbatch.write import Run, Write

FIELDS = {"benchmark": "ledger"}
BOXES = 50
"""A picture: about what VisDrone has."""

STEPS = ("read", "settle", "count")


def measure(setup: Setup) -> Result:
    """Run the benchmark."""
    sizes = [(setup.size(rows, rows // 100), 1024) for rows in (10_000, 100_000, 1_000_000)]
    sizes.append((setup.size(100_000, 1_000), 32))
    tools: dict[str, Callable[[], Any]] = {}
    for rows, part in sizes:
        tools[f"{rows:,} rows in parts of {part:,}"] = partial(_written, setup, rows, part)
    measured = in_turn(1, tools)
    table_rows = []
    for name, [found] in measured.items():
        seconds = [found[step] for step in STEPS]
        table_rows.append([name, *seconds, 1000 * sum(seconds) / found["parts"], found["bytes"], found["memory"] / MIB])
    header = ["ledger", "read (s)", "settle (s)", "count (s)", "all, a part (ms)", "bytes a row, both tables"]
    title = f"Ledgers on a local disk, {BOXES} boxes a picture"
    return Result([Table(title, [*header, "memory (MiB)"], table_rows)], measured)


def _written(setup: Setup, rows: int, part: int) -> dict[str, Any]:
    return script("ledger", rows, part, setup.output())


def _write(rows: int, part: int, folder: Path, storage: Storage) -> str:
    run = Run("benchmark", 1, digest(json.dumps(FIELDS, sort_keys=True)), "model", "0" * 64)
    write_record(str(folder), FIELDS, run.rank, storage)
    write = Write(str(folder), storage, run, pa.schema([]))
    rng = np.random.default_rng(0)
    for start in range(0, rows, part):
        write(_rows(rng, start, min(part, rows - start)))
    return run.fingerprint


def _rows(rng: np.random.Generator, start: int, count: int) -> pa.Table:
    """Make rows as Infer gives them, with boxes at random."""
    ids = [digest(str(number)) for number in range(start, start + count)]
    boxes = [
        (rng.integers(0, 10, BOXES, np.int32), rng.random(BOXES, np.float32), rng.random((BOXES, 4), np.float32) * 1000)
        for _ in range(count)
    ]
    values: dict[str, Any] = {
        "image_id": ids,
        "input_id": ids,
        "uri": [f"s3://bucket/flight-{number // 1000:05}/{number:09}.jpg" for number in range(start, start + count)],
        "page_count": [1] * count,
        "status": ["ok"] * count,
        "width": [1920] * count,
        "height": [1080] * count,
        "file_bytes": rng.integers(200_000, 900_000, count).tolist(),
        "num_detections": [BOXES] * count,
        "capped": [False] * count,
    }
    values |= {f"{stage}_seconds": [0.1] * count for stage in ("fetch", "decode", "infer")}
    values["source"] = values["uri"]
    detections = detections_array(list(boxes), VISDRONE_LABELS)
    schema = inferred_schema(pa.schema([]))
    columns = [
        detections if field.name == "detections" else pa.array(values.get(field.name, [None] * count), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def main() -> None:
    """Write a ledger, read it, and print JSON."""
    rows, part, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    storage = Storage()
    fingerprint = _write(rows, part, folder, storage)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    steps: dict[str, Callable[[], Any]] = {
        "read": lambda: read_ledger(str(folder), fingerprint, storage),
        "settle": lambda: settle(str(folder), fingerprint, lambda: None, storage),
        "count": lambda: count(str(folder), storage),
    }
    found: dict[str, float] = {}
    for name, step in steps.items():
        started = time.perf_counter()
        step()
        found[name] = time.perf_counter() - started
    files = [path.stat().st_size for path in folder.glob("*/*.parquet")]
    found |= {"parts": len(files) / 2, "bytes": sum(files) / rows}
    found["memory"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(json.dumps(found))


if __name__ == "__main__":
    main()
