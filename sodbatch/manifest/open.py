"""What an input is: told by its suffix, then by what lies there."""

from __future__ import annotations

import os

import pyarrow as pa

from sodbatch.manifest.coco import CocoManifest
from sodbatch.manifest.parquet import ParquetManifest, list_parts
from sodbatch.manifest.pictures import SUFFIXES, PictureList, PictureTree, has_magic, suffix
from sodbatch.manifest.rows import Reader, cannot_read
from sodbatch.manifest.text import CsvManifest, JsonlManifest, TxtManifest
from sodbatch.storage import Storage, display_uri, is_http, local_path, local_source

MANIFESTS = ("txt", "csv", "jsonl", "parquet", "json")
"""Suffixes of files that list pictures."""


def open_reader(source: str, storage: Storage, *, path_column: str | None, with_etag: bool, check: bool) -> Reader:
    """Open one input.

    Args:
        source: A path or URL.
        storage: Opens it.
        path_column: The column of a table that holds the path.
        with_etag: Whether listings should give etags.
        check: Whether the URL of a single picture is checked for existence.

    Raises:
        UsageError: There is no such input, or it cannot be read.
    """
    try:
        return _open(source, storage, path_column, with_etag, check)
    except (OSError, pa.ArrowException) as error:
        raise cannot_read(display_uri(source), error) from error


def _open(source: str, storage: Storage, path_column: str | None, with_etag: bool, check: bool) -> Reader:
    path = local_path(source)
    url = local_source(path) if path is not None else source
    kind = suffix(display_uri(source))
    exists = os.path.lexists(path) if path is not None else None
    if has_magic(source) and not exists and not is_http(source):
        if path is None and storage.exists(url):
            return PictureList([url])
        return PictureTree(url, storage, with_etag, is_glob=True)
    if kind in MANIFESTS and not (path is not None and os.path.isdir(path)):
        if kind == "parquet" and path is None and not is_http(source) and storage.isdir(url):
            return _open_folder(url, storage, path_column, with_etag)
        return _open_file(url, kind, storage, path_column)
    if path is not None:
        if os.path.isdir(path):
            return _open_folder(url, storage, path_column, with_etag)
        if not exists:
            raise FileNotFoundError(source)
        return PictureList([url])
    if is_http(source) or (kind in SUFFIXES and (not check or storage.exists(url))):
        return PictureList([url])
    if kind not in SUFFIXES and storage.isdir(url):
        return _open_folder(url, storage, path_column, with_etag)
    if kind not in SUFFIXES and storage.exists(url):
        return PictureList([url])
    raise FileNotFoundError(source)


def _open_file(url: str, kind: str, storage: Storage, path_column: str | None) -> Reader:
    if kind == "txt":
        return TxtManifest(url, storage)
    if kind == "csv":
        return CsvManifest(url, storage, path_column)
    if kind == "jsonl":
        return JsonlManifest(url, storage, path_column)
    if kind == "json":
        return CocoManifest(url, storage)
    return ParquetManifest(url, [url], storage, path_column)


def _open_folder(url: str, storage: Storage, path_column: str | None, with_etag: bool) -> Reader:
    """Open a folder: its pictures, or its Parquet parts where it has no picture but those."""
    pictures = PictureTree(url, storage, with_etag, is_glob=False)
    if pictures.is_empty() and (parts := list_parts(url, storage)):
        return ParquetManifest(url, parts, storage, path_column)
    return pictures
