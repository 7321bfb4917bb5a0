"""What one block costs the driver: Ray Data with the shape of a run and nothing in it.

As a command: ``python -m benchmarks.blocks FEW MANY``, blocks of two runs whose difference is free of start-up.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

import pyarrow as pa
import ray
import ray.data

TASK_BLOCKS = 76
"""Blocks that one Load task streams, as 4,096 pictures of 640 x 640 are."""


def _load(rows: pa.Table) -> Iterator[pa.Table]:
    for number in range(len(rows)):
        yield pa.table({"n": [number], "pixels": [bytes(1000)]})


class _Infer:
    def __call__(self, loaded: pa.Table) -> pa.Table:
        return loaded.drop_columns(["pixels"])


class _Sink(ray.data.Datasink[None]):
    @property
    def min_rows_per_write(self) -> int:
        return TASK_BLOCKS

    def write(self, blocks: object, ctx: object) -> None:
        pass


def _run(count: int) -> tuple[float, float]:
    """Return the driver's CPU time and the time of a run of so many blocks, in seconds."""
    cpu, started = time.process_time(), time.perf_counter()
    tasks = [pa.table({"n": range(TASK_BLOCKS)})] * (count // TASK_BLOCKS)
    loaded = ray.data.from_arrow(tasks).map_batches(_load, batch_size=None, batch_format="pyarrow", num_cpus=0.9)
    pool = ray.data.ActorPoolStrategy(size=1)
    inferred = loaded.map_batches(_Infer, batch_size=None, batch_format="pyarrow", compute=pool, num_cpus=0.1)
    inferred.write_datasink(_Sink(), ray_remote_args={"num_cpus": 0})
    return time.process_time() - cpu, time.perf_counter() - started


def main() -> None:
    """Run twice, and print JSON: the driver's CPU time a block in milliseconds, and blocks a second."""
    few, many = (int(number) // TASK_BLOCKS * TASK_BLOCKS for number in sys.argv[1:3])
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 900
    short, long = _run(few), _run(many)
    cpu, seconds = (after - before for before, after in zip(short, long, strict=True))
    print(json.dumps({"cpu_ms": 1000 * cpu / (many - few), "rate": (many - few) / seconds}))


if __name__ == "__main__":
    main()
