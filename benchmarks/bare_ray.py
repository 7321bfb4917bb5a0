"""A Ray Data job of the same shape as ours that does nothing: what of start and memory is Ray's own. Prints JSON.

python -m benchmarks.bare_ray PICTURES BYTES_A_PICTURE PICTURES_A_BLOCK
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

started = time.perf_counter()

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import ray  # noqa: E402
import ray.data  # noqa: E402

from sodbatch.predictor.base import usable_cpus  # noqa: E402


def load(rows: pa.Table, size: int, block: int) -> Iterator[pa.Table]:
    """Yield tables with so many bytes a row."""
    for start in range(0, len(rows), block):
        ids = rows.slice(start, block)
        pixels = pa.array([np.ones(size, np.uint8).tobytes()] * len(ids), pa.large_binary())
        yield ids.append_column("pixels", pixels)


class Infer:
    """Drops the bytes."""

    def __call__(self, loaded: pa.Table) -> pa.Table:
        """Return the table without them."""
        return loaded.select(["id"])


class Sink(ray.data.Datasink[None]):
    """Writes nothing."""

    def write(self, blocks: Iterable[Any], ctx: Any) -> None:
        """Take the blocks."""
        for _ in blocks:
            pass


def main() -> None:
    """Run the job."""
    count, size, block = map(int, sys.argv[1:])
    imported = time.perf_counter()
    cpus = max(2, usable_cpus())
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    initialised = time.perf_counter()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = max(1, int(0.9 * size * block))
    task = max(block, count // (cpus * 8) // block * block)
    blocks = [pa.table({"id": np.arange(start, min(start + task, count))}) for start in range(0, count, task)]
    loaded = ray.data.from_arrow(blocks).map_batches(
        partial(load, size=size, block=block), batch_size=None, batch_format="pyarrow", num_cpus=1
    )
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=1)
    inferred = loaded.map_batches(Infer, batch_size=None, batch_format="pyarrow", compute=pool, num_cpus=cpus - 1)
    inferred.write_datasink(Sink(), ray_remote_args={"num_cpus": 0})
    ended = time.perf_counter()
    print(json.dumps({"import": imported - started, "init": initialised - imported, "job": ended - initialised}))


if __name__ == "__main__":
    main()
