"""Run benchmarks: all of them, or those that are named.

    python -m benchmarks [NAME ...] [--pictures DIR] ...

Each prints Markdown tables and leaves its raw times in OUTPUT/NAME.json; all tables together are in
OUTPUT/benchmarks.md. Without ``--pictures``, pictures are drawn; without ``--paddlex-python``, the interpreter of an
environment with ``paddlepaddle==3.2.2 'paddlex[cv]==3.7.2'`` (and ``onnxruntime`` for its mode of that name), PaddleX
is left out. The machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import cv2

from benchmarks.measure import SUFFIXES, Result, Setup, Table
from sodbatch.scenes import make_scene

BENCHMARKS = (
    "throughput",
    "crowded",
    "overhead",
    "models",
    "start",
    "memory",
    "scale",
    "ledger",
    "boxes",
    "dataset",
    "evaluate",
    "training",
)
DRAWN = 40
DRAWN_SIZE = (765, 1360)


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", choices=[[], *BENCHMARKS], metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--pictures", type=Path, help="a folder of pictures")
    parser.add_argument("--models", type=Path, help="folder of S, L, largesize-L; exported there where missing")
    parser.add_argument("--paddlex-python", help="interpreter of an environment with PaddleX")
    parser.add_argument("--paddledet", type=Path, help="a clone of PaddleDetection, run by --paddlex-python")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="short runs, to try the benchmarks themselves")
    parser.add_argument("--output", type=Path, default=Path("output/bench"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    pictures = options.pictures or _draw(options.output.resolve() / "pictures")
    found = tuple(sorted(path.resolve() for path in pictures.iterdir() if path.suffix.lower() in SUFFIXES))
    if not found:
        parser.error(f"--pictures {pictures} has no pictures")
    for name in options.names or BENCHMARKS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="bench-", dir=options.output) as work:
            models = (options.models or options.output / "models").resolve()
            setup = Setup(
                found,
                models,
                Path(work).resolve(),
                options.paddlex_python,
                options.paddledet and options.paddledet.resolve(),
                options.rounds,
                options.small,
            )
            _keep(options.output, name, import_module(f"benchmarks.{name}").measure(setup), setup)
    print((options.output / "benchmarks.md").read_text())
    return 0


def _draw(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(DRAWN):
        cv2.imwrite(str(folder / f"{number:02}.jpg"), make_scene((0, number), *DRAWN_SIZE).picture)
    return folder


def _keep(output: Path, name: str, result: Result, setup: Setup) -> None:
    """Write one benchmark's JSON, and the tables of all that have been run."""
    content = {
        "machine": f"{_processor()}, {setup.threads} cores",
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "rounds": setup.rounds,
        "small": setup.small,
        "tables": [asdict(table) for table in result.tables],
        "raw": result.raw,
    }
    (output / f"{name}.json").write_text(json.dumps(content, indent=1))
    kept = [json.loads(path.read_text()) for other in BENCHMARKS if (path := output / f"{other}.json").exists()]
    tables = [Table(**table).markdown() for content in kept for table in content["tables"]]
    (output / "benchmarks.md").write_text("\n".join(tables))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


if __name__ == "__main__":
    sys.exit(main())
