"""Manifest: ``Predict.input`` to a stream of source rows.

An input is a picture, a folder, a glob, a URL, a manifest file (.txt, .csv, .jsonl, .parquet, a folder of .parquet
parts, COCO .json), or a list of these; local, ``s3://`` or any other fsspec scheme. Nothing is held whole in memory
but the names of one local folder, a COCO file's buffer, or what a list names itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from sodbatch.errors import UsageError
from sodbatch.manifest.open import open_reader
from sodbatch.manifest.pictures import PictureList, PictureTree
from sodbatch.manifest.rows import SOURCE_SCHEMA, Reader, cannot_read, unify
from sodbatch.storage import Storage
from sodbatch.write import partition_folder

__all__ = ["Manifest", "open_manifest"]

_ETAG_THREADS = 16

MAX_FOLDER_BYTES = 255
"""What file systems allow the name of a folder."""


class Manifest:
    """The inputs of a job as a stream of tables, which the driver lists.

    Args:
        readers: One for each input, in order.
        storage: Where etags are asked for.
        with_etag: Fill ``etag``; else it is null.
        partition_by: The column whose values will name folders.

    Attributes:
        passthrough: The columns after ``source``, ``uri`` and ``etag``, the union over all inputs.

    Raises:
        UsageError: Two inputs give one column different types.
    """

    def __init__(
        self, readers: Sequence[Reader], storage: Storage, with_etag: bool = False, partition_by: str | None = None
    ) -> None:
        self._readers = tuple(readers)
        self._storage = storage
        self._with_etag = with_etag
        self._partition_by = partition_by
        self.passthrough: pa.Schema = unify([(reader.name, reader.passthrough) for reader in readers])

    def tables(self, rows: int = 10_000) -> Iterator[pa.Table]:
        """Stream the source rows, in the same order each time.

        Args:
            rows: The most rows of one table.

        Yields:
            Tables, none of them empty, of ``source``, ``uri``, ``etag`` (strings; only etag may be null) and the
            columns that pass through, null where an input has no such column.

        Raises:
            UsageError: A manifest cannot be read on, with its name and where possible the line; or a value of
                ``partition_by`` is too long for the name of a folder.
        """
        schema = pa.schema([*SOURCE_SCHEMA, *self.passthrough])
        for reader in self._readers:
            for table in _stream(reader, rows):
                columns = {name: table[name] for name in table.column_names}
                if self._partition_by is not None and self._partition_by in columns:
                    _check_folders(reader.name, self._partition_by, columns[self._partition_by])
                if self._with_etag:
                    columns["etag"] = self._etags(table)
                yield pa.table([columns.get(f.name, pa.nulls(len(table), f.type)) for f in schema], schema=schema)

    def count_hint(self) -> int | None:
        """Return how many rows there are, where that is known without reading them; else None."""
        counts = [reader.count_hint() for reader in self._readers]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def _etags(self, table: pa.Table) -> pa.Array:
        """Take the listing's etags and ask the store for those that it did not give; null where it cannot say."""
        etags = table["etag"].combine_chunks()
        if not etags.null_count:
            return etags
        unknown = table["source"].filter(pc.is_null(etags)).to_pylist()
        with ThreadPoolExecutor(_ETAG_THREADS) as pool:
            found = list(pool.map(self._etag, unknown))
        return pc.replace_with_mask(etags, pc.is_null(etags), pa.array(found, pa.string()))

    def _etag(self, source: str) -> str | None:
        try:
            return self._storage.info(source).etag if source else None
        except Exception:
            return None


def open_manifest(
    inputs: str | Sequence[str],
    storage: Storage,
    *,
    path_column: str | None = None,
    with_etag: bool = False,
    partition_by: str | None = None,
) -> Manifest:
    """Open the inputs of a job.

    Paths inside a manifest may be URLs, absolute, or relative to the manifest's folder. For the users of PaddleX,
    whose lists are relative to the working directory: where none of a local manifest's first 10 relative paths
    exists beside it, and one exists under the working directory, all its relative paths are taken from there.

    Args:
        inputs: One input or a list of them; within a list, a URL of a picture is not checked for existence.
        storage: Opens them.
        path_column: The column of csv, jsonl and parquet manifests that holds the path; by default the first of
            uri, path, image, image_path, file_name, url.
        with_etag: Fill ``etag``, from listings or by asking the store for each row.
        partition_by: The column whose values will name folders, so that they must fit into one.

    Raises:
        UsageError: There is no such input, it names no picture, or it cannot be read.
    """
    names = [inputs] if isinstance(inputs, str) else list(inputs)
    if not names or not all(names):
        raise UsageError("Predict.input is empty: name a picture, a folder, a glob, a URL or a manifest")
    readers: list[Reader] = []
    for name in names:
        reader = open_reader(name, storage, path_column=path_column, with_etag=with_etag, check=len(names) == 1)
        if isinstance(reader, PictureList) and readers and isinstance(readers[-1], PictureList):
            readers[-1].sources.extend(reader.sources)
            continue
        if _is_empty(reader):
            raise UsageError(f"{reader.name} names no picture ({reader.expected})")
        readers.append(reader)
    return Manifest(readers, storage, with_etag, partition_by)


def _check_folders(manifest: str, column: str, values: pa.ChunkedArray) -> None:
    for value in pc.unique(values.cast(pa.string())).to_pylist():
        if len(partition_folder(column, value)) > MAX_FOLDER_BYTES:
            raise UsageError(
                f"{manifest}: a value of {column!r}, {value[:40]!r}..., makes a folder's name of more than "
                f"{MAX_FOLDER_BYTES} bytes; Output.partition_by needs a column of short values"
            )


def _is_empty(reader: Reader) -> bool:
    try:
        return reader.is_empty() if isinstance(reader, PictureTree) else next(_stream(reader, 1), None) is None
    except OSError as error:
        raise cannot_read(reader.name, error) from error


def _stream(reader: Reader, rows: int) -> Iterator[pa.Table]:
    try:
        yield from reader.tables(rows)
    except (OSError, pa.ArrowException) as error:
        raise cannot_read(reader.name, error) from error
