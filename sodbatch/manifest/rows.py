"""Source rows: how the paths of a manifest become ``source`` and ``uri``, and what its other columns are called."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from sodbatch.errors import UsageError
from sodbatch.storage import Storage, display_column, local_path, redact
from sodbatch.storage.uris import redact_column
from sodbatch.tables import RESERVED_COLUMNS

PATH_COLUMNS = ("uri", "path", "image", "image_path", "file_name", "url")
SOURCE_SCHEMA = pa.schema([pa.field(name, pa.string(), name == "etag") for name in ("source", "uri", "etag")])

FIRST_ROWS = 1_000
"""Rows of a manifest that are looked at when it is opened."""

MAX_LINE_BYTES = 1 << 26
"""Of a line of any manifest, and of a value of a COCO file: enough for captions and JSON; a bound on the memory."""

_ABSOLUTE = r"^(?:/|[A-Za-z][A-Za-z0-9+.\-]*://|[A-Za-z][A-Za-z0-9+.\-]*::|file:/)"
_PROBES = 10

MAX_LISTING = 400
"""Most characters of the names of columns in a message."""


class Reader(Protocol):
    """One input.

    Attributes:
        name: What messages call it, without secrets.
        passthrough: Its columns beside ``source``, ``uri`` and ``etag``.
        expected: What would have made it non-empty, for a message.
    """

    name: str
    passthrough: pa.Schema
    expected: str

    def tables(self, rows: int) -> Iterator[pa.Table]:
        """Stream tables of at most ``rows`` rows: ``source``, ``uri``, ``etag``, then ``passthrough``."""

    def count_hint(self) -> int | None:
        """Return the number of rows where it is known."""


@dataclass(frozen=True)
class Rows:
    """Builds source rows out of a manifest's path column.

    Attributes:
        uri: The manifest's own, without secrets.
        base: The folder of its relative paths.
    """

    uri: str
    base: str

    def table(self, paths: pa.Array, first_row: int, others: Sequence[tuple[pa.Field, pa.Array]] = ()) -> pa.Table:
        """Build a table.

        Args:
            paths: Strings; a null or blank one gives source ``""`` and the uri ``MANIFEST#row=N``, so that it
                stays a row of its own.
            first_row: The number of the first of them in the manifest, from 0.
            others: The columns that pass through; URLs in text lose their secrets.
        """
        blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(paths), ""), True)
        sources = self._resolve(_without_margin(pc.if_else(blank, "", paths)), blank)
        uris = display_column(sources)
        if blank.true_count:
            numbers = pa.array(range(first_row, first_row + len(paths))).filter(blank).cast(pa.string())
            marks = pc.binary_join_element_wise(f"{self.uri}#row=", numbers, "")
            uris = pc.replace_with_mask(uris, blank, marks)
        schema = pa.schema([*SOURCE_SCHEMA, *(field for field, _ in others)])
        etags = pa.nulls(len(paths), pa.string())
        passed = [redact_column(values) for _, values in others]
        return pa.table([sources, uris, etags, *passed], schema=schema)

    def _resolve(self, paths: pa.Array, blank: pa.Array) -> pa.Array:
        relative = pc.invert(pc.or_(blank, pc.match_substring_regex(paths, _ABSOLUTE)))
        if not relative.true_count:
            return paths
        chosen = paths.filter(relative)
        if pc.any(pc.match_substring_regex(chosen, r"(?:^|/)\.{0,2}/")).as_py():
            joined = pa.array([join(self.base, path) for path in chosen.to_pylist()], pa.string())
        else:
            joined = pc.binary_join_element_wise(self.base.rstrip("/"), chosen, "/")
        return pc.replace_with_mask(paths, relative, joined)


def _without_margin(paths: pa.Array) -> pa.Array:
    """Take the blanks before URLs away, as CSV has them after commas; of a path, or the end of a key, they are part."""
    urls = pc.match_substring_regex(paths, r"^\s+[A-Za-z][A-Za-z0-9+.\-]*://")
    return pc.if_else(urls, pc.utf8_ltrim_whitespace(paths), paths) if urls.true_count else paths


def cannot_read(name: str, error: Exception) -> UsageError:
    """Say in one line why an input could not be read."""
    if isinstance(error, FileNotFoundError):
        return UsageError(f"no such input: {name}")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UsageError(f"cannot read {name}: {' '.join(redact(reason).split())}")


def join(base: str, path: str) -> str:
    """Join a relative path to a folder's path or URL, without ``.`` and ``..``."""
    scheme, separator, rest = base.rpartition("://")
    return scheme + separator + posixpath.normpath(posixpath.join(rest, path))


