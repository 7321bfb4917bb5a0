"""Sets of very many ids, and a long manifest held against one: CPU time and memory of the driver.

As a command, for one size: ``python -m benchmarks.ids COUNT FOLDER``. CPU time, so that it counts little what else the
machine does.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sodbatch.ids import ID_BYTES, IdSet
from sodbatch.ledger import Ledger
from sodbatch.manifest import open_manifest
from sodbatch.pending import Pending
from sodbatch.storage import Storage

BATCH = 10_000


def _batches(count: int, seed: int) -> Iterator[pa.Array]:
    rng = np.random.default_rng(seed)
    width = 2 * ID_BYTES
    for _ in range(count // BATCH):
        text = rng.bytes(ID_BYTES * BATCH).hex()
        yield pa.array([text[start : start + width] for start in range(0, len(text), width)])


def _set_of(count: int) -> IdSet:
    ids = IdSet()
    for batch in _batches(count, seed=0):
        ids.add(batch)
    return ids


def _manifest(count: int, folder: Path) -> Path:
    uris = pa.array([f"s3://bucket/flight-{number // 1000:05}/{number:09}.jpg" for number in range(count)])
    pq.write_table(pa.table({"uri": uris}), folder / "manifest.parquet")
    return folder / "manifest.parquet"


def main() -> None:
    """Fill sets, search them, list a manifest, and print JSON: microseconds an id, bytes an id at the peak."""
    count, folder = int(sys.argv[1]), Path(sys.argv[2])
    found: dict[str, float] = {}

    def timed(name: str, of: int, call: Callable[[], Any]) -> Any:
        started = time.process_time()
        result = call()
        found[name] = 1e6 * (time.process_time() - started) / of
        return result

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ids = timed("add", count, lambda: _set_of(count))
    found["peak_bytes"] = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / count
    probe = list(_batches(10 * BATCH, seed=1))
    timed("contains", 10 * BATCH, lambda: [ids.contains(batch) for batch in probe])
    timed("count_missing", count, lambda: ids.count_missing(ids))
    manifest = open_manifest(str(_manifest(count, folder)), Storage())
    pending = Pending(manifest, Ledger())
    timed("pending, nothing done", count, lambda: list(map(len, pending.tables())))
    again = Pending(manifest, Ledger(pending.listed))
    timed("pending, all done", count, lambda: list(map(len, again.tables())))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
