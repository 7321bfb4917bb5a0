"""Write: picture rows become parts of the two tables, published atomically.

The part of ``images`` is the commit: what belongs to it (drawn pictures, JSON, the part of ``detections``) is
there before it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from sodbatch.ids import part_name
from sodbatch.storage import Storage
from sodbatch.tables import OK, TIMED_STAGES, explode_detections, images_schema, to_parquet

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
"""Folder name that Hive, Spark, DuckDB and pyarrow read as a null partition value."""


@dataclass(frozen=True)
class Run:
    """Who writes: the same for all rows of one run.

    Attributes:
        run_id: Id of this run.
        attempt: Which run on this output, from 1.
        fingerprint: Of all that decides what a row says.
        model_name: Name of the model.
        model_fingerprint: SHA-256 over the model's files.
    """

    run_id: str
    attempt: int
    fingerprint: str
    model_name: str
    model_fingerprint: str


@dataclass(frozen=True)
class Written:
    """What one write committed: pictures, how many of them failed, and notes for a person."""

    pictures: int
    failed: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Write:
    """The last stage: publishes rows under a name made from what is in them.

    Attributes:
        output: Folder of the tables.
        storage: Where it lies.
        run: Who writes.
        passthrough: The manifest's own columns.
        partition_by: One of those, to be made a hive partition.
        companions: Called with the rows before the commit.
    """

    output: str
    storage: Storage
    run: Run
    passthrough: pa.Schema
    partition_by: str | None = None
    companions: tuple[Callable[[pa.Table], list[str]], ...] = ()

    def __call__(self, rows: pa.Table) -> Written:
        """Publish rows of :func:`sodbatch.tables.inferred_schema`; a repeated call lands on itself."""
        started = time.perf_counter()
        notes = [note for companion in self.companions for note in companion(rows)]
        for folder, part in self._partitions(rows):
            self._publish(folder, part, started)
            started = time.perf_counter()
        return Written(len(rows), len(rows) - pc.sum(pc.equal(rows["status"], OK)).as_py(), tuple(notes))

    def _partitions(self, rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
        if self.partition_by is None:
            yield "", rows
            return
        values = rows[self.partition_by].cast(pa.string()).to_pylist()
        folders = pa.array([partition_folder(self.partition_by, value) for value in values])
        for folder in pc.unique(folders):
            yield f"{folder}/", rows.filter(pc.equal(folders, folder))

    def _publish(self, folder: str, rows: pa.Table, started: float) -> None:
        images = self._images(rows)
        name = folder + part_name(images["image_id"].to_pylist(), self.run.fingerprint)
        self.storage.write_atomic(f"{self.output}/detections/{name}", to_parquet(explode_detections(images)))
        seconds = {stage: pc.sum(rows[f"{stage}_seconds"]).as_py() or 0.0 for stage in TIMED_STAGES[:-1]}
        seconds["write"] = time.perf_counter() - started
        images = images.replace_schema_metadata(
            {"sodbatch.run_fingerprint": self.run.fingerprint}
            | {f"sodbatch.{stage}_seconds": f"{value:.3f}" for stage, value in seconds.items()}
        )
        self.storage.write_atomic(f"{self.output}/images/{name}", to_parquet(images))

    def _images(self, rows: pa.Table) -> pa.Table:
        schema = images_schema(self.passthrough)
        if self.partition_by is not None:
            schema = schema.remove(schema.get_field_index(self.partition_by))
        constants = {
            "model_name": self.run.model_name,
            "model_fingerprint": self.run.model_fingerprint,
            "run_id": self.run.run_id,
            "attempt": self.run.attempt,
            "created_at": datetime.now(timezone.utc),
        }
        columns = [
            pa.repeat(pa.scalar(constants[field.name], field.type), len(rows))
            if field.name in constants
            else rows[field.name]
            for field in schema
        ]
        return pa.table(columns, schema=schema)


def partition_folder(column: str, value: str | None) -> str:
    """Name a hive partition's folder, as Spark and pyarrow write it: ``column=value``, percent-encoded."""
    text = HIVE_NULL if value is None else quote(value, safe="")
    return f"{quote(column, safe='')}={text or HIVE_NULL}"
