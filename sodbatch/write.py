"""Write: picture rows become parts of the two tables, published atomically.

The part of ``images`` is the commit: what belongs to it (drawn pictures, JSON, the part of ``detections``) is
there before it.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from sodbatch.errors import RunEndedError
from sodbatch.ids import part_name
from sodbatch.ledger import FINGERPRINT_KEY, is_stray, part_urls, read_parts
from sodbatch.record import Rank, check_ours, fingerprint_id, read_record
from sodbatch.storage import Storage, display_uri
from sodbatch.tables import FAILED, TIMED_STAGES, explode_detections, images_schema, to_parquet

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
"""Folder name that Hive, Spark, DuckDB and pyarrow read as a null partition value."""

_LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""Errors of a disk that only a person can mend."""


@contextmanager
def ending_when_full(output: str) -> Iterator[None]:
    """Let a run end that cannot write to its output any more, where trying again would only cost time.

    Raises:
        RunEndedError: The disk is full, a quota used up, or the file system has become read-only.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _LASTING:
            raise
        raise RunEndedError(
            f"cannot write to {display_uri(output)}: {error.strerror}; what is committed stays, and the same command "
            "goes on once that is mended"
        ) from error


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

    @property
    def rank(self) -> Rank:
        """Which of two runs on one output may write."""
        return Rank(self.attempt, self.run_id)


@dataclass(frozen=True)
class Written:
    """What one write committed.

    Attributes:
        pictures: How many.
        failed: How many of them failed.
        notes: Lines for a person.
        errors: For each error class how many failed of it, and the first of them in words.
    """

    pictures: int
    failed: int
    notes: tuple[str, ...] = ()
    errors: Mapping[str, tuple[int, str]] = field(default_factory=dict)


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
        """Publish rows of :func:`sodbatch.tables.inferred_schema`; a repeated call lands on itself.

        Raises:
            RunEndedError: The output belongs to another run by now, or its disk is full.
        """
        self._check_ours()
        started = time.perf_counter()
        with ending_when_full(self.output):
            notes = [note for companion in self.companions for note in companion(rows)]
            for folder, part in self._partitions(rows):
                self._publish(folder, part, started)
                started = time.perf_counter()
        failed = rows.filter(pc.equal(rows["status"], FAILED))
        return Written(len(rows), len(failed), tuple(notes), _errors(failed))

    def _check_ours(self) -> None:
        check_ours(self.output, self.run.rank, self.run.fingerprint, self.storage)

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
            {FINGERPRINT_KEY: self.run.fingerprint}
            | {f"sodbatch.{stage}_seconds": f"{value:.3f}" for stage, value in seconds.items()}
        )
        data = to_parquet(images)
        try:
            self._check_ours()
            self.storage.write_atomic(f"{self.output}/images/{name}", data)
            self._check_ours()
        except RunEndedError:
            self._withdraw(name, set(images["image_id"].to_pylist()))
            raise

    def _withdraw(self, name: str, image_ids: set[str]) -> None:
        """Take a part back that came too late: all of its pictures stand in parts of the run that has taken over.

        That run may as well have made a part of the same name, which then stays, or not have come to these pictures; it
        takes out itself what stands twice when it ends.
        """
        images = f"{self.output}/images/{name}"
        record = read_record(self.output, self.storage)
        others = [url for url in part_urls(self.output, "images", self.storage) if not url.endswith(f"/{name}")]
        for rows in read_parts(others, ["image_id"], self.storage):
            if record is not None and not is_stray(rows, fingerprint_id(record["fingerprint"])):
                image_ids.difference_update(rows["image_id"].to_pylist())
        if not image_ids:
            self.storage.delete(images)
        if not self.storage.exists(images):
            self.storage.delete(f"{self.output}/detections/{name}")

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


def _errors(failed: pa.Table) -> dict[str, tuple[int, str]]:
    """Count rows by their error class, and say where and why the first of each failed."""
    errors: dict[str, tuple[int, str]] = {}
    for row in failed.select(["uri", "error_class", "error_message"]).to_pylist():
        number, example = errors.get(row["error_class"], (0, f"{row['uri']}: {row['error_message']}"))
        errors[row["error_class"]] = (number + 1, example)
    return errors


def partition_folder(column: str, value: str | None) -> str:
    """Name a hive partition's folder, as Spark and pyarrow write it: ``column=value``, percent-encoded."""
    text = HIVE_NULL if value is None else quote(value, safe="")
    return f"{quote(column, safe='')}={text or HIVE_NULL}"
