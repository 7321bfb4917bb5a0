"""Manifests in Parquet: one file, or a folder of parts (hive partitions become text columns); types are kept."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from sodbatch.errors import UsageError
from sodbatch.manifest.rows import (
    FIRST_ROWS,
    Rows,
    cannot_read,
    choose_base,
    find_path_column,
    list_bases,
    passthrough_fields,
    unify,
)
from sodbatch.storage import Storage, display_uri

_FOOTER_THREADS = 16

STEP_ROWS = 500
"""Rows that are unpacked at once: what they take is not known before."""

TABLE_BYTES = 4 * 2**20
"""Bytes at which a table is large enough, however few its rows."""


@dataclass(frozen=True)
class _Part:
    url: str
    rows: int
    schema: pa.Schema
    partitions: dict[str, str]


class ParquetManifest:
    """Parquet parts read row group by row group, in the order of their names.

    Args:
        url: The file or folder.
        parts: The files.
        storage: Opens them.
        path_column: The column that holds the path, where it is not one of the usual ones.

    Raises:
        UsageError: A part cannot be read, lacks the path, or has a column of another type than the others.
    """

    expected = "rows"

    def __init__(self, url: str, parts: list[str], storage: Storage, path_column: str | None) -> None:
        self.name = display_uri(url)
        self._storage = storage
        with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
            self._parts = list(pool.map(lambda part: self._footer(url, part), parts))
        merged = unify([(display_uri(part.url), part.schema) for part in self._parts])
        text = (pa.string(), pa.binary(), pa.null())
        not_text = [field.name for field in merged if field.type not in text]
        self._path = find_path_column(merged.names, path_column, self.name, not_text)
        for part in self._parts:
            find_path_column(part.schema.names, self._path, display_uri(part.url))
        self._names = [name for name in merged.names if name != self._path]
        fields = [merged.field(name) for name in self._names]
        self.passthrough = pa.schema(passthrough_fields(fields, self.name))
        self._base = choose_base(list_bases(self._parts[0].url), self._first_paths(), storage)

    def tables(self, rows: int) -> Iterator[pa.Table]:
        """Stream the rows."""
        for part in self._parts:
            builder = Rows(display_uri(part.url), self._base)
            start = 0
            for batch in self._batches(part, rows):
                others = [
                    (field, self._column(batch, name, field.type, part))
                    for name, field in zip(self._names, self.passthrough)
                ]
                paths = self._column(batch, self._path, pa.string(), part)
                yield builder.table(paths, start, others)
                start += len(batch)

    def count_hint(self) -> int | None:
        """Return the rows that the files' metadata count."""
        return sum(part.rows for part in self._parts)

    def _footer(self, root: str, url: str) -> _Part:
        folders = url[len(root) :].split("/")[:-1] if url.startswith(root) else []
        partitions = {k: unquote(v) for k, mark, v in (folder.partition("=") for folder in folders) if mark}
        try:
            with self._storage.open(url) as file:
                footer = pq.ParquetFile(file)
                rows, schema = footer.metadata.num_rows, footer.schema_arrow
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # of a column's name
            raise cannot_read(display_uri(url), error) from error
        fields = [pa.field(field.name, _plain_type(field.type)) for field in schema]
        fields += [pa.field(name, pa.string()) for name in partitions if name not in schema.names]
        if len({field.name for field in fields}) < len(fields):
            raise UsageError(f"{display_uri(url)} has two columns of one name")
        return _Part(url, rows, pa.schema(fields), partitions)

    def _batches(self, part: _Part, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield batches of at most about ``rows`` rows and :data:`TABLE_BYTES`, whatever the file unpacks to."""
        with self._storage.open(part.url) as file:
            waiting: list[pa.RecordBatch] = []
            for batch in pq.ParquetFile(file).iter_batches(batch_size=min(rows, STEP_ROWS)):
                waiting.append(batch)
                if sum(map(len, waiting)) >= rows or sum(each.nbytes for each in waiting) >= TABLE_BYTES:
                    yield from pa.Table.from_batches(waiting).combine_chunks().to_batches()
                    waiting = []
            if waiting:
                yield from pa.Table.from_batches(waiting).combine_chunks().to_batches()

    def _first_paths(self) -> list[str]:
        for part in self._parts:
            for batch in self._batches(part, FIRST_ROWS):
                paths = self._column(batch, self._path, pa.string(), part).to_pylist()
                return [path for path in paths if path is not None]
        return []

    def _column(self, batch: pa.RecordBatch, name: str, kind: pa.DataType, part: _Part) -> pa.Array:
        if name in batch.schema.names:
            column = batch.column(name)
            column.validate(full=True)  # a file may hold text that is not UTF-8
            if isinstance(column, pa.ExtensionArray):
                column = column.storage
            return column.cast(kind)
        if name in part.partitions:
            return pa.repeat(pa.scalar(part.partitions[name], pa.string()), len(batch))
        return pa.nulls(len(batch), kind)


def list_parts(folder: str, storage: Storage) -> list[str]:
    """Return the Parquet files of a folder, but not those that lie under or have a name with ``_`` or ``.`` first.

    Such hold what is not yet committed (``_temporary``) or is no data (``_delta_log``); a partition may be ``_x=1``.
    """
    urls = (info.url for info in storage.list_files(folder))
    return sorted(url for url in urls if url.endswith(".parquet") and not _is_hidden(url[len(folder) :]))


def _is_hidden(path: str) -> bool:
    *folders, name = path.strip("/").split("/")
    return name.startswith(("_", ".")) or any(
        folder.startswith(".") or (folder.startswith("_") and "=" not in folder) for folder in folders
    )


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that a column has in the output: dictionaries, extensions, views become plain."""
    if isinstance(kind, pa.BaseExtensionType):
        return _plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_string_view(kind) or pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_binary_view(kind) or pa.types.is_large_binary(kind):
        return pa.binary()
    return kind
