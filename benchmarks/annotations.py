"""Both annotation files of a data set read and checked, without its pictures; prints JSON.

python -m benchmarks.annotations TRAIN VAL
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

from sodbatch.dataset.coco import read_part
from sodbatch.dataset.faults import Faults
from sodbatch.dataset.records import check_records
from sodbatch.storage import Storage


def main() -> None:
    """Read, check, and print seconds and peak memory in MiB."""
    started = time.perf_counter()
    faults = Faults({})
    storage = Storage()
    parts = [read_part(name, file, storage, faults) for name, file in zip(("train", "val"), sys.argv[1:])]
    check_records(parts, faults)
    [peak] = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    print(json.dumps({"seconds": time.perf_counter() - started, "peak": int(peak) / 1024, "faults": faults.counts}))


if __name__ == "__main__":
    main()
