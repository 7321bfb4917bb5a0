"""Inputs that are pictures themselves: single ones, folders, globs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice

import pyarrow as pa
from fsspec.utils import glob_translate

from sodbatch.manifest.rows import SOURCE_SCHEMA
from sodbatch.storage import FileInfo, Storage, display_column, display_uri, is_s3, local_path, local_source
from sodbatch.storage.local import any_file, walk
from sodbatch.storage.uris import split_version

SUFFIXES = frozenset(
    [
        "bmp",
        "dib",
        "jpeg",
        "jpg",
        "png",
        "webp",
        "pbm",
        "pgm",
        "ppm",
        "pnm",
        "sr",
        "ras",
        "tif",
        "tiff",
        "pdf",
    ]
)
"""Those that PaddleX's image reader takes."""

_MAGIC = re.compile(r"[*?\[]")


def suffix(name: str) -> str:
    """Return what follows the last dot of a file's name, in lower case."""
    return name.rsplit("/", 1)[-1].rpartition(".")[2].lower() if "." in name.rsplit("/", 1)[-1] else ""


class PictureList:
    """Pictures named one by one."""

    passthrough = pa.schema([])
    expected = "a picture"

    def __init__(self, sources: list[str]) -> None:
        self.sources = sources
        self.name = display_uri(sources[0])

    def tables(self, rows: int) -> Iterator[pa.Table]:
        """Stream the pictures in the order given."""
        yield from _source_tables(((source, None) for source in self.sources), rows)

    def count_hint(self) -> int | None:
        """Return their number."""
        return len(self.sources)


class PictureTree:
    """The pictures under a folder, or those among them whose path a glob matches, in the order of the listing.

    Args:
        url: The folder or the glob.
        storage: Lists it.
        with_etag: Give the etags that the listing has; a local file costs a ``stat`` for it.
    """

    passthrough = pa.schema([])

    def __init__(self, url: str, storage: Storage, with_etag: bool, *, is_glob: bool) -> None:
        self.name = display_uri(url)
        self.expected = f"files that end in {', '.join(sorted(SUFFIXES))}"
        self._storage = storage
        self._with_etag = with_etag
        self._path = local_path(url)
        self._url = local_source(self._path) if self._path is not None else url
        self._is_glob = is_glob

    def tables(self, rows: int) -> Iterator[pa.Table]:
        """Stream the pictures found."""
        matches = re.compile(glob_translate(self._url)).match if self._is_glob else None
        found = (
            (info.url, info.etag if self._with_etag else None)
            for info in self._listing()
            if suffix(name := split_version(info.url)[0]) in SUFFIXES and (matches is None or matches(name))
        )
        yield from _source_tables(found, rows)

    def is_empty(self) -> bool:
        """Tell whether there is no picture, without sorting a large folder for that."""
        if self._path is not None and not self._is_glob:
            return not any_file(self._path, lambda path: suffix(path) in SUFFIXES)
        return next(self.tables(1), None) is None

    def count_hint(self) -> int | None:
        """Return None: a listing is not counted ahead."""
        return None

    def _listing(self) -> Iterator[FileInfo]:
        folder = literal_folder(self._url) if self._is_glob else self._url
        if self._path is None and is_s3(self._url) and self._is_glob:
            yield from self._storage.list_prefix(_literal(self._url))
        elif self._path is None or self._with_etag:
            yield from self._storage.list_files(folder)
        else:
            depth = self._url.count("/") if self._is_glob and "**" not in self._url else None
            for path in walk(local_path(folder) or "/", depth):
                yield FileInfo(_quick_source(path), None, None)


def has_magic(url: str) -> bool:
    """Tell whether a path or URL has the characters of a glob."""
    return _MAGIC.search(url) is not None


def literal_folder(source: str) -> str:
    """Return the folder that all matches of a glob lie in: what stands before the part with its first ``* ? [``.

    ``/a/b*/c.jpg`` lies in ``/a``, ``*.jpg`` in ``.``. What is no glob is returned as it is.
    """
    if not has_magic(source):
        return source
    folder, slash, _ = _literal(source).rpartition("/")
    return folder or slash or "."


def _literal(glob: str) -> str:
    """Return a glob's text before its first special character."""
    return _MAGIC.split(glob, maxsplit=1)[0]


def _quick_source(path: str) -> str:
    """Name a file of a walk from an absolute folder, which needs no normalisation."""
    return path if path.isascii() else local_source(path)


def _source_tables(found: Iterable[tuple[str, str | None]], rows: int) -> Iterator[pa.Table]:
    iterator = iter(found)
    while chunk := list(islice(iterator, rows)):
        sources = pa.array([source for source, _ in chunk], pa.string())
        etags = pa.array([etag for _, etag in chunk], pa.string())
        yield pa.table([sources, display_column(sources), etags], schema=SOURCE_SCHEMA)