def folder_of(url: str) -> str:
    """Return the folder (absolute path or URL) in which a file lies."""
    path = local_path(url)
    return os.path.dirname(os.path.abspath(path)) if path is not None else re.split(r"[?#]", url)[0].rsplit("/", 1)[0]


def choose_base(candidates: Sequence[str], first_paths: Iterable[Any], storage: Storage) -> str:
    """Return the first folder that has one of a manifest's first relative paths; the first of all if none has.

    Asked once when the manifest is opened, for 10 paths at most, never row by row. What is no text is passed over.
    """
    paths = (path for path in first_paths if isinstance(path, str) and path)
    relative = [path for path in paths if not re.match(_ABSOLUTE, path)][:_PROBES]
    for candidate in candidates if len(candidates) > 1 else ():
        if any(storage.exists(join(candidate, path)) for path in relative):
            return candidate
    return candidates[0]


def list_bases(url: str) -> list[str]:
    """Return the folders that the relative paths of a list may be taken from: the list's own, then the current."""
    folder = folder_of(url)
    return [folder, os.getcwd()] if local_path(url) is not None and folder != os.getcwd() else [folder]


def listing(names: Iterable[str]) -> str:
    """Name columns in one line of a bounded length, whatever is in their names."""
    text = " ".join(", ".join(names).split())
    return text if len(text) <= MAX_LISTING else f"{text[:MAX_LISTING]} ..."


def find_path_column(
    names: Sequence[str], path_column: str | None, manifest: str, not_text: Collection[str] = ()
) -> str:
    """Return the column that holds the path.

    Args:
        names: All columns.
        path_column: The one asked for; by default the first of ``PATH_COLUMNS`` that is text.
        manifest: Its name, for messages.
        not_text: The columns that cannot hold paths.

    Raises:
        UsageError: There is none, with the names of those that there are; or the one asked for is not text.
    """
    if path_column in not_text:
        raise UsageError(
            f"{manifest}: the column {path_column!r} holds no text; set Predict.path_column to one that does"
        )
    wanted = (path_column,) if path_column else PATH_COLUMNS
    for name in wanted:
        if name in names and name not in not_text:
            return name
    have = listing(names) or "none"
    expected = f"the column {path_column!r}" if path_column else f"a column named one of {', '.join(PATH_COLUMNS)}"
    raise UsageError(f"{manifest} lacks {expected} (its columns: {have}); set Predict.path_column")


def passthrough_fields(fields: Iterable[pa.Field], manifest: str) -> list[pa.Field]:
    """Rename the columns that collide with the tables' own to ``manifest_<name>``, and drop Arrow metadata.

    Raises:
        UsageError: Two columns end up with one name.
    """
    fields = list(fields)
    taken = {f.name.lower() for f in fields}
    renamed = [pa.field(_free_name(f.name, taken), f.type) for f in fields]
    names = [field.name.lower() for field in renamed]
    for field in renamed:
        if names.count(field.name.lower()) > 1:
            raise UsageError(f"{manifest} has two columns that would be called {field.name!r}; rename one")
    return renamed


def _free_name(name: str, taken: set[str]) -> str:
    """Return a column's name, or for one of the tables' own ``manifest_<name>``, numbered where that is taken."""
    if name.lower() not in RESERVED_COLUMNS:
        return name
    free = f"manifest_{name}"
    number = 2
    while free.lower() in taken:
        free = f"manifest_{name}_{number}"
        number += 1
    return free


def unify(schemas: Sequence[tuple[str, pa.Schema]]) -> pa.Schema:
    """Return the union of the columns of several inputs, in order of first appearance.

    Args:
        schemas: The name of an input for messages, and its columns.

    Raises:
        UsageError: Two inputs give one column different types.
    """
    fields: dict[str, tuple[str, pa.Field]] = {}
    for name, schema in schemas:
        for field in schema:
            first, known = fields.setdefault(field.name, (name, field))
            if known.type == field.type or pa.types.is_null(field.type):
                continue
            if not pa.types.is_null(known.type):
                raise UsageError(
                    f"column {field.name!r} is {known.type} in {first} and {field.type} in {name}: make them equal"
                )
            fields[field.name] = (name, field)
    return pa.schema([field.with_nullable(True) for _, field in fields.values()])
