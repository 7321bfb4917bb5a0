"""Manifests that are text: .txt (a path a line), .csv, .jsonl; UTF-8, with or without a byte order mark."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from itertools import islice
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc

from sodbatch.errors import UsageError
from sodbatch.manifest.json_values import fits, infer_type, scalar
from sodbatch.manifest.rows import (
    FIRST_ROWS,
    MAX_LINE_BYTES,
    Rows,
    choose_base,
    find_path_column,
    list_bases,
    listing,
    passthrough_fields,
)
from sodbatch.storage import Storage, display_uri

_BLOCK_BYTES = 1 << 22
csv.field_size_limit(MAX_LINE_BYTES)  # the module's own bound is 128 KiB


class TxtManifest:
    """A path a line; blank lines are no inputs."""

    passthrough = pa.schema([])
    expected = "a path a line"

    def __init__(self, url: str, storage: Storage) -> None:
        self.name = display_uri(url)
        self._url = url
        self._storage = storage
        first = next(self._lines(), pa.array([], pa.string()))[:FIRST_ROWS].to_pylist()
        self._rows = Rows(self.name, choose_base(list_bases(url), first, storage))

    def tables(self, rows: int) -> Iterator[pa.Table]:
        """Stream the lines."""
        for lines in self._lines():
            for start in range(0, len(lines), rows):
                yield self._rows.table(lines[start : start + rows], 0)

    def count_hint(self) -> int | None:
        """Return None: lines are not counted ahead."""
        return None

    def _lines(self) -> Iterator[pa.Array]:
        """Yield the lines that are not blank, a block of the file at a time."""
        with self._storage.open(self._url) as file:
            for number, block in _blocks(file, self.name):
                yield self._split(block, number)

    def _split(self, block: bytes, first_line: int) -> pa.Array:
        try:
            text = block.decode("utf-8-sig" if first_line == 1 else "utf-8")
        except UnicodeDecodeError as error:
            line = first_line + block[: error.start].count(b"\n")
            raise UsageError(f"{self.name}, line {line}: expected UTF-8, found other bytes") from error
        lines = pc.utf8_rtrim(pa.array(text.split("\n"), pa.string()), "\r")
        return lines.filter(pc.not_equal(pc.utf8_trim_whitespace(lines), ""))


def _blocks(file: IO[bytes], name: str) -> Iterator[tuple[int, bytes]]:
    """Yield blocks of whole lines, without the last line's end, and the number of each block's first line.

    Raises:
        UsageError: A line is longer than ``MAX_LINE_BYTES``.
    """
    number, rest = 1, b""
    while block := file.read(_BLOCK_BYTES):
        head, newline, tail = block.rpartition(b"\n")
        if newline:
            yield number, rest + head
            number += block.count(b"\n")
            rest = tail
        else:
            rest += block
        if len(rest) > MAX_LINE_BYTES:
            raise UsageError(f"{name}, line {number}: longer than {MAX_LINE_BYTES:,} bytes; expected a line each")
    yield number, rest


class CsvManifest:
    """Comma-separated values with a header line; every column stays text."""

    expected = "rows under its header"

    def __init__(self, url: str, storage: Storage, path_column: str | None) -> None:
        self.name = display_uri(url)
        self._url = url
        self._storage = storage
        records = self._records()
        header = next(records, None)
        if header is None:
            raise UsageError(f"{self.name} is empty: expected a header line")
        names = [name or f"column_{i}" for i, name in enumerate(header)]
        self._path_index = names.index(find_path_column(names, path_column, self.name))
        others = [pa.field(name, pa.string()) for i, name in enumerate(names) if i != self._path_index]
        self.passthrough = pa.schema(passthrough_fields(others, self.name))
        first = [record[self._path_index] for record in islice(records, FIRST_ROWS)]
        self._rows = Rows(self.name, choose_base(list_bases(url), first, storage))

    def tables(self, rows: int) -> Iterator[pa.Table]:
        """Stream the records."""
        records = islice(self._records(), 1, None)
        start = 0
        while chunk := list(islice(records, rows)):
            columns = [pa.array(column, pa.string()) for column in zip(*chunk)]
            paths = columns.pop(self._path_index)
            yield self._rows.table(paths, start, list(zip(self.passthrough, columns)))
            start += len(chunk)

    def count_hint(self) -> int | None:
        """Return None: records are not counted ahead."""
        return None

    def _records(self) -> Iterator[list[str]]:
        """Yield the header, then the records, all of the header's length; blank lines are skipped."""
        with self._storage.open(self._url) as file:
            reader = csv.reader(_bounded_lines(io.TextIOWrapper(file, encoding="utf-8-sig", newline="")), strict=True)
            length = None
            try:
                for record in reader:
                    if not record:
                        continue
                    length = length or len(record)
                    if len(record) != length:
                        raise UsageError(
                            f"{self.name}, line {reader.line_num}: {len(record)} columns where the header has {length}"
                        )
                    yield record
            except csv.Error as error:
                raise UsageError(f"{self.name}, line {reader.line_num}: not valid CSV: {error}") from error
            except UnicodeDecodeError as error:
                raise UsageError(f"{self.name}, after line {reader.line_num}: expected UTF-8") from error


