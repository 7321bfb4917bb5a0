"""Long manifests with a predictor that does nothing: time, memory of the driver, first picture, resume.

Pictures are tiny and the model's input is 64 x 64, so that listing, driver, ledger and tables are what is measured.
Paths are all different: links to one folder of small pictures. Targets: first picture within 30 s of start-up, driver
at most 1 GiB over its base, resume over 1,000,000 rows within 60 s, ten times the inputs in ten times the time.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from benchmarks.measure import MIB, NAMES, NOOP, Result, Setup, Table, predict_command
from benchmarks.overhead import LIKE_A_GPU
from benchmarks.processes import Sampled, run_sampled
from benchmarks.s3_bucket import bucket_of
from sodbatch.model.export import export_state
from sodbatch.model.seeded import seeded_state
from sodbatch.model.spec import SPECS

FILES = 1000
"""Distinct pictures; each folder of them stands for as many inputs."""

BASE = 100
"""Inputs of the run whose driver is the base for the others."""


@dataclass(frozen=True)
class Scaled:
    """One run: when it had begun its work and had committed the first part, in seconds, and what was sampled."""

    begun: float
    first: float
    sampled: Sampled


def measure(setup: Setup) -> Result:
    """Run the benchmark."""
    model = setup.work / "model"
    exporting = multiprocessing.get_context("spawn").Process(target=_export, args=(model,))
    exporting.start()
    exporting.join()
    pictures = _pictures(setup.work / "tiny")
    sizes = [setup.size(10**power, 10 ** (power - 2)) for power in (4, 5, 6)]
    base = _run(setup, model, _manifest(setup.work, pictures, BASE, "parquet"), setup.output())
    rows, raw = [], {"base": _raw(base)}
    for count in sizes:
        output = setup.output()
        manifest = _manifest(setup.work, pictures, count, "parquet")
        rows.append(_keep(raw, f"parquet, {count:,}", count, _run(setup, model, manifest, output), base))
    rows.append(_keep(raw, f"the same again, {sizes[-1]:,} rows in the ledger", 0, _resume(setup, model, output), base))
    manifest = _manifest(setup.work, pictures, sizes[-1], "csv")
    rows.append(_keep(raw, f"csv, {sizes[-1]:,}", sizes[-1], _run(setup, model, manifest, setup.output()), base))
    count = setup.size(100_000, 2_000)
    with bucket_of(sorted(pictures.iterdir()), count, setup.work / "s3") as (url, endpoint):
        s3 = _run(setup, model, url, setup.output(), S3__endpoint_url=endpoint, S3__region="us-east-1")
    rows.append(_keep(raw, f"listing of an S3 bucket, {count:,}", count, s3, base))
    header = ["inputs", "whole command (s)", "inputs/s", "work begun (s)", "first commit after that (s)"]
    title = f"Long manifests, no-op predictor, 64 x 64, {setup.threads} cores; the base is a run of {BASE} inputs"
    return Result([Table(title, [*header, "driver over base (MiB)"], rows)], raw)


def _export(folder: Path) -> None:
    spec = replace(SPECS[NAMES["tiny"]], input_size=(64, 64))
    export_state(spec, seeded_state(spec), folder)


def _pictures(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(FILES):
        cv2.imwrite(str(folder / f"{number:03}.jpg"), rng.integers(0, 256, (32, 32, 3), np.uint8))
    return folder


def _manifest(work: Path, pictures: Path, count: int, kind: str) -> Path:
    """Write a manifest of so many inputs, in pieces."""
    path = work / f"{count}.{kind}"
    schema = pa.schema([("uri", pa.string()), ("flight", pa.int64())])
    with (pyarrow.csv.CSVWriter if kind == "csv" else pq.ParquetWriter)(str(path), schema) as writer:
        for folder, size in _folders(work, pictures, count):
            uris = pa.array([f"{folder}/{number:03}.jpg" for number in range(size)])
            writer.write_table(pa.table([uris, pa.array(range(size), pa.int64())], schema=schema))
    return path


def _folders(work: Path, pictures: Path, count: int) -> Iterator[tuple[Path, int]]:
    links = work / "links"
    links.mkdir(exist_ok=True)
    for number, start in enumerate(range(0, count, FILES)):
        link = links / f"{number:04}"
        if not link.exists():
            link.symlink_to(pictures)
        yield link, min(FILES, count - start)


def _run(setup: Setup, model: Path, source: Path | str, output: Path, **keys: Any) -> Scaled:
    """Run and look for the run's record, which is written when the engine is up, and for the first part."""
    seen: dict[str, float] = {}
    record, images = output / "run.json", output / "images"
    old = {path.name for path in images.glob("*.parquet")}
    written = record.stat().st_mtime_ns if record.exists() else 0

    def look(seconds: float) -> None:
        if "begun" not in seen and record.exists() and record.stat().st_mtime_ns > written:
            seen["begun"] = seconds
        if "first" not in seen and any(path.name not in old for path in images.glob("*.parquet")):
            seen["first"] = seconds

    settings = LIKE_A_GPU | keys
    sampled = run_sampled(predict_command(NOOP, model, source, output, **settings), 0.25, only_driver=True, look=look)
    return Scaled(seen.get("begun", sampled.seconds), seen.get("first", sampled.seconds), sampled)


def _resume(setup: Setup, model: Path, output: Path) -> Scaled:
    """Run once more on an output that lacks one part."""
    next((output / "images").glob("*.parquet")).unlink()
    manifest = max(setup.work.glob("*.parquet"), key=lambda path: path.stat().st_size)
    return _run(setup, model, manifest, output)


def _keep(raw: dict[str, Any], name: str, count: int, run: Scaled, base: Scaled) -> list[Any]:
    """Keep the raw figures of a run and return its row of the table."""
    raw[name] = _raw(run)
    seconds = run.sampled.seconds
    over = (run.sampled.driver_peak - base.sampled.driver_peak) / MIB
    return [name, seconds, count / seconds if count else None, run.begun, run.first - run.begun, over]


def _raw(run: Scaled) -> dict[str, Any]:
    memory = [(sample.seconds, *(usage.bytes for usage in sample.processes.values())) for sample in run.sampled.samples]
    return {"seconds": run.sampled.seconds, "begun": run.begun, "first": run.first, "driver": memory[::20]}
