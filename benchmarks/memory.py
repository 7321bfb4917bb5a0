"""Memory of all processes over a long run, and the peak of a run with S beside that of a bare Ray Data job.

Targets: every process within 10 % after the first 500 pictures; the peak at most 1.5 GiB over Ray's own.
"""

from __future__ import annotations

import bisect
import statistics
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.measure import MIB, PREDICT, Result, Setup, Table, predict_command
from benchmarks.processes import Sampled, run_sampled

SETTLED = 500
"""Pictures after which memory is to stay."""


def measure(setup: Setup) -> Result:
    """Run the benchmark."""
    flat, flat_raw = _flat(setup, setup.size(5000, 1500))
    peaks, peaks_raw = _peaks(setup, setup.size(400, 24))
    return Result([flat, peaks], {"flat": flat_raw, "peaks": peaks_raw})


def _flat(setup: Setup, count: int) -> tuple[Table, list[dict[str, object]]]:
    output = setup.output()
    command = predict_command(PREDICT, setup.model("tiny"), setup.listing(count), output, Predict__engine="ray")
    watch = _Parts(output)
    sampled = run_sampled(command, 0.5, look=watch.look)
    settled, last = watch.seconds_at(SETTLED), watch.seconds_at(count)
    middle = (settled + last) / 2
    rows: list[list[object]] = []
    for name in sorted({usage.name for sample in sampled.samples for usage in sample.processes.values()}):
        halves = [_series(sampled, name, *half) for half in ((settled, middle), (middle, last))]
        if all(halves):
            most = [max(half) / MIB for half in halves]
            medians = [statistics.median(half) / MIB for half in halves]
            rows.append([name, medians[0], most[0], medians[1], most[1], (most[1] / most[0] - 1) * 100])
    title = (
        f"Memory over {count} pictures, a reduced network: anonymous memory between {SETTLED} pictures and half of the "
        "rest, and in the other half, in MiB; of several processes of a kind the largest"
    )
    header = ["process", "median", "most", "later: median", "most", "change of the most (%)"]
    return Table(title, header, rows), _raw(sampled)


class _Parts:
    """Looks how many rows are committed while a run goes on."""

    def __init__(self, output: Path) -> None:
        self._folder = output / "images"
        self._rows: Counter[Path] = Counter()
        self._seen: list[tuple[int, float]] = []

    def look(self, seconds: float) -> None:
        for part in self._folder.glob("*.parquet"):
            if part not in self._rows:
                self._rows[part] = pq.read_metadata(part).num_rows
        self._seen.append((sum(self._rows.values()), seconds))

    def seconds_at(self, rows: int) -> float:
        return self._seen[min(bisect.bisect_left(self._seen, (rows, 0.0)), len(self._seen) - 1)][1]


def _series(sampled: Sampled, name: str, since: float, until: float) -> list[int]:
    """Return, at each moment between, the most that a process of that name has of its own."""
    alive = [
        [usage.own for usage in sample.processes.values() if usage.name == name]
        for sample in sampled.samples
        if since <= sample.seconds < until
    ]
    return [max(sizes) for sizes in alive if sizes]


def _peaks(setup: Setup, count: int) -> tuple[Table, dict[str, object]]:
    listing, size = setup.listing(count), 640 * 640 * 3
    bare = [sys.executable, "-m", "benchmarks.bare_ray", str(count), str(size), "16"]
    runs = {"Ray alone: a job of the same shape that does nothing": run_sampled(bare, 0.5)}
    for engine in ("ray", "inline"):
        command = predict_command(PREDICT, setup.model("S"), listing, setup.output(), Predict__engine=engine)
        runs[f"sodbatch, {engine}, S"] = run_sampled(command, 0.5)
    [base, *_] = runs.values()
    rows = [[name, run.peak / MIB, (run.peak - base.peak) / MIB] for name, run in runs.items()]
    title = f"Peak memory of all processes together, {count} pictures, {setup.threads} cores"
    raw = {name: _raw(run) for name, run in runs.items()}
    return Table(title, ["", "peak (MiB)", "over Ray alone (MiB)"], rows), dict(raw)


def _raw(sampled: Sampled) -> list[dict[str, object]]:
    return [
        {"seconds": sample.seconds, "processes": {pid: asdict(usage) for pid, usage in sample.processes.items()}}
        for sample in sampled.samples
    ]