def _bounded_lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            raise csv.Error(f"a line is longer than {MAX_LINE_BYTES:,} characters")
        yield line


class JsonlManifest:
    """A JSON object a line; blank lines are skipped.

    The columns and their types are those of the first 1,000 objects (one that is null in all of them is text;
    objects and lists are kept as JSON text). A later line with another column or type is an error that names it.
    """

    expected = "a JSON object a line"

    def __init__(self, url: str, storage: Storage, path_column: str | None) -> None:
        self.name = display_uri(url)
        self._url = url
        self._storage = storage
        first = list(islice(self._objects(), FIRST_ROWS))
        if not first:
            raise UsageError(f"{self.name} is empty: expected {self.expected}")
        names = list(dict.fromkeys(name for _, record in first for name in record))
        kinds = {name: {type(record.get(name)) for _, record in first} - {type(None)} for name in names}
        not_text = [name for name, found in kinds.items() if found and str not in found]
        self._path = find_path_column(names, path_column, self.name, not_text)
        self._names = [name for name in names if name != self._path]
        types = {name: infer_type(self.name, name, [record.get(name) for _, record in first]) for name in self._names}
        self.passthrough = pa.schema(passthrough_fields([pa.field(*item) for item in types.items()], self.name))
        paths = [record.get(self._path) for _, record in first]
        self._rows = Rows(self.name, choose_base(list_bases(url), paths, storage))

    def tables(self, rows: int) -> Iterator[pa.Table]:
        """Stream the objects."""
        objects = self._objects()
        known = {self._path, *self._names}
        start = 0
        while chunk := list(islice(objects, rows)):
            for line, record in chunk:
                if not record.keys() <= known:
                    new = sorted(record.keys() - known)
                    raise UsageError(
                        f"{self.name}, line {line}: {listing(new)} not among the columns of the first "
                        f"{FIRST_ROWS:,} lines; name every column (null where absent) in the first line"
                    )
            paths = self._column(self._path, pa.string(), chunk)
            others = [
                (field, self._column(name, field.type, chunk)) for name, field in zip(self._names, self.passthrough)
            ]
            yield self._rows.table(paths, start, others)
            start += len(chunk)

    def count_hint(self) -> int | None:
        """Return None: lines are not counted ahead."""
        return None

    def _objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        with self._storage.open(self._url) as file:
            for first, block in _blocks(file, self.name):
                for number, line in enumerate(block.split(b"\n"), start=first):
                    if line.strip():
                        yield number, self._parse(line, number)

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            if b"\\u" in line:
                json.dumps(record, ensure_ascii=False).encode()  # half of a surrogate pair is no text
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{self.name}, line {number}: not valid JSON: {error}") from error
        if not isinstance(record, dict):
            raise UsageError(f"{self.name}, line {number}: expected an object, found {type(record).__name__}")
        return record

    def _column(self, name: str, kind: pa.DataType, chunk: list[tuple[int, dict[str, Any]]]) -> pa.Array:
        values = [scalar(record.get(name)) for _, record in chunk]
        if fits(values, kind):
            return pa.array(values, kind)
        line, value = next((line, v) for (line, _), v in zip(chunk, values) if not fits([v], kind))
        raise UsageError(
            f"{self.name}, line {line}: {name} is {str(value)[:40]!r}, expected {kind} as in the lines before"
        )
