"""A plain loop over a list of pictures: read, decode, resize. No limits, no errors, no tables; prints JSON.

python -m benchmarks.plain_loop LISTING SIDE WORKERS threads|processes
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np


def load(path: str, side: int) -> int:
    """Fetch, decode and, unless ``side`` is 0, resize one picture; returns the bytes of the result."""
    image = cv2.imdecode(np.frombuffer(Path(path).read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    if side == 0:
        return image.nbytes
    resized = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)
    return cv2.cvtColor(resized, cv2.COLOR_BGR2RGB).nbytes


def _load_all(pool: Executor, paths: Iterable[str], side: int) -> int:
    paths = list(paths)
    return sum(pool.map(load, paths, [side] * len(paths), chunksize=16))


def main() -> None:
    """Run the loop; the pool is started before the clock."""
    listing, side, workers, kind = sys.argv[1:]
    cv2.setNumThreads(1)
    paths = Path(listing).read_text().split()
    pool = (ThreadPoolExecutor if kind == "threads" else ProcessPoolExecutor)(int(workers))
    with pool:
        _load_all(pool, paths[: 16 * int(workers)], int(side))
        started = time.perf_counter()
        _load_all(pool, paths, int(side))
        seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
